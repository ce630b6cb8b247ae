"""Time to an event, by Cox's partial likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.objectives import cox_loss
from fm_med.survival.concordance import concordance_index
from fm_med.tasks.task import Targets, Task, Tensors

Unit = Literal["days", "weeks", "months", "years"]
# One, three and five years, as the risks that are reported by default.
HORIZONS: dict[str, tuple[float, ...]] = {
    "days": (365.25, 1095.75, 1826.25),
    "weeks": (52.18, 156.5, 260.9),
    "months": (12.0, 36.0, 60.0),
    "years": (1.0, 3.0, 5.0),
}
FEW_EVENTS = 10


@dataclass(frozen=True)
class SurvivalTask(Task):
    """Predict the log-hazard of an event.

    Attributes:
        unit: Of the follow-up, from the cohort's card.
    """

    name = "survival"
    output_name = "log_hazard"
    losses = ("efron", "breslow")
    score_names = ("validation_loss", "c_index")

    unit: str = ""

    @property
    def horizons(self) -> tuple[float, ...]:
        """Times, in the follow-up's unit, at which absolute risks are given."""
        return HORIZONS.get(self.unit, ())

    @classmethod
    def of_cohort(cls, cohort: Cohort, columns: Sequence[str] | None, loss: str) -> Self:
        """Take the follow-up columns of the card, or the given pair (time, event).

        Raises:
            InputError: The cohort has no follow-up, or `columns` is not a pair.
        """
        card = cohort.card
        names = tuple(columns) if columns else (card.time, card.event)
        if None in names or not card.follow_up_unit:
            raise InputError(
                f"{cohort.path} has no follow-up: its card names no time, event and "
                "follow_up_unit, which the task survival needs"
            )
        if len(names) != 2:
            raise InputError(
                f"the task survival has two target columns, time and event, not {len(names)}"
            )
        return cls(columns=(str(names[0]), str(names[1])), loss_name=loss, unit=card.follow_up_unit)

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `time` (rows,) float64 in the card's unit and `event` (rows,) bool.

        Raises:
            InputError: A time is negative, missing or infinite, or an event is missing or no bool;
                null in both is no follow-up and no fault.
        """
        where = f"{cohort.path}, split {split!r}"
        numbers = []
        for name in self.columns:
            values = cohort.column(split, name)
            if not isinstance(values, np.ndarray):
                raise InputError(f"{where}: the column {name!r} holds no numbers")
            numbers.append(values.astype(np.float64))
        time, event = numbers
        # Null in both columns is no follow-up: like one of length zero, it is not `usable`.
        nulls = [cohort.splits[split].column(name).is_null().to_numpy() for name in self.columns]
        time[nulls[0] & nulls[1]], event[nulls[0] & nulls[1]] = 0.0, 0.0
        ids = cohort.column(split, "record_id")
        for column, wrong, what in (
            (self.columns[0], ~np.isfinite(time), "missing or not finite"),
            (self.columns[0], time < 0, "negative"),
            (self.columns[1], ~np.isin(event, (0, 1)), "neither true nor false"),
        ):
            if wrong.any():
                first = ids[int(np.flatnonzero(wrong)[0])]
                raise InputError(
                    f"{where}: {column!r} is {what} in {int(wrong.sum())} row(s), first in {first}"
                )
        return {"time": time, "event": event.astype(bool)}

    def usable(self, targets: Targets) -> np.ndarray:
        """Leave out rows without follow-up, or one of length zero: they were never at risk."""
        return targets["time"] > 0

    def check(self, targets: Targets, where: str) -> None:
        """Refuse a split in which nobody or everybody has the event."""
        events, rows = int(targets["event"].sum()), len(targets["event"])
        column = self.columns[1]
        if events == 0:
            raise InputError(f"{where} has no events: {column!r} is false in all {rows} rows")
        if events == rows:
            raise InputError(
                f"{where} has nothing but events: {column!r} is true in all {rows} rows, nobody "
                "was censored; look at how it is coded"
            )

    def balanced(self, targets: Targets) -> Self:  # noqa: ARG002
        """Refuse: weighted events are another likelihood, and their log-hazards are off."""
        raise InputError(
            "imbalance 'weight' is for labels and classes; Cox's likelihood needs no balance"
        )

    def strata(self, targets: Targets) -> np.ndarray:
        """Return 1 for events, 0 for censored rows."""
        return targets["event"].astype(np.int64)

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the negative log partial likelihood per event, over the batch's own risk sets."""
        return cox_loss(
            outputs["log_hazard"],
            time=targets["time"],
            event=targets["event"],
            ties="breslow" if self.loss_name == "breslow" else "efron",
        )

    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Return the partial likelihood over the whole split, and Harrell's C for the eye only."""
        log_hazard = torch.from_numpy(outputs.astype(np.float64))
        whole = {name: torch.from_numpy(value) for name, value in targets.items()}
        if not targets["event"].any():
            return {"validation_loss": float("nan"), "c_index": float("nan")}
        loss = self.loss({"log_hazard": log_hazard}, whole)
        c_index = concordance_index(targets["time"], targets["event"], outputs)
        return {"validation_loss": float(loss), "c_index": float(c_index)}
