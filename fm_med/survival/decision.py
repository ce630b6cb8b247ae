"""Decision curves: what acting on a predicted risk gains, by the threshold of acting."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.checks import outcome, probability, within_follow_up
from fm_med.survival.kaplan_meier import kaplan_meier, survival_at


@dataclass(frozen=True)
class DecisionCurves:
    """Net benefit per person, in units of a true positive.

    Attributes:
        thresholds: (thresholds,) risk from which on one would act.
        model: (thresholds,) acting on those whose predicted risk is at least the threshold; NaN
            where their follow-up ends before the horizon.
        treat_all: (thresholds,) acting on everybody.
        treat_none: (thresholds,) acting on nobody: 0.
    """

    thresholds: np.ndarray
    model: np.ndarray
    treat_all: np.ndarray
    treat_none: np.ndarray


def net_benefit(
    time: Any, event: Any, risk_at_horizon: Any, *, horizon: float, thresholds: Any
) -> DecisionCurves:
    r"""Return the decision curves of the model and of treating all or none.

    .. math:: \mathrm{NB}(p) = \big(1 - \hat S_x(h)\big)\,\hat P(x)
        - \hat S_x(h)\,\hat P(x)\,\frac{p}{1 - p}

    where x are those with a predicted risk of at least p, and :math:`\hat S_x` is Kaplan-Meier of
    their follow-up: those censored before the horizon h count by it. The curves come without
    intervals, as decision curves usually do; `net_benefit_at` gives one for a single threshold.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        risk_at_horizon: (rows,) predicted probability of the event by `horizon`.
        horizon: Within the follow-up.
        thresholds: (thresholds,) each above 0 and below 1.

    References:
        Vickers, Cronin, Elkin & Gonen, BMC Medical Informatics and Decision Making 8 (2008) 53.

    Raises:
        InputError: Bad follow-up, a horizon beyond it, a risk or a threshold out of its range.
    """
    time, event, risk = _checked(time, event, risk_at_horizon, horizon)
    thresholds = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if thresholds.ndim != 1 or not ((thresholds > 0) & (thresholds < 1)).all():
        raise InputError("each threshold must be above 0 and below 1")
    odds = thresholds / (1 - thresholds)
    model = [
        _benefit(time[acted], event[acted], len(time), (horizon, odd))
        for odd, acted in ((odd, risk >= p) for p, odd in zip(thresholds, odds))
    ]
    everybody = [_benefit(time, event, len(time), (horizon, odd)) for odd in odds]
    return DecisionCurves(
        thresholds, np.array(model), np.array(everybody), np.zeros(len(thresholds))
    )


def net_benefit_at(
    time: Any,
    event: Any,
    risk_at_horizon: Any,
    *,
    horizon: float,
    threshold: float,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    """Return the model's net benefit at one threshold.

    Args:
        time: See `net_benefit`, as for the others.
        event: As above.
        risk_at_horizon: As above.
        horizon: As above.
        threshold: Risk from which on one would act.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities. A resample in which the follow-up of
        those acted on ends before the horizon holds their last survival.

    Raises:
        InputError: See `net_benefit`.
    """
    if multiplicity is None:
        curves = net_benefit(time, event, risk_at_horizon, horizon=horizon, thresholds=[threshold])
        return float(curves.model[0])
    time, event, risk = _checked(time, event, risk_at_horizon, horizon)
    if not 0 < threshold < 1:
        raise InputError(f"a threshold must be above 0 and below 1, not {threshold:g}")
    acted, count = risk >= threshold, np.asarray(multiplicity, dtype=np.float64)
    if not acted.any():
        return np.zeros(count.shape[1])
    free = survival_at(time[acted], event[acted], horizon=horizon, multiplicity=count[acted])
    benefit = _of_share(np.nan_to_num(free), threshold / (1 - threshold))
    with np.errstate(invalid="ignore"):
        return benefit * count[acted].sum(axis=0) / count.sum(axis=0)


def _benefit(time: np.ndarray, event: np.ndarray, everybody: int, at: tuple[float, float]) -> float:
    """Return the net benefit of acting on these rows of all."""
    horizon, odds = at
    if not len(time):
        return 0.0
    curve = kaplan_meier(time, event)
    free = float(curve.at(horizon))
    if curve.follow_up < horizon and free > 0:
        return float("nan")
    return float(_of_share(free, odds)) * len(time) / everybody


def _of_share(free: Any, odds: float) -> Any:
    """Return the net benefit per person acted on, of whom this share stays free of the event."""
    return (1 - free) - free * odds


def _checked(
    time: Any, event: Any, risk: Any, horizon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    time, event = outcome(time, event)
    within_follow_up(horizon, time)
    return time, event, probability(risk, len(time), "risk_at_horizon")
