"""What is measured on labels, classes and numbers, all made for the vectorised bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from fm_med import metrics
from fm_med.metrics import Interval
from fm_med.tasks import Targets, Task


@dataclass(frozen=True)
class Answer:
    """The truth and a model's prediction, in every form that a statistic may need.

    Attributes:
        truth: (rows,) class numbers or numbers, or (rows, labels) with NaN where not known.
        form: "score", "probability" and, for classes, "class".
        label: (rows, labels) 0, 1 and NaN, for each label or class; empty for numbers.
    """

    truth: np.ndarray
    form: dict[str, np.ndarray]
    label: np.ndarray


def answer(task: Task, targets: Targets, outputs: np.ndarray) -> Answer:
    """Bring targets and outputs of a task into the forms of its statistics."""
    if task.name == "regression":
        truth = targets["target"].astype(np.float64)
        return Answer(truth, {"score": outputs}, np.empty((len(truth), 0)))
    if task.name == "multilabel":
        label = targets["label"].astype(np.float64)
        return Answer(label, {"score": outputs, "probability": expit(outputs)}, label)
    number = targets["label"]
    form = {
        "score": outputs,
        "probability": softmax(outputs, axis=1),
        "class": outputs.argmax(1),
    }
    return Answer(number, form, (number[:, None] == np.arange(outputs.shape[1])).astype(float))


def per_label(task: Task, one: Answer, who: np.ndarray) -> dict[str, Interval]:
    """Return the AUROC of each label or class against the rest; nothing for two classes."""
    if one.label.shape[1] < 3:
        return {}
    found = {}
    for place, name in enumerate(task.classes):
        known = ~np.isnan(one.label[:, place])
        label, score = one.label[known, place], one.form["score"][known, place]
        found[name] = Interval(np.nan, np.nan, np.nan, len(label))
        if 0 < label.sum() < len(label):
            found[name] = metrics.bootstrap(metrics.auroc, who[known], label, score)
    return found


def _one_against_rest(
    truth: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the mean AUROC of each class against all others."""
    label = truth[:, None] == np.arange(score.shape[1])
    return metrics.macro_auroc(label, score, multiplicity=multiplicity)


def _macro_precision(
    truth: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the mean average precision over labels that occur; unknown ones are left out."""
    values = []
    for label, one in zip(truth.T, score.T):
        known = ~np.isnan(label)
        if (label[known] == 1).any():
            counts = None if multiplicity is None else multiplicity[known]
            values.append(metrics.average_precision(label[known], one[known], multiplicity=counts))
    resamples = 1 if multiplicity is None else multiplicity.shape[1]
    table = np.array(values, dtype=np.float64).reshape(len(values), resamples)
    defined = ~np.isnan(table)
    count = defined.sum(0)
    mean = np.where(count > 0, np.where(defined, table, 0).sum(0) / np.maximum(count, 1), np.nan)
    return float(mean[0]) if multiplicity is None else mean


def _known_brier(
    truth: np.ndarray, probability: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the mean squared error over all known labels."""
    known = ~np.isnan(truth)
    error = np.where(known, np.square(probability - np.nan_to_num(truth)), 0.0).sum(1)
    weight = np.ones((len(truth), 1)) if multiplicity is None else multiplicity
    mean = (error @ weight) / (known.sum(1) @ weight)
    return float(mean[0]) if multiplicity is None else mean


def _absolute_error(
    truth: np.ndarray, value: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    return metrics.mean(np.abs(value - truth), multiplicity=multiplicity)


def _r2(
    truth: np.ndarray, value: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return 1 - squared error over variance around the mean of the rows at hand."""
    weight = np.ones((len(truth), 1)) if multiplicity is None else multiplicity
    centre = (truth @ weight) / weight.sum(0)
    spread = np.einsum("rk,rk->k", weight, (truth[:, None] - centre) ** 2)
    found = 1 - ((value - truth) ** 2 @ weight) / spread
    return float(found[0]) if multiplicity is None else found


# Metric -> (statistic, the form of the prediction that it needs).
STATISTICS: dict[str, dict[str, tuple[Callable[..., Any], str]]] = {
    "multilabel": {
        "macro_auroc": (metrics.macro_auroc, "score"),
        "average_precision": (_macro_precision, "score"),
        "brier": (_known_brier, "probability"),
    },
    "classification": {
        "macro_auroc": (_one_against_rest, "score"),
        "accuracy": (metrics.accuracy, "class"),
        "balanced_accuracy": (metrics.balanced_accuracy, "class"),
        "macro_f1": (metrics.macro_f1, "class"),
        "mcc": (metrics.mcc, "class"),
        "brier": (metrics.brier, "probability"),
        "ece": (metrics.ece, "probability"),
    },
    "regression": {"r2": (_r2, "score"), "mean_absolute_error": (_absolute_error, "score")},
}
