"""Kaplan-Meier curves with Greenwood's intervals and numbers at risk."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.checks import outcome, refuse


@dataclass(frozen=True)
class SurvivalCurve:
    """A survival curve: a step function that falls at event times and includes them.

    Attributes:
        time: (steps,) distinct rising times at which a follow-up ended, with or without event.
        survival: (steps,) probability of being free of the event beyond that time.
        at_risk: (steps,) number (sum of weights) at risk just before that time.
        events: (steps,) number of events at that time.
        low: (steps,) lower end of the interval of `survival`; NaN where survival is 0.
        high: (steps,) upper end.
        left: (steps,) number whose follow-up ended by that time.
        entry: (entries,) distinct rising times at which rows came under observation.
        entered: (entries,) number that came under observation by that time.
        variance: (steps,) Greenwood's variance of log survival.
    """

    time: np.ndarray
    survival: np.ndarray
    at_risk: np.ndarray
    events: np.ndarray
    low: np.ndarray
    high: np.ndarray
    left: np.ndarray
    entry: np.ndarray
    entered: np.ndarray
    variance: np.ndarray

    @property
    def follow_up(self) -> float:
        """The longest follow-up."""
        return float(self.time[-1])

    def at(self, times: Any) -> np.ndarray:
        """Return S(t), of the shape of `times`; the last value is held beyond the follow-up."""
        return self._held(self.survival, times, 1.0)

    def interval_at(self, times: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the interval of S(t), each of the shape of `times`."""
        return self._held(self.low, times, 1.0), self._held(self.high, times, 1.0)

    def variance_at(self, times: Any) -> np.ndarray:
        """Return Greenwood's variance of log S(t); infinite where S(t) is 0."""
        return self._held(self.variance, times, 0.0)

    def at_risk_at(self, times: Any) -> np.ndarray:
        """Return how many are under observation just before each time (entry < t <= time).

        At time 0 of rows without late entry these are all rows, as below a plotted curve.
        """
        entered = np.concatenate([[0.0], self.entered])
        left = np.concatenate([[0.0], self.left])
        before = [np.searchsorted(each, times, side="left") for each in (self.entry, self.time)]
        return entered[before[0]] - left[before[1]]

    def median(self) -> tuple[float, float, float]:
        """Return the time by which half have the event, and its interval; NaN where not reached."""
        value, low, high = (
            _crossing(self.time, curve, 0.5) for curve in (self.survival, self.low, self.high)
        )
        return value, low, high

    def _held(self, steps: np.ndarray, times: Any, before: float) -> np.ndarray:
        step = np.searchsorted(self.time, np.asarray(times, dtype=np.float64), side="right")
        return np.concatenate([[before], steps])[step]


def kaplan_meier(
    time: Any, event: Any, *, weight: Any = None, entry: Any = None, level: float = 0.95
) -> SurvivalCurve:
    r"""Return the product-limit estimate of survival.

    .. math:: \hat S(t) = \prod_{t_k \le t} \Big(1 - \frac{d_k}{n_k}\Big), \qquad
        \widehat{\mathrm{var}} \log \hat S(t) = \sum_{t_k \le t} \frac{d_k}{n_k (n_k - d_k)}

    with ends :math:`\hat S(t)^{\exp(\pm z\,\mathrm{se} / \log \hat S(t))}` (log-log scale), which
    stay within 0 and 1. Equal to R's ``survfit(conf.type = "log-log", robust = FALSE)``.

    Args:
        time: (rows,) end of follow-up, any unit, >= 0.
        event: (rows,) True where it ended with the event. At equal times events come first.
        weight: (rows,) how often each row counts, >= 0. The intervals take weights as numbers of
            patients; they are not valid for sampling weights.
        entry: (rows,) start of observation; at risk at t when entry < t <= time.
        level: Coverage of the intervals.

    References:
        Kaplan & Meier, JASA 53 (1958) 457-481; Kalbfleisch & Prentice, The Statistical Analysis of
        Failure Time Data, 2nd edition, section 1.4.

    Raises:
        InputError: There is no row, a shape does not fit, or a value is NaN or out of its range.
    """
    time, event = outcome(time, event)
    rows = len(time)
    weight = None if weight is None else _column(weight, "weight", rows)
    distinct, left, events = exits(time, event, weight)
    if entry is None:
        first, entered = np.array([-np.inf]), left.sum(keepdims=True)
    else:
        entry = _column(entry, "entry", rows)
        refuse(entry >= time, "entry", "before the end of follow-up", entry)
        first, entered, _ = exits(entry, np.zeros(rows, dtype=bool), weight)
        entered = np.cumsum(entered)
    left = np.cumsum(left)
    before = np.searchsorted(first, distinct, side="left")
    at_risk = np.concatenate([[0.0], entered])[before] - np.concatenate([[0.0], left[:-1]])
    survival, variance = _product_limit(at_risk, events)
    low, high = _log_log_interval(survival, variance, level)
    return SurvivalCurve(
        distinct, survival, at_risk, events, low, high, left, first, entered, variance
    )


