"""The distribution of censoring, and the weights that make up for the censored."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.checks import outcome
from fm_med.survival.kaplan_meier import exits, group_starts


@dataclass(frozen=True)
class CensoringDistribution:
    r"""Kaplan-Meier estimate of the probability of being under observation.

    :math:`G(t-) = P(C \ge t)`: someone with the event at t was seen because censoring came at t or
    later. At equal times events come before censoring, so those with the event at t are not at
    risk of being censored there.

    Attributes:
        time: (steps,) distinct rising times at which someone was censored.
        survival: (1 + steps,) or (1 + steps, resamples) G before the first and after each of them.
        follow_up: Longest follow-up of the rows it was fitted on.
    """

    time: np.ndarray
    survival: np.ndarray
    follow_up: float

    @classmethod
    def fit(
        cls, time: Any, event: Any, *, multiplicity: np.ndarray | None = None
    ) -> "CensoringDistribution":
        """Estimate it, on the training rows or on those that are evaluated.

        Args:
            time: (rows,) end of follow-up.
            event: (rows,) True where it ended with the event, False where it was censored.
            multiplicity: (rows, resamples) how often each row counts: one distribution per
                resample.

        Raises:
            InputError: There is no row, shapes differ, or a time is NaN or negative.
        """
        time, event = outcome(time, event)
        if multiplicity is None:
            distinct, left, events = exits(time, event, None)
            at_risk = left[::-1].cumsum()[::-1] - events
        else:
            order = np.argsort(time, kind="stable")
            starts = group_starts(time[order])
            distinct, counts = time[order][starts], np.asarray(multiplicity, np.float64)[order]
            left = np.add.reduceat(counts, starts, axis=0)
            events = np.add.reduceat(counts * event[order, None], starts, axis=0)
            at_risk = np.cumsum(counts[::-1], axis=0)[::-1][starts] - events
        censored = left - events
        steps = censored.reshape(len(distinct), -1).any(1)
        at_risk, censored = at_risk[steps], censored[steps]
        # The last one under observation is censored with certainty. Nobody is beyond, and holding
        # the value keeps every weight finite.
        stays = censored < at_risk
        kept = np.divide(at_risk - censored, at_risk, out=np.ones_like(censored), where=stays)
        survival = np.concatenate([np.ones((1, *kept.shape[1:])), np.cumprod(kept, axis=0)])
        return cls(distinct[steps], survival, float(distinct[-1]))

    def at(self, times: Any) -> np.ndarray:
        """Return G(t-), > 0, of the shape of `times` (and resamples).

        Times beyond the follow-up are clipped to it; `clipped` counts them.

        Raises:
            InputError: A time is NaN.
        """
        times = np.asarray(times, dtype=np.float64)
        if np.isnan(times).any():
            raise InputError(f"{int(np.isnan(times).sum())} times to weight are not a number")
        clipped = np.minimum(times, self.follow_up)
        return self.survival[np.searchsorted(self.time, clipped, side="left")]

    def clipped(self, times: Any) -> int:
        """Return how many of `times` are beyond the follow-up."""
        return int((np.asarray(times) > self.follow_up).sum())
