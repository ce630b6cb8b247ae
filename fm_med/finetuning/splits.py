"""The rows of a cohort as they are used: to learn from, to choose by, to judge."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from fm_med.examples import Examples
from fm_med.folds import hold_out
from fm_med.tasks import CompetingRisksTask, FollowUpTask, Task


@dataclass(frozen=True)
class Split:
    """Three sets of rows of different persons.

    Attributes:
        train: To learn from.
        validation: To choose the best epoch by.
        test: To judge; None where the cohort has no such split.
    """

    train: Examples
    validation: Examples
    test: Examples | None

    @classmethod
    def of(cls, examples: Examples, task: Task, *, share: float, seed: int) -> Self:
        """Take the cohort's splits; without a validation split hold out some training rows.

        Args:
            examples: Of all splits.
            task: Refuses training rows from which nothing can be learnt.
            share: Of the training rows to hold out, if need be.
            seed: Of that choice.

        Raises:
            InputError: No events, all events, a label that never occurs.
        """
        train = examples.of_splits(["train"])
        task.check(train.targets, f"the training split of {examples.cohort.path}")
        names = set(examples.split.tolist())
        if "validation" in names:
            validation = examples.of_splits(["validation"])
        else:
            strata = task.strata(train.targets)
            keep, held_out = hold_out(strata, train.subject_id, share=share, seed=seed)
            train, validation = train.take(keep), train.take(held_out)
        return cls(train, validation, examples.of_splits(["test"]) if "test" in names else None)

    def describe(self, task: Task) -> str:
        """Return rows, persons and events of each part, and how many rows have no target."""
        lines = []
        for name, part in self.parts().items():
            line = f"{name:<11}{len(part):>7} rows {len(np.unique(part.subject_id)):>7} persons"
            if isinstance(task, FollowUpTask):
                line += f" {int(part.targets['event'].sum()):>6} events"
            if isinstance(task, CompetingRisksTask):
                causes = task.events_by_cause(part.targets).items()
                line += f" ({', '.join(f'{name} {count}' for name, count in causes)})"
            lines.append(line)
        if self.train.left_out:
            lines.append(f"left out   {self.train.left_out:>7} rows without a usable target")
        return "\n".join(lines)

    def parts(self) -> dict[str, Examples]:
        """Return the parts that there are, by name."""
        parts = {"train": self.train, "validation": self.validation}
        return parts if self.test is None else {**parts, "test": self.test}
