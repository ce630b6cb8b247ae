"""What a fine-tuned model reaches on rows it never saw, beside the clinical covariates alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.examples import Examples
from fm_med.metrics import (
    Interval,
    balanced_accuracy,
    bootstrap,
    macro_auroc,
    macro_f1,
    mcc,
    mean,
    paired_difference,
)
from fm_med.metrics import accuracy as share_right
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_interval,
)
from fm_med.tasks import FollowUpTask, Task

Metrics = dict[str, Any]  # leaves are intervals; nested by cause where risks compete


@dataclass(frozen=True)
class Prediction:
    """Rows with what a model says about them, and what the clinical part alone says.

    Attributes:
        examples: The rows.
        outputs: (rows,) or (rows, outputs) of the model.
        clinical: The same of the clinical covariates alone; None where there are none.
    """

    examples: Examples
    outputs: np.ndarray
    clinical: np.ndarray | None = None


def split_metrics(task: Task, prediction: Prediction) -> dict[str, Any]:
    """Return the metrics of the model, of the clinical part, and their paired difference.

    Returns:
        `model.<metric>`, and with covariates `baselines.clinical.<metric>` and
        `difference.clinical.<metric>`, nested; leaves are intervals over patients.
    """
    metrics: dict[str, Any] = {"model": _metrics(task, prediction.examples, prediction.outputs)}
    if prediction.clinical is not None:
        metrics["baselines"] = {
            "clinical": _metrics(task, prediction.examples, prediction.clinical)
        }
        metrics["difference"] = {"clinical": _differences(task, prediction)}
    return metrics


def _metrics(task: Task, examples: Examples, outputs: np.ndarray) -> Metrics:
    if isinstance(task, FollowUpTask):
        ranked = task.ranked(outputs, examples.targets)
        each = {name: _c_index(examples, event, risk) for name, (event, risk) in ranked.items()}
        if len(each) == 1:
            return {"c_index": each[""]}
        causes = {name: {"c_index": found} for name, found in each.items()}
        return {"c_index": _mean_c_index(examples, ranked)} | causes
    truth, called = _comparable(task, examples, outputs)
    return {
        name: bootstrap(statistic, examples.subject_id, truth, called[kind])
        for name, (statistic, kind) in _STATISTICS[task.name].items()
    }


def _differences(task: Task, prediction: Prediction) -> Metrics:
    examples = prediction.examples
    if isinstance(task, FollowUpTask):
        ranked = task.ranked(prediction.outputs, examples.targets)
        other = task.ranked(np.asarray(prediction.clinical), examples.targets)
        each = {
            name: {"c_index": _c_gain(examples, event, risk, other[name][1])}
            for name, (event, risk) in ranked.items()
        }
        return each[""] if "" in each else each
    truth, model = _comparable(task, examples, prediction.outputs)
    other = _comparable(task, examples, np.asarray(prediction.clinical))[1]
    return {
        name: paired_difference(statistic, examples.subject_id, model[kind], other[kind], truth)
        for name, (statistic, kind) in _STATISTICS[task.name].items()
    }


def _c_index(examples: Examples, event: np.ndarray, risk: np.ndarray) -> Interval:
    """Return Harrell's C; not defined without events."""
    if not event.any():
        return Interval(np.nan, np.nan, np.nan, len(np.unique(examples.subject_id)))
    time, who = examples.targets["time"], examples.subject_id
    return concordance_interval(time, event, risk, subject_id=who)


def _c_gain(examples: Examples, event: np.ndarray, risk: np.ndarray, other: np.ndarray) -> Interval:
    """Return Harrell's C minus that of another risk; not defined without events."""
    if not event.any():
        return Interval(np.nan, np.nan, np.nan, len(np.unique(examples.subject_id)))
    time, who = examples.targets["time"], examples.subject_id
    return concordance_difference(time, event, risk, other, subject_id=who)[0]


def _mean_c_index(examples: Examples, ranked: Mapping[str, Any]) -> Interval:
    """Return the mean of Harrell's C over the causes that occur."""
    pairs = [(event, risk) for event, risk in ranked.values() if event.any()]
    if not pairs:
        return Interval(np.nan, np.nan, np.nan, len(np.unique(examples.subject_id)))

    def statistic(
        time: np.ndarray,
        events: np.ndarray,
        risks: np.ndarray,
        *,
        multiplicity: np.ndarray | None = None,
    ) -> float | np.ndarray:
        each = [
            concordance_index(time, event, risk, multiplicity=multiplicity)
            for event, risk in zip(events.T, risks.T)
        ]
        return np.asarray(each).mean(axis=0)

    events, risks = (np.stack(part, axis=1) for part in zip(*pairs))
    return bootstrap(statistic, examples.subject_id, examples.targets["time"], events, risks)


