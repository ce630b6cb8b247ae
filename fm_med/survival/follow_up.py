"""The outcome of a survival fit: time, event and who counts when, checked once."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError


@dataclass(frozen=True)
class FollowUp:
    """Follow-up of each row in float64.

    Attributes:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) True where the follow-up ended with the event.
        weight: (rows,) case weights > 0.
        stratum: (rows,) int from 0; risk sets never mix strata.
        entry: (rows,) start of being at risk; at risk at t when entry < t <= time. None: always.
    """

    time: np.ndarray
    event: np.ndarray
    weight: np.ndarray
    stratum: np.ndarray
    entry: np.ndarray | None = None

    @classmethod
    def checked(
        cls, time: Any, event: Any, *, weight: Any = None, strata: Any = None, entry: Any = None
    ) -> "FollowUp":
        """Refuse what no fit can use.

        Raises:
            InputError: A shape or a value does not fit; which and how often is told.
        """
        time, event = np.asarray(time, dtype=np.float64), np.asarray(event)
        if time.ndim != 1 or time.shape != event.shape:
            raise InputError(
                f"time and event must be (rows,) each, not {time.shape} and {event.shape}"
            )
        _refuse(~np.isfinite(time), "time", "finite")
        if event.dtype != np.bool_:
            _refuse(~np.isin(event, (0, 1)), "event", "0 or 1")
        columns = {"weight": weight, "strata": strata, "entry": entry}
        for name, column in columns.items():
            if column is not None and np.shape(column) != time.shape:
                raise InputError(f"{name} must be {time.shape} like time, not {np.shape(column)}")
        stratum = np.zeros(len(time), dtype=np.int64)
        if strata is not None:
            stratum = np.unique(np.asarray(strata), return_inverse=True)[1]
        if weight is not None:
            weight = np.asarray(weight, dtype=np.float64)
            _refuse(~(np.isfinite(weight) & (weight >= 0)), "weight", ">= 0")
        if entry is not None:
            entry = np.asarray(entry, dtype=np.float64)
            _refuse(~(entry < time), "entry", "before time")
        if weight is None:
            weight = np.ones(len(time))
        return cls(time, event.astype(bool), weight, stratum, entry)

    def rows(self, chosen: np.ndarray) -> "FollowUp":
        """Return the follow-up of the chosen rows (indices or mask)."""
        entry = None if self.entry is None else self.entry[chosen]
        return FollowUp(
            self.time[chosen], self.event[chosen], self.weight[chosen], self.stratum[chosen], entry
        )


def _refuse(bad: np.ndarray, name: str, expected: str) -> None:
    if bad.any():
        first = int(bad.argmax())
        raise InputError(
            f"{name} must be {expected}, but is not in {int(bad.sum())} rows (first: row {first})"
        )
