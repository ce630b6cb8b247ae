"""Brier scores of predicted survival, with weights that make up for the censored."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.checks import outcome, probability, within_follow_up
from fm_med.survival.kaplan_meier import SurvivalCurve, kaplan_meier

# Predictions worked on at once: 2 MB in float64, so that they stay in the processor's cache.
BLOCK = 2**18


def brier_at(
    time: Any,
    event: Any,
    survival_at_horizon: Any,
    *,
    horizon: float,
    censoring: CensoringDistribution | None = None,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    r"""Return the Brier score of predicted survival at one horizon h.

    .. math:: \frac1n \sum_i \frac{\hat S_i(h)^2\, [T_i \le h, \delta_i]}{G(T_i-)}
        + \frac{(1 - \hat S_i(h))^2\, [i\ \text{known to be free of the event at}\ h]}{G(h-)}

    Someone censored at exactly h is known to be free of the event at h (at equal times events come
    before censoring), so the end of a study with one closing date can be a horizon. Without such
    ties the score is that of Graf et al.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        survival_at_horizon: (rows,) predicted probability of no event by `horizon`.
        horizon: Within the follow-up of the rows.
        censoring: Fitted on training rows; None: fitted on these rows, in each resample anew.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for a resample without rows.

    References:
        Graf, Schmoor, Sauerbrei & Schumacher, Statistics in Medicine 18 (1999) 2529-2545.

    Raises:
        InputError: Bad follow-up, a horizon beyond it, or a survival that is no probability.
    """
    time, event = outcome(time, event)
    times = np.array([within_follow_up(horizon, time)])
    survival = probability(survival_at_horizon, len(time), "survival_at_horizon")
    if survival.ndim != 1:
        raise InputError(f"survival_at_horizon must be ({len(time)},), not {survival.shape}")
    scores = _scores((time, event), survival[:, None], times, (censoring, multiplicity))
    return float(scores[0, 0]) if multiplicity is None else scores[0]


def integrated_brier(
    time: Any,
    event: Any,
    survival: Any,
    times: Any,
    *,
    censoring: CensoringDistribution | None = None,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    """Return the mean Brier score over a grid of times (trapezoids), called ``ibs`` in reports.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        survival: (rows, times) predicted survival, or a function of some times that returns
            (rows, those times), so that no rows x times matrix is ever held.
        times: (times,) rising, at least two, within the follow-up.
        censoring: See `brier_at`.
        multiplicity: See `brier_at`.

    Returns:
        A float, or (resamples,) for given multiplicities.

    Raises:
        InputError: See `brier_at`; or times that do not rise.
    """
    time, event = outcome(time, event)
    times = _grid(times, time)
    scores = _scores((time, event), survival, times, (censoring, multiplicity))
    mean = np.trapezoid(scores, times, axis=0) / (times[-1] - times[0])
    return float(mean[0]) if multiplicity is None else mean


def scaled_brier(
    time: Any,
    event: Any,
    survival: Any,
    times: Any,
    *,
    reference: SurvivalCurve | None = None,
    censoring: CensoringDistribution | None = None,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    """Return 1 - ibs / ibs of one curve for all: 0 is no better than that curve, 1 perfect.

    Args:
        time: See `integrated_brier`, as for the others.
        event: As above.
        survival: As above.
        times: As above.
        reference: The curve, best of the training rows; None: Kaplan-Meier of these rows (the same
            one in all resamples).
        censoring: As above.
        multiplicity: As above.

    References:
        Kattan & Gerds, Diagnostic and Prognostic Research 2 (2018) 7: the index of prediction
        accuracy.

    Raises:
        InputError: See `integrated_brier`.
    """
    curve = kaplan_meier(time, event) if reference is None else reference

    def same_for_all(some: np.ndarray) -> np.ndarray:
        return np.broadcast_to(curve.at(some), (len(time), len(some)))

    of_model, of_curve = (
        integrated_brier(
            time, event, predicted, times, censoring=censoring, multiplicity=multiplicity
        )
        for predicted in (survival, same_for_all)
    )
    return 1 - of_model / of_curve


def _grid(times: Any, time: np.ndarray) -> np.ndarray:
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
        raise InputError("times must be two or more rising numbers")
    if times[0] < 0:
        raise InputError(f"times must be >= 0, but the first is {times[0]:g}")
    within_follow_up(times[-1], time)
    return times


def _scores(
    follow_up: tuple[np.ndarray, np.ndarray],
    survival: np.ndarray | Callable[[np.ndarray], np.ndarray],
    times: np.ndarray,
    weighting: tuple[CensoringDistribution | None, np.ndarray | None],
) -> np.ndarray:
    """Return (times, resamples) Brier scores."""
    (time, event), (censoring, multiplicity) = follow_up, weighting
    rows = len(time)
    if censoring is None:
        censoring = CensoringDistribution.fit(time, event, multiplicity=multiplicity)
    count = np.ones((rows, 1)) if multiplicity is None else np.asarray(multiplicity, np.float64)
    # Of those with the event only: the weights of the others would be divided by G for nothing.
    case_weight = np.zeros(count.shape)
    case_weight[event] = count[event] / _columns(censoring.at(time[event]))
    # The last moment at which someone is known to be free of the event: with an event just before.
    free_until = np.where(event, time, np.nextafter(time, np.inf))
    cases = np.zeros((len(times), count.shape[1]))
    controls = np.zeros_like(cases)
    for some_rows, some_times, block in _blocks(survival, rows, times):
        free = free_until[some_rows, None] > times[some_times]
        loss = np.square(block - free)
        loss_free = loss * free
        loss -= loss_free
        cases[some_times] += loss.T @ case_weight[some_rows]
        controls[some_times] += loss_free.T @ count[some_rows]
    total = cases + controls / _columns(censoring.at(times))
    with np.errstate(invalid="ignore"):
        return total / count.sum(axis=0)


def _columns(probability_observed: np.ndarray) -> np.ndarray:
    """Return (times, resamples or 1)."""
    return probability_observed[:, None] if probability_observed.ndim == 1 else probability_observed


def _blocks(
    survival: np.ndarray | Callable[[np.ndarray], np.ndarray], rows: int, times: np.ndarray
) -> Any:
    """Yield (slice of rows, slice of times, predicted survival there)."""
    if callable(survival):
        width = max(1, 4 * BLOCK // rows)
        for start in range(0, len(times), width):
            some = slice(start, start + width)
            yield slice(None), some, _matrix(survival(times[some]), rows, times[some])
        return
    survival = np.asarray(survival)
    _shape(survival, rows, times)
    height = max(1, BLOCK // len(times))
    for start in range(0, rows, height):
        some = slice(start, min(start + height, rows))
        yield some, slice(None), _matrix(survival[some], some.stop - some.start, times)


def _matrix(block: Any, rows: int, times: np.ndarray) -> np.ndarray:
    block = np.asarray(block, dtype=np.float64)
    _shape(block, rows, times)
    # Two comparisons without a mask; NaN fails both.
    if not (block.min() >= 0 and block.max() <= 1):
        probability(block, rows, "survival")
    return block


def _shape(values: np.ndarray, rows: int, times: np.ndarray) -> None:
    if values.shape != (rows, len(times)):
        raise InputError(f"survival must be ({rows}, {len(times)}), not {values.shape}")
