"""Time to the first of several events, by a Cox model of each cause."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.cohort.causes import cause_names, in_order
from fm_med.errors import InputError
from fm_med.objectives import cause_specific_loss
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.tasks.follow_up import FollowUpTask, is_null, read_time
from fm_med.tasks.task import Targets, Tensors


@dataclass(frozen=True)
class CompetingRisksTask(FollowUpTask):
    """Predict the cause-specific log-hazard of each cause; `classes` are the causes.

    Who had another event first is censored in a cause's own likelihood, and at risk of that other
    event in the absolute risk, which is the cumulative incidence from the hazards of all causes.
    """

    name = "competing_risks"
    output_name = "log_hazard"
    losses = ("efron", "breslow")

    @classmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Take the card's time and the column "cause", or the given pair (time, cause).

        The causes are those of the training split: integers or texts; null, 0 and "censored" are
        none.

        Raises:
            InputError: No follow-up, not a pair, or fewer than two causes.
        """
        card = cohort.card
        time, cause = tuple(columns) if columns and len(columns) == 2 else (card.time, "cause")
        if columns and len(columns) != 2:
            raise InputError(
                f"the task {cls.name} has two target columns, time and cause, not {len(columns)}"
            )
        if time is None or not card.follow_up_unit:
            raise InputError(
                f"{cohort.path} has no follow-up: its card names no time and follow_up_unit, which "
                f"the task {cls.name} needs"
            )
        causes = in_order(cause_names(cohort.column("train", cause)))
        if len(causes) < 2:
            raise InputError(
                f"{cohort.path}: column {cause!r} has {len(causes)} cause(s) in the training split "
                f"({', '.join(causes)}), expected two or more; one event is the task survival"
            )
        return cls(columns=(time, cause), classes=causes, loss_name=loss, unit=card.follow_up_unit)

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `time`, `cause` (rows,) int64 (0 censored, k the k-th of `classes`) and `event`.

        Raises:
            InputError: A bad time, or a cause that does not occur in the training split.
        """
        number = {None: 0} | {name: k for k, name in enumerate(self.classes, start=1)}
        names = cause_names(cohort.column(split, self.columns[1]))
        foreign = sorted({str(name) for name in names if name not in number})
        if foreign:
            raise InputError(
                f"{cohort.path}, split {split!r}: column {self.columns[1]!r} has cause(s) that the "
                f"training split lacks: {', '.join(foreign[:5])}"
            )
        cause = np.array([number[name] for name in names], np.int64)
        missing = is_null(cohort, split, self.columns[0]) & (cause == 0)
        time = read_time(cohort, split, self.columns[0], missing)
        return {"time": time, "cause": cause, "event": cause > 0}

    def check(self, targets: Targets, where: str) -> None:
        """Refuse a split without censored rows, or without an event of some cause."""
        self.fitted(targets)
        if targets["event"].all():
            raise InputError(
                f"{where} has nothing but events: {self.columns[1]!r} names a cause in all "
                f"{len(targets['event'])} rows, nobody was censored; look at how it is coded"
            )

    def fitted(self, targets: Targets) -> Self:
        """Refuse rows that cannot teach the hazard of some cause.

        Raises:
            InputError: A cause has no event among them.
        """
        absent = [name for name, count in self.events_by_cause(targets).items() if not count]
        if absent:
            raise InputError(
                f"{len(targets['cause'])} training rows hold no event of the cause(s) "
                f"{', '.join(absent)}; join rare causes, or use fewer folds"
            )
        return self

    def events_by_cause(self, targets: Targets) -> dict[str, int]:
        """Return the number of events of each cause."""
        events = np.bincount(targets["cause"], minlength=len(self.classes) + 1)[1:]
        return dict(zip(self.classes, events.tolist()))

    def strata(self, targets: Targets) -> np.ndarray:
        """Return the number of the cause, 0 for censored rows."""
        return targets["cause"]

    def scarce(self, targets: Targets) -> int | None:
        """Return the commonest cause: every batch has some risk sets to learn from."""
        return int(np.bincount(targets["cause"])[1:].argmax()) + 1

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the partial likelihood of all causes per event, over the batch's risk sets."""
        return cause_specific_loss(
            outputs["log_hazard"],
            time=targets["time"],
            cause=targets["cause"],
            ties="breslow" if self.loss_name == "breslow" else "efron",
        )

    def ranked(self, outputs: np.ndarray, targets: Targets) -> dict[str, Any]:
        """Return, per cause, its events and its log-hazard; other events count as censored."""
        return {
            name: (targets["cause"] == k + 1, outputs[:, k]) for k, name in enumerate(self.classes)
        }

    def columns_of(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return one column of log-hazards per cause."""
        return {f"log_hazard_{name}": outputs[:, k] for k, name in enumerate(self.classes)}

    def fit_hazard(self, outputs: np.ndarray, targets: Targets) -> CauseHazards:
        """Return the Breslow baseline hazard of every cause."""
        return CauseHazards.fit(
            outputs, time=targets["time"], cause=targets["cause"], causes=self.classes
        )

    def hazard_from(self, stored: dict[str, Any]) -> CauseHazards:
        """Read the baseline hazards.

        Raises:
            InputError: They are not whole, or of other causes.
        """
        hazard = CauseHazards.from_dict(stored)
        if hazard.causes != self.classes:
            raise InputError(
                f"the stored baseline hazards are of {', '.join(hazard.causes)}, the task's causes "
                f"are {', '.join(self.classes)}"
            )
        return hazard

    def risk_columns(
        self, hazard: CauseHazards, outputs: np.ndarray, horizons: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Return the cumulative incidence of each cause at each horizon."""
        return {
            f"risk_{name}_{at:g}_{self.unit}": incidence
            for at in horizons
            for name, incidence in zip(self.classes, hazard.incidence(outputs, at).T)
        }
