"""A number, such as an ejection fraction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.objectives import huber_loss, squared_error_loss
from fm_med.tasks.task import Targets, Task, Tensors

QUINTILES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class RegressionTask(Task):
    """Predict a number in its own unit.

    Attributes:
        mean: Of the training targets.
        scale: Standard deviation of the training targets; the loss is in units of it.
    """

    name = "regression"
    output_name = "value"
    losses = ("huber", "mse")
    score_names = ("validation_loss", "mean_absolute_error", "r2")

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Take the given column, or "target".

        Raises:
            InputError: Not one column.
        """
        names = tuple(columns) if columns else ("target",)
        if len(names) != 1:
            raise InputError(f"the task regression has one target column, not {len(names)}")
        task = cls(columns=names, loss_name=loss)
        targets = task.targets(cohort, "train")
        target = targets["target"][task.usable(targets)].astype(np.float64)
        if not len(target) or not target.std() > 0:
            raise InputError(
                f"{cohort.path}: the training rows of {names[0]!r} are missing or all the same"
            )
        return replace(task, mean=float(target.mean()), scale=float(target.std()))

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `target` (rows,) float32, NaN where not known.

        Raises:
            InputError: The column is missing or holds no numbers.
        """
        values = cohort.column(split, self.columns[0])
        if not isinstance(values, np.ndarray):
            raise InputError(
                f"{cohort.path}, split {split!r}: the column {self.columns[0]!r} holds no numbers"
            )
        return {"target": values.astype(np.float32)}

    def usable(self, targets: Targets) -> np.ndarray:
        """Keep rows with a finite number."""
        return np.isfinite(targets["target"])

    def check(self, targets: Targets, where: str) -> None:
        """Refuse rows that all have the same number."""
        if not len(targets["target"]) or not np.ptp(targets["target"]) > 0:
            raise InputError(f"{where}: all rows of {self.columns[0]!r} have the same value")

    def balanced(self, targets: Targets) -> Self:  # noqa: ARG002
        """Refuse: a number is neither rare nor frequent."""
        raise InputError("imbalance 'weight' is for labels and classes, and this task has a number")

    def strata(self, targets: Targets) -> np.ndarray:
        """Return the fifth of the distribution that the row lies in."""
        return np.searchsorted(np.quantile(targets["target"], QUINTILES), targets["target"])

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the loss of the batch in units of the training standard deviation."""
        value = (outputs["value"] - self.mean) / self.scale
        target = (targets["target"] - self.mean) / self.scale
        if self.loss_name == "mse":
            return squared_error_loss(value, target=target)
        return huber_loss(value, target=target)

    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Return squared error over variance of training, mean absolute error, and R squared."""
        error = outputs.astype(np.float64) - targets["target"]
        spread = float(np.var(targets["target"].astype(np.float64)))
        return {
            "validation_loss": float(np.square(error / self.scale).mean()),
            "mean_absolute_error": float(np.abs(error).mean()),
            "r2": 1 - float(np.square(error).mean()) / spread if spread > 0 else float("nan"),
        }
