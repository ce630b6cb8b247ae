"""What all tasks have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from fm_med.cohort import Cohort

Targets = dict[str, np.ndarray]
Tensors = Mapping[str, Tensor]
ROW_WEIGHT = "row_weight"  # beside the targets where a fit weighs the rows of labels or classes


@dataclass(frozen=True)
class Task(ABC):
    """A task; immutable, and saved with the model as JSON.

    Attributes:
        columns: Target columns of the cohort.
        classes: Names of the labels or classes, in the order of the outputs.
        loss_name: One of `losses`.
    """

    name: ClassVar[str]
    output_name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    score_names: ClassVar[tuple[str, ...]]
    # Scores that are better when higher; all others are losses.
    higher_is_better: ClassVar[frozenset[str]] = frozenset(
        {"c_index", "macro_auroc", "accuracy", "balanced_accuracy", "macro_f1", "r2"}
    )

    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    loss_name: str = ""

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return max(1, len(self.classes))

    @property
    def squeeze(self) -> bool:
        """Whether the head gives (batch,) numbers rather than (batch, outputs)."""
        return not self.classes

    @classmethod
    @abstractmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Make the task from what a cohort's card states and its training split holds."""

    @abstractmethod
    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read the targets of every row of a split.

        Raises:
            InputError: A column is missing or holds what cannot be a target.
        """

    @abstractmethod
    def usable(self, targets: Targets) -> np.ndarray:
        """Tell which rows have a target; (rows,) bool."""

    @abstractmethod
    def check(self, targets: Targets, where: str) -> None:
        """Refuse targets from which nothing can be learnt.

        Raises:
            InputError: No events, all events, a label or class that never occurs.
        """

    def fitted(self, targets: Targets) -> Self:  # noqa: ARG002
        """Return the task with what it takes from the rows that a fit learns from.

        Each fold and the final fit have their own, so that nothing of held-out rows gets in.

        Raises:
            InputError: Nothing can be learnt from these rows.
        """
        return self

    @abstractmethod
    def balanced(self, targets: Targets) -> Self:
        """Return the task with rare labels weighted up, by the training targets.

        Raises:
            InputError: It has none.
        """

    @abstractmethod
    def strata(self, targets: Targets) -> np.ndarray:
        """Return (rows,) int64: what folds and batches hold in equal shares."""

    @abstractmethod
    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the loss of a whole batch, gathered over all processes."""

    @abstractmethod
    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Score a whole split; `validation_loss` is unweighted and the default to select on.

        Args:
            outputs: (rows,) or (rows, classes), the head's output.
            targets: Of the same rows.
        """

    def columns_of(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs as named columns of a table of predictions."""
        return {self.output_name: outputs}

    def to_dict(self) -> dict[str, Any]:
        """Return what `task_from_dict` needs; JSON values only."""
        values = asdict(self)
        return {"name": self.name} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }
