"""Calibration: does a predicted risk of 20 % come true in 20 of 100?"""

import warnings
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import stats

from fm_med.errors import InputError
from fm_med.metrics import Interval
from fm_med.survival.baseline import breslow_baseline
from fm_med.survival.checks import outcome, probability, within_follow_up
from fm_med.survival.cox_fit import ConvergenceWarning, CoxFit, fit_cox
from fm_med.survival.kaplan_meier import kaplan_meier
from fm_med.survival.splines import RestrictedCubicSpline

# cloglog of 0 and 1 is infinite; nobody's risk is known to be below one in a billion.
SMALLEST = 1e-9
CURVE_POINTS = 101
REACH = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class CalibrationBins:
    """Predicted and observed risk in groups of rising predicted risk.

    Attributes:
        predicted: (bins,) mean predicted risk.
        observed: (bins,) Kaplan-Meier risk at the horizon; NaN where no follow-up gets there.
        low: (bins,) lower end of the 95 % interval of `observed`.
        high: (bins,) upper end.
        rows: (bins,) number of rows.
        events: (bins,) events by the horizon.
    """

    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray
    events: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """How predicted risks at one horizon agree with what happened.

    Attributes:
        slope: 1 is ideal; below 1 the predictions are too extreme. NaN for a constant prediction;
            its ends are NaN where predictions separate the events.
        intercept: 0 is ideal; log of how much higher the cumulative hazard is than predicted.
        observed_expected: Kaplan-Meier risk over mean predicted risk; 1 is ideal.
        ici: Mean absolute difference between smoothed observed and predicted risk.
        e50: Its median.
        e90: Its 90th percentile.
        bins: For the plot.
        curve: (points, 2) predicted and smoothed observed risk, rising in the first.
    """

    slope: Interval
    intercept: Interval
    observed_expected: Interval
    ici: float
    e50: float
    e90: float
    bins: CalibrationBins
    curve: np.ndarray


def calibration_at(
    time: Any, event: Any, risk_at_horizon: Any, *, horizon: float, bins: int = 10
) -> Calibration:
    r"""Compare predicted risks at a horizon with the follow-up until it.

    All models are Cox models of the follow-up, censored at the horizon h, on the complementary
    log-log of the predicted risk :math:`g_i = \log(-\log(1 - p_i))`, the log of the predicted
    cumulative hazard (Efron's ties):

    - slope: the coefficient of :math:`g`;
    - intercept: :math:`\log \hat H_0(h)` with :math:`g` as offset (slope 1), where a calibrated
      model has :math:`H_0(h) = 1`;
    - smoothed observed risk, for ici, e50 and e90: a restricted cubic spline of :math:`g` with 3
      knots (Austin, Harrell & van Klaveren).

    Intervals of slope, intercept and observed / expected are analytic, with each row one person.
    ici, e50 and e90 come without; the plain way of `fm_med.metrics.bootstrap`, one call per
    resample, serves them (``lambda t, e, p: calibration_at(t, e, p, horizon=h).ici``).

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        risk_at_horizon: (rows,) predicted probability of the event by `horizon`.
        horizon: Within the follow-up.
        bins: Number of groups of equal size for the plot; equal predictions share a group.

    References:
        Austin, Harrell & van Klaveren, Statistics in Medicine 39 (2020) 2714-2742; Crowson,
        Atkinson & Therneau, Statistical Methods in Medical Research 25 (2016) 1692-1706.

    Raises:
        InputError: Bad follow-up, a horizon beyond it, no event by the horizon, or a risk that is
            no probability.
    """
    time, event = outcome(time, event)
    horizon = within_follow_up(horizon, time)
    risk = probability(risk_at_horizon, len(time), "risk_at_horizon")
    if risk.ndim != 1:
        raise InputError(f"risk_at_horizon must be ({len(time)},), not {risk.shape}")
    event = event & (time <= horizon)
    time = np.minimum(time, horizon)
    if not event.any():
        raise InputError(f"calibration needs events, but none came by horizon {horizon:g}")
    clipped = np.clip(risk, SMALLEST, 1 - SMALLEST)
    log_hazard = np.log(-np.log1p(-clipped))
    observed = _smooth(time, event, log_hazard)
    gap = np.abs(observed - risk)
    return Calibration(
        slope=_slope(time, event, log_hazard),
        intercept=_intercept(time, event, log_hazard),
        observed_expected=_observed_expected(time, event, risk),
        ici=float(gap.mean()),
        e50=float(np.quantile(gap, 0.5)),
        e90=float(np.quantile(gap, 0.9)),
        bins=_bins((time, event), risk, horizon, bins),
        curve=_thinned(risk, observed),
    )


def d_calibration(
    time: Any, event: Any, survival_at_time: Any, *, bins: int = 10
) -> tuple[float, float, np.ndarray]:
    r"""Return chi-squared, p value and (bins,) counts of the D-calibration test.

    Predicted survival at one's own event time is uniform on [0, 1] if predicted distributions are
    right. Someone censored at predicted survival s is spread evenly over [0, s].

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        survival_at_time: (rows,) each row's predicted survival at its own time.
        bins: Number of equal parts of [0, 1]; the first holds the lowest survival.

    References:
        Haider, Hoehn, Davis & Greiner, JMLR 21 (2020) 85.

    Raises:
        InputError: Bad follow-up, no event, or a survival that is no probability.
    """
    time, event = outcome(time, event)
    if not event.any():
        raise InputError(f"D-calibration needs events, but none of {len(time)} rows has one")
    survival = probability(survival_at_time, len(time), "survival_at_time")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, survival, side="right") - 1, 0, bins - 1)
    counts = np.bincount(bin_of[event], minlength=bins).astype(np.float64)
    censored = np.maximum(survival[~event], np.finfo(float).tiny)
    # The share of [0, s] below each edge, for all who are censored.
    below = np.minimum(edges / censored[:, None], 1).sum(axis=0)
    counts += np.diff(below)
    expected = len(time) / bins
    chi2 = float(((counts - expected) ** 2).sum() / expected)
    return chi2, float(stats.chi2.sf(chi2, bins - 1)), counts


def _slope(time: np.ndarray, event: np.ndarray, log_hazard: np.ndarray) -> Interval:
    if np.ptp(log_hazard) == 0:
        return Interval(np.nan, np.nan, np.nan, len(time))
    effect = _fit(time, event, log_hazard[:, None]).clinical_effects()[0]
    return Interval(effect.value, effect.low, effect.high, len(time))


def _fit(time: np.ndarray, event: np.ndarray, columns: np.ndarray) -> CoxFit:
    with warnings.catch_warnings():
        # A spline of few distinct predictions has columns to spare, and predictions that separate
        # the events have a slope without interval: both are right here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_cox(None, time=time, event=event, clinical=columns)


def _intercept(time: np.ndarray, event: np.ndarray, log_hazard: np.ndarray) -> Interval:
    baseline = breslow_baseline(log_hazard, time=time, event=event, ties="efron")
    hazard = float(baseline.relative_hazard[-1])
    value = float(np.log(hazard) - baseline.centre)
    reach = REACH * float(np.sqrt(baseline.variance[-1])) / hazard
    return Interval(value, value - reach, value + reach, len(time))


def _observed_expected(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> Interval:
    """Return the ratio, with an interval on the log scale that takes predictions as given."""
    curve = kaplan_meier(time, event)
    free, expected = float(curve.survival[-1]), float(risk.mean())
    if expected == 0:
        return Interval(np.nan, np.nan, np.nan, len(time))
    ratio = (1 - free) / expected
    if free == 0:
        return Interval(ratio, np.nan, np.nan, len(time))
    reach = np.exp(REACH * free * np.sqrt(curve.variance[-1]) / (1 - free))
    return Interval(ratio, float(ratio / reach), float(ratio * reach), len(time))


def _smooth(time: np.ndarray, event: np.ndarray, log_hazard: np.ndarray) -> np.ndarray:
    """Return (rows,) the observed risk as a smooth function of the predicted one."""
    fitted = np.zeros(len(time))
    if np.ptp(log_hazard) > 0:
        # As published, straight to both ends: here the extreme predictions are on trial themselves.
        spline = RestrictedCubicSpline.fit(log_hazard, 3)
        basis = replace(spline, low=-np.inf, high=np.inf).basis(log_hazard)
        fitted = _fit(time, event, basis).log_hazard(clinical=basis)
    return breslow_baseline(fitted, time=time, event=event, ties="efron").risk(fitted, time.max())


def _bins(
    follow_up: tuple[np.ndarray, np.ndarray], risk: np.ndarray, horizon: float, bins: int
) -> CalibrationBins:
    time, event = follow_up
    inner = np.unique(np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(inner, risk, side="left")
    rows = []
    for one in np.unique(group):
        mine = group == one
        curve = kaplan_meier(time[mine], event[mine])
        observed = np.array([curve.survival[-1], curve.high[-1], curve.low[-1]])
        if curve.follow_up < horizon and curve.survival[-1] > 0:
            observed[:] = np.nan
        rows.append((risk[mine].mean(), *(1 - observed), mine.sum(), event[mine].sum()))
    predicted, observed, low, high, count, events = np.array(rows, dtype=np.float64).T
    return CalibrationBins(predicted, observed, low, high, count.astype(int), events.astype(int))


def _thinned(risk: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return evenly spaced ranks of the curve, enough to draw it."""
    order = np.argsort(risk, kind="stable")
    order = order[np.unique(np.linspace(0, len(risk) - 1, CURVE_POINTS).astype(int))]
    return np.stack([risk[order], observed[order]], axis=1)