def survival_at(
    time: Any, event: Any, *, horizon: float, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Return Kaplan-Meier's S(horizon), the last value held beyond the follow-up.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        horizon: A time.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for a resample without rows.

    Raises:
        InputError: See `kaplan_meier`.
    """
    if multiplicity is None:
        return float(kaplan_meier(time, event).at(horizon))
    time, event = outcome(time, event)
    order = np.argsort(time, kind="stable")
    starts = group_starts(time[order])
    counts = np.asarray(multiplicity, dtype=np.float64)[order]
    at_risk = np.cumsum(counts[::-1], axis=0)[::-1][starts]
    dead = np.add.reduceat(counts * event[order, None], starts, axis=0)
    used = time[order][starts] <= horizon
    with np.errstate(invalid="ignore"):
        kept = 1 - dead[used] / at_risk[used]
    survival = np.where(at_risk[used] > 0, kept, 1.0).prod(axis=0)
    return np.where(counts.sum(axis=0) > 0, survival, np.nan)


def group_starts(ordered: np.ndarray) -> np.ndarray:
    """Return (distinct,) the first position of each value in a rising array."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def exits(
    time: np.ndarray, event: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct rising times, how many follow-ups end at each, and how many by an event."""
    if weight is None:
        # Sorting values is several times faster than sorting positions.
        ordered = np.sort(time)
        starts = group_starts(ordered)
        distinct = ordered[starts]
        ends = np.searchsorted(np.sort(time[event]), distinct, side="right")
        counts, events = np.diff(starts, append=len(time)), np.diff(ends, prepend=0)
        return distinct, counts.astype(np.float64), events.astype(np.float64)
    distinct, group = np.unique(time, return_inverse=True)
    left = np.bincount(group, weight, len(distinct))
    return distinct, left, np.bincount(group, weight * event, len(distinct))


def _product_limit(at_risk: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return survival and the variance of its logarithm after each step."""
    # Sums of fractional weights leave a rest of rounding where everybody at risk has the event.
    remaining: np.ndarray = at_risk - events
    remaining[np.abs(remaining) <= 1e-12 * at_risk.max()] = 0.0
    hit = events > 0
    kept, added = np.ones(len(at_risk)), np.zeros(len(at_risk))
    kept[hit] = remaining[hit] / at_risk[hit]
    with np.errstate(divide="ignore"):
        added[hit] = events[hit] / (at_risk[hit] * remaining[hit])
    return np.cumprod(kept), np.cumsum(added)


def _log_log_interval(
    survival: np.ndarray, variance: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    reach = NormalDist().inv_cdf(0.5 + level / 2)
    low, high = np.full(len(survival), np.nan), np.full(len(survival), np.nan)
    whole, inside = survival == 1, (survival > 0) & (survival < 1)
    low[whole] = high[whole] = 1.0
    log_survival = np.log(survival[inside])
    power = np.exp(reach * np.sqrt(variance[inside]) / -log_survival)
    low[inside], high[inside] = np.exp(log_survival * power), np.exp(log_survival / power)
    return low, high


def _crossing(time: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Return when a falling curve gets to `level`; the middle of a stretch exactly on it."""
    tolerance = 1e-12
    # The interval of a curve that has fallen to 0 is undefined there, not crossed.
    curve = np.where(np.isnan(curve), np.inf, curve)
    reached = np.flatnonzero(curve <= level + tolerance)
    if not len(reached):
        return float("nan")
    passed = np.flatnonzero(curve < level - tolerance)
    if abs(curve[reached[0]] - level) <= tolerance and len(passed):
        return float((time[reached[0]] + time[passed[0]]) / 2)
    return float(time[reached[0]])


def _column(values: Any, name: str, rows: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (rows,):
        raise InputError(f"{name} must be ({rows},) like time, not {values.shape}")
    refuse(~(np.isfinite(values) & (values >= 0)), name, "a number >= 0", values)
    return values
