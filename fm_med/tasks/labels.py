"""Labels that may occur together, and classes of which one applies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.metrics import accuracy, balanced_accuracy, macro_auroc, macro_f1
from fm_med.objectives import asymmetric_loss, bce_loss, cross_entropy_loss, focal_loss
from fm_med.tasks.task import ROW_WEIGHT, Targets, Task, Tensors

# A label that occurs once in ten thousand rows would otherwise outweigh all others.
MAXIMUM_WEIGHT = 100.0


@dataclass(frozen=True)
class MultilabelTask(Task):
    """Predict which labels apply; any number of them may.

    Attributes:
        pos_weight: Weight of a present label, per label; empty for 1.
    """

    name = "multilabel"
    output_name = "logits"
    losses = ("bce", "focal", "asymmetric")
    score_names = ("validation_loss", "macro_auroc")

    pos_weight: tuple[float, ...] = ()

    @classmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Take the given label columns or label set, or the card's first label set.

        Raises:
            InputError: The card has no label set and no columns are given.
        """
        names = label_columns(cohort, columns)
        if not names:
            raise InputError(
                f"{cohort.path} has no label set; name the label columns with --target"
            )
        return cls(columns=names, classes=names, loss_name=loss)

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `label` (rows, labels) float32 of 0, 1 and NaN where not known.

        Raises:
            InputError: A column is missing or holds other values.
        """
        columns = []
        for name in self.columns:
            values = cohort.column(split, name)
            number = np.asarray(values, np.float32) if isinstance(values, np.ndarray) else None
            if number is None or not np.isin(number[~np.isnan(number)], (0, 1)).all():
                raise InputError(
                    f"{cohort.path}, split {split!r}: the label column {name!r} holds other values "
                    "than true, false and null"
                )
            columns.append(number)
        return {"label": np.stack(columns, 1)}

    def usable(self, targets: Targets) -> np.ndarray:
        """Keep rows of which some label is known."""
        return np.asarray((~np.isnan(targets["label"])).any(1))

    def check(self, targets: Targets, where: str) -> None:
        """Refuse labels that are always or never there."""
        share = np.nanmean(targets["label"], 0)
        for names, what in ((share == 0, "never"), (share == 1, "always")):
            if names.any():
                wrong = ", ".join(np.array(self.classes)[names])
                raise InputError(f"{where}: label(s) {what} present, so not learnable: {wrong}")

    def balanced(self, targets: Targets) -> Self:
        """Weigh a present label by absent over present rows.

        Raises:
            InputError: The loss has a balance of its own.
        """
        if self.loss_name == "asymmetric":
            raise InputError(
                "the asymmetric loss weighs absent labels by itself; leave out imbalance 'weight'"
            )
        present = np.nansum(targets["label"], 0)
        absent = (~np.isnan(targets["label"])).sum(0) - present
        weight = np.clip(absent / np.maximum(present, 1), 1 / MAXIMUM_WEIGHT, MAXIMUM_WEIGHT)
        return replace(self, pos_weight=tuple(weight.tolist()))

    def strata(self, targets: Targets) -> np.ndarray:
        """Return the row's rarest label plus 1, or 0 for none."""
        label = np.nan_to_num(targets["label"])
        count = np.where(label > 0, label.sum(0), np.inf)
        return np.where(label.any(1), count.argmin(1) + 1, 0).astype(np.int64)

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the mean over all known labels of the batch."""
        logits, label, rows = outputs["logits"], targets["label"], targets.get(ROW_WEIGHT)
        weight = logits.new_tensor(self.pos_weight) if self.pos_weight else None
        if self.loss_name == "focal":
            return focal_loss(logits, label=label, pos_weight=weight, row_weight=rows)
        if self.loss_name == "asymmetric":
            return asymmetric_loss(logits, label=label, row_weight=rows)
        return bce_loss(logits, label=label, pos_weight=weight, row_weight=rows)

    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Return unweighted cross-entropy and macro AUROC."""
        logits = torch.from_numpy(outputs.astype(np.float64))
        loss = bce_loss(logits, label=torch.from_numpy(targets["label"]))
        auroc = float(macro_auroc(targets["label"], outputs))
        return {"validation_loss": float(loss), "macro_auroc": auroc}

    def columns_of(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return one column of probabilities per label."""
        probability = 1 / (1 + np.exp(-outputs.astype(np.float64)))
        return {f"probability_{name}": probability[:, k] for k, name in enumerate(self.classes)}


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Predict which one of several classes applies.

    Attributes:
        class_weight: Weight of the rows of each class; empty for 1.
    """

    name = "classification"
    output_name = "logits"
    losses = ("cross_entropy",)
    score_names = ("validation_loss", "accuracy", "balanced_accuracy", "macro_f1")

    class_weight: tuple[float, ...] = ()

    @classmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Take the classes that occur in the column's training rows, sorted.

        Without a column, the card's only column of classes is meant, else "label".

        Raises:
            InputError: Not one column, or fewer than two classes.
        """
        known = tuple(cohort.card.classes)
        if not columns and len(known) > 1 and "label" not in known:
            raise InputError(
                f"{cohort.path} has several columns of classes; choose one of "
                f"{', '.join(known)} with --target"
            )
        names = tuple(columns) if columns else known if len(known) == 1 else ("label",)
        if len(names) != 1:
            raise InputError(f"the task classification has one target column, not {len(names)}")
        found = {text for text in _texts(cohort.column("train", names[0])) if text is not None}
        if len(found) < 2:
            raise InputError(
                f"{cohort.path}: column {names[0]!r} has {len(found)} class(es) in the training "
                "split, expected two or more"
            )
        return cls(columns=names, classes=tuple(sorted(found, key=_sort_key)), loss_name=loss)

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `label` (rows,) int64 class numbers, -1 where not known.

        Raises:
            InputError: A class does not occur in the training split.
        """
        number = {name: k for k, name in enumerate(self.classes)} | {None: -1}
        texts = _texts(cohort.column(split, self.columns[0]))
        foreign = sorted({str(text) for text in texts if text not in number})
        if foreign:
            raise InputError(
                f"{cohort.path}, split {split!r}: column {self.columns[0]!r} has class(es) that "
                f"the training split lacks: {', '.join(foreign[:5])}"
            )
        return {"label": np.array([number[text] for text in texts], np.int64)}

    def usable(self, targets: Targets) -> np.ndarray:
        """Keep rows of a known class."""
        return targets["label"] >= 0

    def check(self, targets: Targets, where: str) -> None:
        """Refuse rows of one class only."""
        if len(np.unique(targets["label"])) < 2:
            raise InputError(f"{where}: all rows of {self.columns[0]!r} have the same class")

    def balanced(self, targets: Targets) -> Self:
        """Weigh the rows of a class by the inverse of its share."""
        count = np.bincount(targets["label"], minlength=len(self.classes))
        weight = count.sum() / (len(self.classes) * np.maximum(count, 1))
        return replace(self, class_weight=tuple(np.minimum(weight, MAXIMUM_WEIGHT).tolist()))

    def strata(self, targets: Targets) -> np.ndarray:
        """Return the class."""
        return targets["label"]

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the cross-entropy of the batch."""
        logits, rows = outputs["logits"], targets.get(ROW_WEIGHT)
        weight = logits.new_tensor(self.class_weight) if self.class_weight else None
        return cross_entropy_loss(
            logits, label=targets["label"], class_weight=weight, row_weight=rows
        )

    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Return unweighted cross-entropy and how often the largest logit is right."""
        label, called = targets["label"], outputs.argmax(1)
        logits = torch.from_numpy(outputs.astype(np.float64))
        return {
            "validation_loss": float(cross_entropy_loss(logits, label=torch.from_numpy(label))),
            "accuracy": float(accuracy(label, called)),
            "balanced_accuracy": float(balanced_accuracy(label, called)),
            "macro_f1": float(macro_f1(label, called)),
        }

    def columns_of(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return one column of probabilities per class."""
        shifted = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
        probability = shifted / shifted.sum(1, keepdims=True)
        return {f"probability_{name}": probability[:, k] for k, name in enumerate(self.classes)}

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        """Return (rows,) the probability of the most probable class."""
        return np.stack(list(self.columns_of(outputs).values()), 1).max(1)

    def decisions(self, outputs: np.ndarray, threshold: float | None) -> dict[str, np.ndarray]:
        """Return the class that each row is called.

        Args:
            outputs: (rows, classes) of the head.
            threshold: Rows of a smaller `confidence` are called no class; None calls every row.

        Returns:
            `predicted` (rows,) str, "no confident <column>" below the threshold; with a threshold
            also `confident` (rows,) bool.
        """
        called = np.array(self.classes, dtype=object)[outputs.argmax(1)]
        if threshold is None:
            return {"predicted": called}
        confident = self.confidence(outputs) >= threshold
        called[~confident] = f"no confident {self.columns[0]}"
        return {"predicted": called, "confident": confident}


def label_columns(cohort: Cohort, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Return label columns: as given, of the label set of that name, or of the first set."""
    sets = cohort.card.label_sets
    if not columns:
        return tuple(next(iter(sets.values()), ()))
    if len(columns) == 1 and columns[0] in sets:
        return tuple(sets[columns[0]])
    return tuple(columns)


def _texts(values: Any) -> list[str | None]:
    """Return classes as texts: 3.0 and 3 are one class, null and NaN none."""
    if isinstance(values, np.ndarray):
        if values.dtype == bool:
            return ["true" if value else "false" for value in values]
        return [None if value != value else f"{value:g}" for value in values.tolist()]
    return [None if value is None else str(value) for value in values]


def _sort_key(text: str) -> tuple[bool, float, str]:
    """Sort numbers by size, before words."""
    number = text.replace(".", "", 1).replace("-", "", 1).isdigit()
    return (not number, float(text) if number else 0.0, text)
