"""Concordance: how often, of two patients, the one with the higher risk has the event first."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fm_med.errors import InputError
from fm_med.metrics import Interval
from fm_med.survival.censoring_weight import CensoringAt, inverse_censoring_weight
from fm_med.survival.comparable_pairs import (
    ComparablePairs,
    checked_multiplicity,
    checked_outcome,
    checked_risk,
)


def concordance_index(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    r"""Harrell's C: the share of comparable pairs in which the earlier event has the higher risk.

    .. math::
        \frac{\sum_{i,j} \delta_i [t_i < t_j] \, ([r_i > r_j] + \tfrac12 [r_i = r_j])}
             {\sum_{i,j} \delta_i [t_i < t_j]}

    where censored rows count as later than an event at the same time, and two events at the same
    time are not compared (as R's ``concordance``, scikit-survival and lifelines do).

    Args:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) 1 or True where the follow-up ended with the event.
        risk: (rows,) any score, higher meaning an earlier event.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for resamples without a pair.

    Raises:
        InputError: See `checked_outcome` and `checked_risk`; or no two rows can be compared.

    References:
        Harrell et al., "Multivariable prognostic models", Statistics in Medicine 15 (1996).
    """
    pairs = _pairs(*checked_outcome(time, event), risk)
    if multiplicity is None:
        return float(pairs.concordant_as_later().sum() / pairs.comparable.sum())
    counts = checked_multiplicity(multiplicity, len(pairs.risk))
    return _ratio(*pairs.weighted(counts, counts.take(pairs.event_rows, axis=0)))


def concordance_index_uno(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    censoring: CensoringAt | None = None,
    horizon: float | None = None,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    r"""Uno's C: Harrell's with each event weighted by :math:`1 / G(t_i-)^2`, before a horizon.

    :math:`G` is the survival function of censoring. Harrell's C depends on how long patients were
    followed; this does not, as long as censoring is independent of risk and event.

    Args:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) 1 or True where the follow-up ended with the event.
        risk: (rows,) any score, higher meaning an earlier event.
        censoring: Distribution of censoring in the training rows; None estimates it from the rows
            at hand, anew in each resample.
        horizon: Only events before this time count; None counts all.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for resamples without a pair.

    Raises:
        InputError: See `concordance_index`; or no event is before the horizon.

    References:
        Uno et al., "On the C-statistics for evaluating overall adequacy of risk prediction
        procedures with censored survival data", Statistics in Medicine 30 (2011).
    """
    time, event = checked_outcome(time, event)
    pairs = _pairs(time, event, risk)
    rows = pairs.event_rows
    counted = time[rows] < (math.inf if horizon is None else horizon)
    if not pairs.comparable[counted].any():
        raise InputError(f"no pair of rows can be compared before the horizon of {horizon:g}")
    counts = None if multiplicity is None else checked_multiplicity(multiplicity, len(time))
    inverse = inverse_censoring_weight(
        time, event, rows[counted], censoring=censoring, multiplicity=counts
    )
    weight = np.zeros((len(rows), inverse.shape[1]))
    weight[counted] = inverse**2
    if counts is None:
        weight = weight[:, 0]
        return float(weight @ pairs.concordant() / (weight @ pairs.comparable))
    return _ratio(*pairs.weighted(counts, weight * counts.take(rows, axis=0)))


def concordance_interval(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    subject_id: Sequence[str] | np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Return Harrell's C with its analytic interval.

    The standard error is the infinitesimal jackknife's (equal to R's ``concordance``), with the
    rows of one patient taken together; the interval is symmetric on the logit scale, so that it
    stays within 0 and 1.

    Args:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) 1 or True where the follow-up ended with the event.
        risk: (rows,) any score, higher meaning an earlier event.
        subject_id: (rows,) the patient of each row; None takes each row as a patient.
        level: Coverage of the interval.

    Returns:
        The interval over `n` patients; its ends are NaN where C is 0 or 1, which leaves no error
        to estimate.

    Raises:
        InputError: See `concordance_index`.
        ValueError: subject_id has another length.

    References:
        Therneau & Watson, "The concordance statistic and the Cox model", Mayo Clinic technical
        report 85 (2015).
    """
    value, influence = _influence(time, event, risk)
    patients = _by_patient(influence, subject_id)
    if not 0 < value < 1:
        return Interval(value, math.nan, math.nan, len(patients))
    centre = math.log(value / (1 - value))
    half = _quantile(level) * float(np.linalg.norm(patients)) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return Interval(value, low, high, len(patients))


def concordance_difference(
    time: np.ndarray,
    event: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    subject_id: Sequence[str] | np.ndarray | None = None,
    level: float = 0.95,
) -> tuple[Interval, float]:
    """Return Harrell's C of `a` minus that of `b` with its interval, and the two-sided p value.

    The models are judged on the same patients, so what their errors have in common cancels: the
    infinitesimal jackknife of the difference, compared with the normal distribution.

    Args:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) 1 or True where the follow-up ended with the event.
        a: (rows,) risk by the model.
        b: (rows,) risk by the one it is compared with.
        subject_id: (rows,) the patient of each row; None takes each row as a patient.
        level: Coverage of the interval.

    Raises:
        InputError: See `concordance_index`.
        ValueError: subject_id has another length.
    """
    value_a, influence_a = _influence(time, event, a)
    value_b, influence_b = _influence(time, event, b)
    patients = _by_patient(influence_a - influence_b, subject_id)
    difference = value_a - value_b
    error = float(np.linalg.norm(patients))
    half = _quantile(level) * error
    interval = Interval(difference, difference - half, difference + half, len(patients))
    if error == 0:
        return interval, float(difference == 0)
    return interval, math.erfc(abs(difference) / error / math.sqrt(2))


def standard_error(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    subject_id: Sequence[str] | np.ndarray | None = None,
) -> float:
    """Return the infinitesimal jackknife's standard error of Harrell's C (`concordance_interval`).

    Raises:
        InputError: See `concordance_index`.
    """
    return float(np.linalg.norm(_by_patient(_influence(time, event, risk)[1], subject_id)))


def _pairs(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> ComparablePairs:
    pairs = ComparablePairs.of(time, event, checked_risk(risk, len(time)))
    if not pairs.comparable.any():
        raise InputError("no two rows can be compared: no row outlived any of the events")
    return pairs


def _influence(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> tuple[float, np.ndarray]:
    """Return C and (rows,) its derivative by the weight of each row."""
    pairs = _pairs(*checked_outcome(time, event), risk)
    as_event, total = pairs.concordant(), pairs.comparable.sum()
    value = float(as_event.sum() / total)
    concordant, comparable = pairs.outliving()
    concordant[pairs.event_rows] += as_event
    comparable[pairs.event_rows] += pairs.comparable
    return value, (concordant - value * comparable) / total


def _by_patient(influence: np.ndarray, subject_id: Sequence[str] | np.ndarray | None) -> np.ndarray:
    """Return (patients,) the summed influence of each patient's rows."""
    if subject_id is None:
        return influence
    if len(subject_id) != len(influence):
        raise ValueError(f"subject_id has {len(subject_id)} rows, time has {len(influence)}")
    patient = np.unique(np.asarray(subject_id), return_inverse=True)[1]
    return np.bincount(patient, weights=influence)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, NaN where below is zero."""
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
