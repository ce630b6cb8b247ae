"""Competing risks: how many will have each event, when another event may come first.

A death before heart failure is not a censoring: one minus Kaplan-Meier of the deaths-censored time
answers what would happen if nobody died. Causes are integers, 0 means censored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.baseline import BaselineHazard
from fm_med.survival.cox_fit import CoxFit, fit_cox
from fm_med.survival.follow_up import FollowUp

# Cells of (rows, steps) computed at once: 8 MB in float64.
CHUNK_CELLS = 2**20


@dataclass(frozen=True)
class CumulativeIncidence:
    """Probability of each cause by each time (Aalen-Johansen).

    Attributes:
        time: (steps,) rising times with an event of any cause.
        causes: The causes, rising, without 0.
        incidence: (steps, causes).
        error: (steps, causes) standard errors (infinitesimal jackknife, as R's ``survfit``).
        low: (steps, causes) lower ends of the intervals, on the log(-log) scale.
        high: (steps, causes) upper ends.
    """

    time: np.ndarray
    causes: tuple[int, ...]
    incidence: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, times: Any, cause: int) -> np.ndarray:
        """Return the incidence of a cause at each of `times`; 0 before the first event.

        Raises:
            InputError: There is no such cause.
        """
        if cause not in self.causes:
            raise InputError(f"there is no cause {cause}; the causes are {list(self.causes)}")
        steps = np.searchsorted(self.time, np.asarray(times, np.float64), side="right")
        return np.concatenate([[0.0], self.incidence[:, self.causes.index(cause)]])[steps]


def cumulative_incidence(
    time: Any, cause: Any, *, weight: Any = None, entry: Any = None, level: float = 0.95
) -> CumulativeIncidence:
    r"""Return :math:`F_k(t) = \sum_{u \le t} S(u-)\, dN_k(u)/Y(u)` of every cause.

    Args:
        time: (rows,) end of follow-up.
        cause: (rows,) int, 0 where censored.
        weight: (rows,) case weights.
        entry: (rows,) start of being at risk.
        level: Coverage of the intervals.

    References:
        Aalen and Johansen, Scandinavian Journal of Statistics 5 (1978) 141-150.

    Raises:
        InputError: Nobody has an event, or shapes or values do not fit.
    """
    cause = _causes(cause)
    follow_up = FollowUp.checked(time, cause > 0, weight=weight, entry=entry)
    counted = follow_up.weight > 0
    follow_up, cause = follow_up.rows(counted), cause[counted]
    if not follow_up.event.any():
        raise InputError(
            f"cumulative incidence needs events, but none of {len(cause)} rows has one"
        )
    causes = tuple(int(k) for k in np.unique(cause[cause > 0]))
    steps, number = np.unique(follow_up.time[follow_up.event], return_inverse=True)
    at_risk = _at_risk(follow_up, steps)
    jumps = np.zeros((len(steps), len(causes)))
    place = np.searchsorted(causes, cause[follow_up.event])
    np.add.at(jumps, (number, place), follow_up.weight[follow_up.event])
    jumps /= at_risk[:, None]
    leaving = np.minimum(jumps.sum(axis=1), 1.0)
    before = np.concatenate([[1.0], np.cumprod(1 - leaving)[:-1]])
    incidence = np.cumsum(before[:, None] * jumps, axis=0)
    error = np.empty_like(incidence)
    for k, label in enumerate(causes):
        walk = _Influence(steps, before / at_risk, jumps[:, k], leaving, at_risk, incidence[:, k])
        error[:, k] = walk.error(follow_up, cause == label)
    reach = NormalDist().inv_cdf(0.5 + level / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.exp(reach * error / (incidence * -np.log(incidence)))
        low, high = incidence**spread, incidence ** (1 / spread)
    return CumulativeIncidence(steps, causes, incidence, error, low, high)


@dataclass(frozen=True)
class _Influence:
    r"""How the incidence of one cause answers to each row's weight.

    A row's influence at t is :math:`\alpha_i(t) - F(t) \beta_i(t)`; both move with everybody's
    hazard while the row is at risk, jump at its event, and stay from then on. Sums of their
    products over rows are running sums, so that all times together cost one sort.
    """

    steps: np.ndarray
    direct: np.ndarray
    jump: np.ndarray
    leaving: np.ndarray
    at_risk: np.ndarray
    incidence: np.ndarray

    def error(self, follow_up: FollowUp, own: np.ndarray) -> np.ndarray:
        """Return (steps,) the root of the sum of squared, weighted influences."""
        stays = self.leaving < 1
        later = np.divide(
            1, self.at_risk * (1 - self.leaving), where=stays, out=np.zeros(len(stays))
        )
        drift = np.stack(
            [self.direct * self.jump + later * self.incidence * self.leaving, later * self.leaving]
        )
        path = np.concatenate([np.zeros((2, 1)), -np.cumsum(drift, axis=1)], axis=1)
        exit_step = np.searchsorted(self.steps, follow_up.time, side="right")
        start = np.zeros((2, len(own)))
        enter_step = np.zeros(len(own), dtype=np.int64)
        if follow_up.entry is not None:
            enter_step = np.searchsorted(self.steps, follow_up.entry, side="right")
            start = path[:, enter_step]
        end = path[:, exit_step] - start
        at = exit_step[follow_up.event] - 1
        end[:, follow_up.event] += np.stack(
            [self.direct[at] * own[follow_up.event] + (later * self.incidence)[at], later[at]]
        )
        square = follow_up.weight**2
        # A censoring between steps counts from the next step on, where nothing has changed.
        left = self._running(square * _products(end, end), exit_step + ~follow_up.event)
        inside = [
            self._running(part, enter_step + 1) - self._running(part, exit_step + ~follow_up.event)
            for part in (square[None], square * start, square * _products(start, start))
        ]
        now = path[:, 1:]
        sums = left + inside[0] * _products(now, now) + inside[2]
        cross = _products(now, inside[1])
        sums -= np.stack([2 * cross[0], cross[1] + now[1] * inside[1][0], 2 * cross[2]])
        f = self.incidence
        return np.sqrt(np.maximum(sums[0] - 2 * f * sums[1] + f**2 * sums[2], 0))

    def _running(self, parts: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return (k, steps): sums of those columns of (k, rows) whose step, from 1, is reached."""
        size = len(self.steps) + 2
        step = np.clip(step, 1, size - 1)
        totals = np.stack([np.bincount(step, weights=part, minlength=size) for part in parts])
        return np.cumsum(totals, axis=1)[:, 1:-1]


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([a[0] * b[0], a[0] * b[1], a[1] * b[1]])


def _at_risk(follow_up: FollowUp, steps: np.ndarray) -> np.ndarray:
    """Return (steps,) the weight of those with entry < t <= time."""
    size = len(steps) + 1
    last = np.searchsorted(steps, follow_up.time, side="right")
    leaving = np.bincount(last, weights=follow_up.weight, minlength=size)
    at_risk = leaving[::-1].cumsum()[::-1][1:]
    if follow_up.entry is not None:
        first = np.searchsorted(steps, follow_up.entry, side="right")
        entering = np.bincount(first, weights=follow_up.weight, minlength=size)
        at_risk = at_risk - entering[::-1].cumsum()[::-1][1:]
    return at_risk


def _causes(cause: Any) -> np.ndarray:
    cause = np.asarray(cause)
    if cause.dtype.kind == "f" and np.isfinite(cause).all() and (cause == cause.round()).all():
        cause = cause.astype(np.int64)
    if cause.dtype.kind not in "iu" or (cause < 0).any():
        raise InputError("cause must be integers >= 0, where 0 means censored")
    return cause


def fit_cause_specific(
    features: Any, *, time: Any, cause: Any, **options: Any
) -> dict[int, CoxFit]:
    """Return one Cox fit per cause, in which the other causes are censored.

    Args:
        features: As in `fit_cox`.
        time: (rows,) end of follow-up.
        cause: (rows,) int, 0 where censored.
        options: The other arguments of `fit_cox`; each cause chooses its own penalty.

    Raises:
        InputError: As in `fit_cox`.
    """
    cause = _causes(cause)
    return {
        int(k): fit_cox(features, time=time, event=cause == k, **options)
        for k in np.unique(cause[cause > 0])
    }


def competing_risk(
    log_hazard: Mapping[int, Any], baseline: Mapping[int, BaselineHazard], horizon: float
) -> dict[int, np.ndarray]:
    r"""Return, per cause, (rows,) the probability that it comes by `horizon` and comes first.

    :math:`F_k(t) = \sum_{u \le t} S(u-) (dH_k/dH)(1 - e^{-dH})`, :math:`S(u-) = e^{-H(u-)}` with
    the sum H of all causes' hazards: with survival they add up to 1. As R's ``survfit`` of a
    multi-state ``coxph``.

    Args:
        log_hazard: Per cause, (rows,) of its cause-specific model.
        baseline: Per cause, its baseline hazard.
        horizon: One time within the follow-up.

    Raises:
        InputError: Causes differ, or the horizon is beyond a follow-up.
    """
    causes = sorted(baseline)
    if sorted(log_hazard) != causes:
        raise InputError(f"log-hazards are of causes {sorted(log_hazard)}, baselines of {causes}")
    steps = np.unique(np.concatenate([b.time[b.time <= horizon] for b in baseline.values()]))
    jumps = {
        k: np.diff(b.cumulative_at_centre(np.append(steps, horizon))[:-1], prepend=0.0)
        for k, b in baseline.items()
    }
    f = {k: np.asarray(log_hazard[k], np.float64) - baseline[k].centre for k in causes}
    rows = len(f[causes[0]])
    result = {k: np.zeros(rows) for k in causes}
    size = max(CHUNK_CELLS // max(len(steps), 1), 1)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        hazard = np.stack([np.exp(f[k][part, None]) * jumps[k] for k in causes])
        total = hazard.sum(axis=0)
        # Summed without the own step: taking that off again would lose a small sum before it.
        before = np.exp(-np.cumsum(np.pad(total, ((0, 0), (1, 0))), axis=1)[:, :-1])
        share = np.divide(hazard, total, where=total > 0, out=np.zeros_like(hazard))
        for number, k in enumerate(causes):
            result[k][part] = (before * share[number] * -np.expm1(-total)).sum(axis=1)
    return result
