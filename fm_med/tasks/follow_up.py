"""What all tasks on a follow-up share: its columns and their checks, ranking, absolute risk."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.survival.baseline import BaselineHazard
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.concordance import concordance_index
from fm_med.survival.discrete import DiscreteHazard
from fm_med.tasks.task import Targets, Task

Unit = Literal["days", "weeks", "months", "years"]
# One, three and five years, as the risks that are reported by default.
HORIZONS: dict[str, tuple[float, ...]] = {
    "days": (365.25, 1095.75, 1826.25),
    "weeks": (52.18, 156.5, 260.9),
    "months": (12.0, 36.0, 60.0),
    "years": (1.0, 3.0, 5.0),
}
# What turns a model's outputs into risks; stored with the model.
Hazard = BaselineHazard | DiscreteHazard | CauseHazards


@dataclass(frozen=True)
class FollowUpTask(Task):
    """Predict from how long patients were followed, and whether that ended with an event.

    Attributes:
        unit: Of the follow-up, from the cohort's card.
    """

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
                f"follow_up_unit, which the task {cls.name} needs"
            )
        if len(names) != 2:
            raise InputError(
                f"the task {cls.name} has two target columns, time and event, not {len(names)}"
            )
        return cls(columns=(str(names[0]), str(names[1])), loss_name=loss, unit=card.follow_up_unit)

    def targets(self, cohort: Cohort, split: str) -> Targets:
        """Read `time` (rows,) float64 in the card's unit and `event` (rows,) bool.

        Raises:
            InputError: A time is negative, missing or infinite, or an event is missing or no bool;
                null in both is no follow-up and no fault.
        """
        event = read_numbers(cohort, split, self.columns[1])
        # Null in both columns is no follow-up: like one of length zero, it is not `usable`.
        missing = is_null(cohort, split, self.columns[0]) & is_null(cohort, split, self.columns[1])
        event[missing] = 0.0
        time = read_time(cohort, split, self.columns[0], missing)
        refuse_rows(
            (cohort, split, self.columns[1]), ~np.isin(event, (0, 1)), "neither true nor false"
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
        """Refuse: weighted events are another likelihood, and their hazards are off."""
        raise InputError(
            "imbalance 'weight' is for labels and classes; the likelihood of a follow-up needs no "
            "balance"
        )

    def strata(self, targets: Targets) -> np.ndarray:
        """Return 1 for events, 0 for censored rows."""
        return targets["event"].astype(np.int64)

    def scarce(self, targets: Targets) -> int | None:  # noqa: ARG002
        """Return the stratum of which every batch must hold two rows, or None."""
        return 1

    def ranked(self, outputs: np.ndarray, targets: Targets) -> dict[str, Any]:
        """Return (rows,) event and risk by outcome: one outcome named "", or several causes.

        Args:
            outputs: Of the model.
            targets: Of the same rows.
        """
        return {"": (targets["event"], self.ranking(torch.as_tensor(outputs)).numpy())}

    def ranking(self, outputs: Tensor) -> Tensor:
        """Return (rows,) one number per row, larger for a higher risk."""
        return outputs

    def scores(self, outputs: np.ndarray, targets: Targets) -> dict[str, float]:
        """Return the loss over the whole split, and Harrell's C for the eye only.

        Of several causes C is the mean over those that occur, and each has its own.
        """
        if not targets["event"].any():
            return {"validation_loss": float("nan"), "c_index": float("nan")}
        whole = {name: torch.from_numpy(value) for name, value in targets.items()}
        exact = torch.from_numpy(outputs.astype(np.float64))
        loss = float(self.loss({self.output_name: exact}, whole))
        each = {
            name: _c_index(targets["time"], event, risk)
            for name, (event, risk) in self.ranked(outputs, targets).items()
        }
        known = [value for value in each.values() if not np.isnan(value)]
        c_index = float(np.mean(known)) if known else float("nan")
        named = {f"c_index_{name}": value for name, value in each.items() if name}
        return {"validation_loss": loss, "c_index": c_index} | named

    @abstractmethod
    def fit_hazard(self, outputs: np.ndarray, targets: Targets) -> Hazard:
        """Return what turns outputs into risks, from the training rows.

        Args:
            outputs: Of the final model for its training rows.
            targets: Of the same rows.
        """

    @abstractmethod
    def hazard_from(self, stored: dict[str, Any]) -> Hazard:
        """Read what the hazard's `to_dict` gave.

        Raises:
            InputError: It is not whole.
        """

    def risk_columns(
        self, hazard: Any, outputs: np.ndarray, horizons: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Return named columns of the risk at each horizon.

        Args:
            hazard: From `fit_hazard`.
            outputs: Of the model.
            horizons: In the follow-up's unit, within the hazard's follow-up.
        """
        return {f"risk_{at:g}_{self.unit}": hazard.risk(outputs, at) for at in horizons}

    def interval_columns(
        self,
        hazard: Any,  # noqa: ARG002
        outputs: np.ndarray,  # noqa: ARG002
        horizons: Sequence[float],  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """Return lower and upper ends of these risks, where the task has a variance for them."""
        return {}


def read_time(cohort: Cohort, split: str, column: str, missing: np.ndarray) -> np.ndarray:
    """Return (rows,) float64 follow-up; 0 in rows that have none.

    Args:
        cohort: The cohort.
        split: Of it.
        column: With the times.
        missing: (rows,) bool, rows without follow-up.

    Raises:
        InputError: A time is negative, infinite, or missing in another row.
    """
    time = read_numbers(cohort, split, column)
    time[missing] = 0.0
    refuse_rows((cohort, split, column), ~np.isfinite(time), "missing or not finite")
    refuse_rows((cohort, split, column), time < 0, "negative")
    return time


def read_numbers(cohort: Cohort, split: str, column: str) -> np.ndarray:
    """Return a column as (rows,) float64, NaN where null.

    Raises:
        InputError: There is no such column, or it holds no numbers.
    """
    values = cohort.column(split, column)
    if not isinstance(values, np.ndarray):
        raise InputError(f"{cohort.path}, split {split!r}: the column {column!r} holds no numbers")
    return values.astype(np.float64)


def is_null(cohort: Cohort, split: str, column: str) -> np.ndarray:
    """Return (rows,) bool."""
    return cohort.splits[split].column(column).is_null().to_numpy()


def refuse_rows(where: tuple[Cohort, str, str], wrong: np.ndarray, what: str) -> None:
    """Raise InputError that names column, number of rows and the first of them, if there is one."""
    cohort, split, column = where
    if wrong.any():
        first = cohort.column(split, "record_id")[int(np.flatnonzero(wrong)[0])]
        raise InputError(
            f"{cohort.path}, split {split!r}: {column!r} is {what} in {int(wrong.sum())} row(s), "
            f"first in {first}"
        )


def _c_index(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Return Harrell's C, NaN where no two rows can be compared."""
    if not event.any() or not (time > time[event].min()).any():
        return float("nan")
    return float(concordance_index(time, event, risk))
