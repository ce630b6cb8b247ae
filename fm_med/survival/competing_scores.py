"""How good predicted cumulative incidences are: calibration, Brier score and AUROC at a horizon."""

from statistics import NormalDist
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.metrics import Interval, auroc
from fm_med.survival.calibration import CalibrationBins
from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.checks import outcome, probability, within_follow_up
from fm_med.survival.competing import CumulativeIncidence, cumulative_incidence

REACH = NormalDist().inv_cdf(0.975)


def incidence_brier_at(
    time: Any,
    cause: Any,
    risk_at_horizon: Any,
    *,
    of: int,
    horizon: float,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    r"""Return the Brier score of predicted cumulative incidence of one cause at a horizon h.

    .. math:: \frac1n \sum_i \frac{([c_i = k] - \hat F_i(h))^2\, [T_i \le h, c_i \ne 0]}{G(T_i-)}
        + \frac{\hat F_i(h)^2\, [i\ \text{known to be free of all events at}\ h]}{G(h-)}

    Who had another event by h is known not to get this one. With a single cause it is `brier_at`.

    Args:
        time: (rows,) end of follow-up.
        cause: (rows,) int, 0 where censored.
        risk_at_horizon: (rows,) predicted probability that the cause comes by `horizon` and first.
        of: The cause.
        horizon: Within the follow-up of the rows.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for a resample without rows.

    References:
        Schoop, Beyersmann, Schumacher & Binder, Biometrical Journal 53 (2011) 88-112.

    Raises:
        InputError: Bad follow-up, a horizon beyond it, or a risk that is no probability.
    """
    weights = _Weights.of(time, cause, horizon, multiplicity)
    risk = probability(risk_at_horizon, len(weights.cause), "risk_at_horizon")
    loss = np.square((weights.ended & (weights.cause == of)) - risk)
    with np.errstate(invalid="ignore"):
        score = (loss @ weights.row) / weights.count.sum(axis=0)
    return float(score[0]) if multiplicity is None else score


def incidence_auroc_at(
    time: Any,
    cause: Any,
    risk: Any,
    *,
    of: int,
    horizon: float,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    """Return the AUROC of having a cause by a horizon, against all who have not had it.

    Those are followed beyond the horizon, or had another event before; who was censored before is
    left out, and the others weigh more in their place, as in `incidence_brier_at`.

    Args:
        time: (rows,) end of follow-up.
        cause: (rows,) int, 0 where censored.
        risk: (rows,) any score.
        of: The cause.
        horizon: Within the follow-up of the rows.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN without both kinds.

    References:
        Blanche, Dartigues & Jacqmin-Gadda, Statistics in Medicine 32 (2013) 5381-5397, their second
        definition of controls.

    Raises:
        InputError: Bad follow-up, or a horizon beyond it.
    """
    weights = _Weights.of(time, cause, horizon, multiplicity)
    case = weights.ended & (weights.cause == of)
    known = weights.row.any(axis=1)
    value = auroc(case[known], np.asarray(risk)[known], multiplicity=weights.row[known])
    return float(np.asarray(value)[0]) if multiplicity is None else value


def incidence_observed_expected(
    observed: CumulativeIncidence, cause: int, risk: np.ndarray, horizon: float
) -> Interval:
    """Return observed incidence over mean predicted risk; the predictions are taken as given.

    Args:
        observed: Aalen-Johansen estimate of the rows.
        cause: Which.
        risk: (rows,) predicted by `horizon`.
        horizon: Of both.
    """
    seen, expected = float(observed.at(horizon, cause)), float(risk.mean())
    if not seen or not expected:
        return Interval(np.nan, np.nan, np.nan, len(risk))
    step = int(np.searchsorted(observed.time, horizon, side="right")) - 1
    error = float(observed.error[step, observed.causes.index(cause)])
    ratio, spread = seen / expected, float(np.exp(REACH * error / seen))
    return Interval(ratio, ratio / spread, ratio * spread, len(risk))


def incidence_bins(
    time: Any, cause: Any, risk: Any, *, of: int, horizon: float, bins: int = 10
) -> CalibrationBins:
    """Compare predicted and observed cumulative incidence in groups of rising predicted risk.

    Args:
        time: (rows,) end of follow-up.
        cause: (rows,) int, 0 where censored.
        risk: (rows,) predicted by `horizon`.
        of: The cause.
        horizon: Within the follow-up.
        bins: Number of groups of equal size; equal predictions share a group.

    Returns:
        Mean predicted risk and the Aalen-Johansen estimate of each group, NaN where no follow-up
        gets to the horizon.

    Raises:
        InputError: Bad follow-up, a horizon beyond it, or a risk that is no probability.
    """
    time, cause = np.asarray(time, np.float64), np.asarray(cause)
    horizon = within_follow_up(horizon, time)
    risk = probability(risk, len(time), "risk")
    inner = np.unique(np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(inner, risk, side="left")
    rows = []
    for one in np.unique(group):
        mine = group == one
        seen = _observed(time[mine], cause[mine], of, horizon)
        events = ((cause == of) & (time <= horizon) & mine).sum()
        rows.append((risk[mine].mean(), *seen, mine.sum(), events))
    predicted, observed, low, high, count, events = np.array(rows, dtype=np.float64).T
    return CalibrationBins(predicted, observed, low, high, count.astype(int), events.astype(int))


def _observed(time: np.ndarray, cause: np.ndarray, of: int, horizon: float) -> list[float]:
    """Return the Aalen-Johansen estimate of a cause at a horizon with its interval."""
    by_then = time <= horizon
    if time.max() < horizon and not ((cause > 0) & (time == time.max())).all():
        return [np.nan] * 3
    if not ((cause == of) & by_then).any():
        return [0.0, np.nan, np.nan]
    curve = cumulative_incidence(time, cause)
    step = int(np.searchsorted(curve.time, horizon, side="right")) - 1
    place = curve.causes.index(of)
    return [float(part[step, place]) for part in (curve.incidence, curve.low, curve.high)]


class _Weights:
    """How many persons each row stands for at a horizon, 0 for those censored before.

    Attributes:
        cause: (rows,) int.
        ended: (rows,) bool, some event by the horizon.
        count: (rows, resamples) how often each row counts.
        row: (rows, resamples) that, times the inverse probability of not being censored.
    """

    def __init__(
        self, cause: np.ndarray, ended: np.ndarray, count: np.ndarray, row: np.ndarray
    ) -> None:
        self.cause, self.ended, self.count, self.row = cause, ended, count, row

    @classmethod
    def of(
        cls, time: Any, cause: Any, horizon: float, multiplicity: np.ndarray | None
    ) -> "_Weights":
        """Estimate the censoring distribution from the rows at hand, in each resample anew."""
        cause = np.asarray(cause)
        if cause.dtype.kind not in "iu" or (cause < 0).any():
            raise InputError("cause must be integers >= 0, where 0 means censored")
        time, event = outcome(time, cause > 0)
        horizon = within_follow_up(horizon, time)
        count = np.ones((len(time), 1)) if multiplicity is None else np.asarray(multiplicity, float)
        censoring = CensoringDistribution.fit(time, event, multiplicity=multiplicity)
        ended = event & (time <= horizon)
        # As in `brier_at`: who is censored at the horizon itself is known to be free until then.
        free = (time > horizon) | (~event & (time == horizon))
        row = np.zeros(count.shape)
        columns = (-1, 1) if multiplicity is None else (-1, count.shape[1])
        row[ended] = count[ended] / censoring.at(time[ended]).reshape(columns)
        row[free] = count[free] / censoring.at(np.array([horizon])).reshape(columns)
        return cls(cause, ended, count, row)
