"""Who can be compared with whom, and who was ranked rightly: the counts behind concordance.

Row i with an event can be compared with row j when j is known to have outlived i: j has a later
time, or the same time without an event. The pair is concordant when i has the higher risk; equal
risks count one half. Two events at one time are not compared.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.checks import outcome
from fm_med.survival.rank_counts import count_above, count_levels


def checked_outcome(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return time in float64 and event as bool, both (rows,).

    Raises:
        InputError: See `fm_med.survival.checks.outcome`; or no row has an event.
    """
    time, event = outcome(time, event)
    if not event.any():
        raise InputError(f"none of the {len(time)} rows has an event, so no ranking can be judged")
    return time, event


def checked_risk(risk: np.ndarray, rows: int) -> np.ndarray:
    """Return the risk, (rows,).

    Raises:
        InputError: Another shape, or a risk is not a number.
    """
    risk = np.asarray(risk)
    if risk.shape != (rows,):
        raise InputError(f"risk must be ({rows},) like time, not {risk.shape}")
    missing = np.isnan(risk)
    if missing.any():
        raise InputError(
            f"risk is NaN in {int(missing.sum())} of {rows} rows (first: row {missing.argmax()})"
        )
    return risk


def checked_multiplicity(multiplicity: np.ndarray, rows: int) -> np.ndarray:
    """Return multiplicities in float64, (rows, resamples).

    Raises:
        ValueError: Another shape.
    """
    multiplicity = np.asarray(multiplicity, dtype=np.float64)
    if multiplicity.ndim != 2 or len(multiplicity) != rows:
        raise ValueError(f"multiplicity must be ({rows}, resamples), not {multiplicity.shape}")
    return multiplicity


@dataclass(frozen=True)
class ComparablePairs:
    """The pairs of a cohort, held as ranks; all counts take O(n log n).

    Attributes:
        by_risk: (rows,) the rows in order of risk.
        risk: (rows,) their risks, rising.
        outlived: (rows,) number of distinct event times that each of them outlived.
        event: (events,) positions in that order of those with an event.
    """

    by_risk: np.ndarray
    risk: np.ndarray
    outlived: np.ndarray
    event: np.ndarray

    @classmethod
    def of(cls, time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> "ComparablePairs":
        """Rank rows that were checked."""
        by_risk = np.argsort(risk)
        outlived = _outlived(time, event).take(by_risk)
        return cls(by_risk, risk.take(by_risk), outlived, np.flatnonzero(event.take(by_risk)))

    @property
    def event_rows(self) -> np.ndarray:
        """Return (events,) the row of each event, in order of risk."""
        return self.by_risk.take(self.event)

    @cached_property
    def comparable(self) -> np.ndarray:
        """Return (events,) the number of rows that each event can be compared with."""
        reached = np.cumsum(np.bincount(self.outlived))
        return (reached[-1] - reached).take(self.outlived.take(self.event)).astype(np.float64)

    def concordant(self) -> np.ndarray:
        """Return (events,) the comparable rows with a lower risk, equal ones counting one half."""
        counted = count_above(self.outlived, self.outlived.take(self.event), self._below)
        return (counted[0] + counted[-1]) / 2

    def weighted(
        self, row_weight: np.ndarray, event_weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (resamples,) the summed weights of concordant pairs, and of comparable ones.

        Args:
            row_weight: (rows, resamples) weight of a row as the one that outlived.
            event_weight: (events, resamples) weight of each of `event_rows`.
        """
        concordant = np.zeros(row_weight.shape[1])
        asked = self.outlived.take(self.event)
        for level in count_levels(self.outlived, asked, self._below):
            summed = _summed(row_weight, self.by_risk.take(level.points))
            lower = summed.take(level.ends[1], axis=0)
            if len(level.ends) == 3:
                lower += summed.take(level.ends[2], axis=0)
                lower /= 2
            lower -= summed.take(level.ends[0], axis=0)
            concordant += np.einsum("er,er->r", event_weight.take(level.queries, axis=0), lower)
        longest_first = np.argsort(-self.outlived, kind="stable")
        longer = np.cumsum(np.bincount(self.outlived)[::-1])[::-1]
        longer = np.append(longer[1:], 0).take(self.outlived.take(self.event))
        summed = _summed(row_weight, self.by_risk.take(longest_first))
        comparable = np.einsum("er,er->r", event_weight, summed.take(longer, axis=0))
        return concordant, comparable

    def concordant_as_later(self) -> np.ndarray:
        """Return (rows,), in order of risk, the concordant pairs in which each outlived the event.

        Their sum is that of `concordant`: each pair is counted at its other end.
        """
        last = int(self.outlived.max())
        falling = last - self.outlived.take(self.event)[::-1]
        if self._tied:
            event_risk = self.risk.take(self.event)
            below = [np.searchsorted(event_risk, self.risk, side) for side in ("right", "left")]
        else:
            up_to = np.zeros(len(self.risk), dtype=np.intp)
            up_to[self.event] = 1
            below = [np.cumsum(up_to)]
        above = len(self.event) - np.stack(below)
        counted = count_above(falling, last - self.outlived, above)
        return (counted[0] + counted[-1]) / 2

    def outliving(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows,) in how many concordant, and comparable, pairs each row outlived the event.

        Rows are in the order of the cohort, not of risk.
        """
        event_time = self.outlived.take(self.event)
        earlier = np.append(0, np.cumsum(np.bincount(event_time, minlength=self.outlived.max())))
        concordant, comparable = np.empty((2, len(self.risk)))
        concordant[self.by_risk] = self.concordant_as_later()
        comparable[self.by_risk] = earlier.take(self.outlived)
        return concordant, comparable

    @cached_property
    def _tied(self) -> bool:
        return bool((self.risk[1:] == self.risk[:-1]).any())

    @property
    def _below(self) -> np.ndarray:
        """Return (1 or 2, events) the rows of lower risk, and where risks tie also up to equal."""
        asked = self.risk.take(self.event)
        sides: tuple[Literal["left", "right"], ...] = ("left", "right") if self._tied else ("left",)
        return np.stack([np.searchsorted(self.risk, asked, side) for side in sides])


def _outlived(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Return (rows,) how many distinct event times each row outlived."""
    by_time = np.argsort(time)
    ordered = time.take(by_time)
    event_time = np.unique(time[event])
    starts = np.searchsorted(ordered, event_time)
    reached = np.zeros(len(time), dtype=np.int32)
    reached[starts] = 1
    outlived = np.empty(len(time), dtype=np.int32)
    outlived[by_time] = np.cumsum(reached, dtype=np.int32)
    outlived[event] -= 1  # its own
    return outlived


def _summed(weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (rows + 1, resamples) running sums of the weights of these rows, from zero."""
    summed = np.zeros((len(rows) + 1, weight.shape[1]))
    np.cumsum(weight.take(rows, axis=0), axis=0, out=summed[1:])
    return summed