def _absolute_error(
    truth: np.ndarray, value: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    return mean(np.abs(value - truth), multiplicity=multiplicity)


def _one_against_rest(
    truth: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Macro AUROC of each class against all others."""
    label = truth[:, None] == np.arange(score.shape[1])
    return macro_auroc(label, score, multiplicity=multiplicity)


def _r2(
    truth: np.ndarray, value: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """1 - squared error over variance around the mean of the rows at hand."""
    weight = np.ones((len(truth), 1)) if multiplicity is None else multiplicity
    centre = (truth @ weight) / weight.sum(0)
    spread = np.einsum("rk,rk->k", weight, (truth[:, None] - centre) ** 2)
    found = 1 - ((value - truth) ** 2 @ weight) / spread
    return float(found[0]) if multiplicity is None else found


# Metric -> (statistic, whether it needs the "score" or the "class").
_STATISTICS: dict[str, dict[str, tuple[Any, str]]] = {
    "multilabel": {"macro_auroc": (macro_auroc, "score")},
    "classification": {
        "macro_auroc": (_one_against_rest, "score"),
        "accuracy": (share_right, "class"),
        "balanced_accuracy": (balanced_accuracy, "class"),
        "macro_f1": (macro_f1, "class"),
        "mcc": (mcc, "class"),
    },
    "regression": {"mean_absolute_error": (_absolute_error, "score"), "r2": (_r2, "score")},
}


def _comparable(
    task: Task, examples: Examples, outputs: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the truth and the predictions in the forms that the statistics need."""
    if task.name == "regression":
        return examples.targets["target"].astype(np.float64), {"score": outputs.astype(np.float64)}
    label = examples.targets["label"]
    if task.name == "multilabel":
        return label, {"score": outputs}
    return label, {"score": outputs, "class": outputs.argmax(1)}


def prediction_columns(task: Task, prediction: Prediction) -> dict[str, np.ndarray | list]:
    """Return a table of predictions: ids, split, targets, the model's columns."""
    examples = prediction.examples
    columns: dict[str, Any] = {
        "record_id": examples.record_id,
        "subject_id": examples.subject_id,
        "split": examples.split,
    }
    if isinstance(task, FollowUpTask):
        columns |= {name: examples.targets[name] for name in ("time", "event")}
        if "cause" in examples.targets:
            names = np.array(["", *task.classes], dtype=object)
            columns["cause"] = names[examples.targets["cause"]]
    elif task.name == "multilabel":
        label = examples.targets["label"]
        columns |= {f"label_{name}": label[:, k] for k, name in enumerate(task.classes)}
    elif task.name == "classification":
        columns["label"] = [task.classes[k] for k in examples.targets["label"]]
    else:
        columns |= examples.targets
    columns |= task.columns_of(prediction.outputs)
    if prediction.clinical is not None:
        named = task.columns_of(prediction.clinical)
        columns |= {f"clinical_{name}": value for name, value in named.items()}
    return columns


def fold_summary(folds: Sequence[Mapping[str, Any]], persons: int, *, repeats: int) -> Any:
    """Average metrics over folds, with an interval over the persons.

    The folds of one repeat hold different persons, so that the errors of their scores add up as
    independent ones do; repeats judge the same persons again and do not narrow the interval. That
    the models differ from fold to fold is not part of it.

    Args:
        folds: Metrics of each fold: nested dicts with leaves {"value", "low", "high", "n"}.
        persons: Number of persons, for `n`.
        repeats: How often each person was held out.

    Returns:
        The same nesting with intervals; folds in which a metric is not defined are left out.
    """
    first = folds[0]
    if "value" not in first:
        return {
            name: fold_summary([fold[name] for fold in folds], persons, repeats=repeats)
            for name in first
        }
    defined = [fold for fold in folds if fold["value"] is not None]
    value = float(np.mean([fold["value"] for fold in defined])) if defined else np.nan
    widths = [fold["high"] - fold["low"] for fold in defined if fold["low"] is not None]
    reach = np.nan
    if 2 * len(widths) > len(folds):
        per_repeat = max(1.0, len(defined) / repeats)
        reach = float(np.sqrt(np.square(widths).mean() / per_repeat)) / 2
    return Interval(value, value - reach, value + reach, persons, len(folds) - len(defined))


def summary(title: str, metrics: Mapping[str, Any]) -> str:
    """Return metrics as a small table for the terminal."""
    lines = [title]
    for path, leaf in _leaves(metrics):
        lines.append(f"  {' '.join(path):<36}{leaf}")
    return "\n".join(lines)


def _leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[Any, Interval]]:
    found: list[tuple[Any, Interval]] = []
    for name, child in node.items():
        if isinstance(child, Interval):
            found.append(((*path, name), child))
        elif isinstance(child, Mapping):
            found += _leaves(child, (*path, name))
    return found
