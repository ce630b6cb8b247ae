"""What a classifier reaches on the rows of which it is sure enough."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fm_med import metrics as measured
from fm_med.metrics import Interval
from fm_med.report.page import Section, Table
from fm_med.report.results import interval_table
from fm_med.tasks import ClassificationTask


@dataclass(frozen=True)
class Called:
    """Rows, which of them were called a class, and rightly.

    Attributes:
        label: (rows,) class numbers.
        accepted: (rows,) bool, whether the confidence reaches the threshold.
        right: (rows,) bool, whether the most probable class is the true one.
        threshold: Of the confidence, from the rows of validation.
    """

    label: np.ndarray
    accepted: np.ndarray
    right: np.ndarray
    threshold: float


def called(
    task: ClassificationTask, label: np.ndarray, outputs: np.ndarray, threshold: float
) -> Called:
    """Find the rows that are called a class.

    Args:
        task: Of the model.
        label: (rows,) class numbers.
        outputs: (rows, classes) of the head.
        threshold: As `ClassificationTask.decisions`.
    """
    accepted = task.confidence(outputs) >= threshold
    return Called(label, accepted, outputs.argmax(1) == label, threshold)


def called_scores(rows: Called, subject_id: np.ndarray) -> dict[str, Interval]:
    """Return `coverage`, the share of rows that are called, and how often those are right."""
    accepted, right = rows.accepted.astype(np.float64), rows.right.astype(np.float64)
    return {
        "coverage": measured.bootstrap(measured.mean, subject_id, accepted),
        "accuracy_of_called": measured.bootstrap(_share_right, subject_id, accepted, right),
    }


def called_section(rows: Called, scores: dict[str, Interval], task: ClassificationTask) -> Section:
    """Return the part of the page on rows that are called no class."""
    rejected = f"no confident {task.columns[0]}"
    text = (
        f"Below a confidence of {rows.threshold:.3f}, chosen on validation rows when the model was "
        f"trained, it says “{rejected}” instead of a class."
    )
    numbers = interval_table(
        {
            "Share of rows that are called a class": scores["coverage"],
            "Accuracy on them": scores["accuracy_of_called"],
        },
        caption="Coverage, and accuracy where the model speaks.",
    )
    cells = [
        _class_row(rows, number, name)
        for number, name in enumerate(task.classes)
        if (rows.label == number).any()
    ]
    table = Table(
        ("Class", "Rows", "Called a class", "Called rightly"), cells, "Rows by their true class."
    )
    return Section("When is it sure enough?", text, [numbers, table])


def _class_row(rows: Called, number: int, name: str) -> Sequence[str]:
    own = rows.label == number
    accepted = own & rows.accepted
    return (name, f"{own.sum():,}", f"{accepted.sum():,}", f"{(accepted & rows.right).sum():,}")


def _share_right(
    accepted: np.ndarray, right: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the share of accepted rows that are right; NaN where none is accepted."""
    counts = np.ones((len(accepted), 1)) if multiplicity is None else multiplicity
    known, good = accepted @ counts, (accepted * right) @ counts
    share = np.divide(good, known, out=np.full(known.shape, np.nan), where=known > 0)
    return float(share[0]) if multiplicity is None else share
