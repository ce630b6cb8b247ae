"""What is measured on a risk model and its baselines, each number with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fm_med.errors import InputError
from fm_med.evaluation.baselines import Design
from fm_med.examples import Examples
from fm_med.metrics import Interval, bootstrap, paired_difference
from fm_med.survival.baseline import BaselineHazard, breslow_baseline
from fm_med.survival.brier import brier_at, integrated_brier, scaled_brier
from fm_med.survival.calibration import calibration_at
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)
from fm_med.survival.cox_fit import fit_cox
from fm_med.survival.discrete import DiscreteHazard
from fm_med.survival.discrimination import auroc_at
from fm_med.tasks.follow_up import HORIZONS

FEWEST_BEYOND = 10  # persons still followed at a horizon, and events by then, to evaluate it
GRID = 40  # times of the integrated Brier score and of curves over time


@dataclass(frozen=True)
class Horizons:
    """The times at which absolute risks are judged.

    Attributes:
        times: In the unit of the follow-up, by suffix: {"1": 12.0} for one year in months.
        names: {"1": "1 year"}.
        left_out: Sentences on horizons that could not be judged.
    """

    times: Mapping[str, float]
    names: Mapping[str, str]
    left_out: Sequence[str]


@dataclass(frozen=True)
class RiskScore:
    """One model's predictions for the evaluated rows.

    Attributes:
        name: As in ``metrics.json``.
        log_hazard: (rows,) what ranks the rows: a log-hazard, or in discrete time the log of the
            cumulative hazard at the last edge.
        hazard: Such as a baseline hazard; None where only the order is known.
        outputs: (rows, outputs) that `hazard` turns into risks; None for the log-hazards.
    """

    name: str
    log_hazard: np.ndarray
    hazard: BaselineHazard | DiscreteHazard | None
    outputs: np.ndarray | None = None

    def risk(self, at: float) -> np.ndarray:
        """Return (rows,) the probability of the event by a time."""
        hazard, outputs = self._known()
        return hazard.risk(outputs, at)

    def survival(self, times: np.ndarray) -> np.ndarray:
        """Return (rows, times) the probability of being free of the event."""
        hazard, outputs = self._known()
        return hazard.survival(outputs, times)

    def _known(self) -> tuple[BaselineHazard | DiscreteHazard, np.ndarray]:
        if self.hazard is None:
            raise ValueError(f"{self.name} has no baseline hazard")
        return self.hazard, self.log_hazard if self.outputs is None else self.outputs


@dataclass(frozen=True)
class Outcome:
    """The follow-up of the evaluated rows.

    Attributes:
        time: (rows,) in the unit of the model.
        event: (rows,) bool.
        subject_id: (rows,) str.
    """

    time: np.ndarray
    event: np.ndarray
    subject_id: np.ndarray


def per_year(unit: str) -> float:
    """Return how many units a year has.

    Raises:
        InputError: The unit is not one of those that follow-up may have.
    """
    if unit not in HORIZONS:
        raise InputError(f"the follow-up is in {unit!r}, expected {', '.join(HORIZONS)}")
    return HORIZONS[unit][0]


def usable_horizons(
    years: Sequence[float],
    unit: str,
    outcome: Outcome,
    hazard: BaselineHazard | DiscreteHazard | CauseHazards | None,
) -> Horizons:
    """Keep the horizons at which enough persons have had the event or are still followed.

    Args:
        years: Wanted.
        unit: Of the follow-up.
        outcome: Of the evaluated rows.
        hazard: The model's; there is no risk beyond its follow-up.
    """
    times, names, left_out = {}, {}, []
    for year in years:
        name = f"{year:g} year" + ("" if year == 1 else "s")
        time = year * per_year(unit)
        events = int((outcome.event & (outcome.time <= time)).sum())
        beyond = int((outcome.time > time).sum())
        if hazard is not None and time > hazard.follow_up:
            reason = f"the training follow-up ends after {hazard.follow_up:.1f} {unit}"
        elif events < FEWEST_BEYOND:
            reason = f"fewer than {FEWEST_BEYOND} persons had the event by then"
        elif beyond < FEWEST_BEYOND:
            reason = f"fewer than {FEWEST_BEYOND} persons were followed for longer"
        else:
            times[f"{year:g}"], names[f"{year:g}"] = time, name
            continue
        left_out.append(f"The horizon of {name} was left out: {reason}.")
    return Horizons(times, names, left_out)


def fit_baseline(design: Design, train: Examples) -> RiskScore:
    """Fit a Cox model on the training rows of a design and predict the test rows.

    Clinical covariates are not shrunk; the ridge of the features is chosen by cross-validation.
    """
    time, event = train.targets["time"], train.targets["event"]
    features = (None, None) if design.features is None else design.features
    clinical = design.clinical if design.clinical[0].shape[1] else (None, None)
    fit = fit_cox(
        features[0], clinical=clinical[0], time=time, event=event, subject_id=train.subject_id
    )
    in_train, in_test = (fit.log_hazard(x, z) for x, z in zip(features, clinical))
    hazard = breslow_baseline(in_train, time=time, event=event)
    return RiskScore(design.name, in_test, hazard)


def scores(score: RiskScore, outcome: Outcome, horizons: Horizons) -> dict[str, Interval]:
    """Return all metrics of one model; those on absolute risk only where it has a hazard."""
    time, event, who = outcome.time, outcome.event, outcome.subject_id
    found = {"c_index": concordance_interval(time, event, score.log_hazard, subject_id=who)}
    last = max(horizons.times.values(), default=None)
    uno = partial(concordance_index_uno, horizon=last)
    found["c_index_uno"] = bootstrap(uno, who, time, event, score.log_hazard)
    for suffix, at in horizons.times.items():
        auroc = partial(auroc_at, horizon=at)
        found[f"auroc_at_{suffix}"] = bootstrap(auroc, who, time, event, score.log_hazard)
    if score.hazard is None:
        return found
    found["calibration_slope"] = calibration_slope(score.log_hazard, outcome)
    for suffix, at in horizons.times.items():
        found |= _at_horizon(score, outcome, suffix, at)
    if horizons.times:
        grid = brier_grid(outcome, max(horizons.times.values()))
        curves = score.survival(grid)
        found["ibs"] = bootstrap(partial(integrated_brier, times=grid), who, time, event, curves)
        found["scaled_brier"] = bootstrap(
            partial(scaled_brier, times=grid), who, time, event, curves
        )
    return found


def differences(
    model: RiskScore, rival: RiskScore, outcome: Outcome, horizons: Horizons
) -> tuple[dict[str, Interval], float]:
    """Return the model's metrics minus a rival's, paired, and the p value for the C-index."""
    time, event, who = outcome.time, outcome.event, outcome.subject_id
    a, b = model.log_hazard, rival.log_hazard
    gain, p_value = concordance_difference(time, event, a, b, subject_id=who)
    found = {"c_index": gain}
    for suffix, at in horizons.times.items():
        auroc = partial(auroc_at, horizon=at)
        found[f"auroc_at_{suffix}"] = paired_difference(auroc, who, a, b, time, event)
    if model.hazard is not None and rival.hazard is not None and horizons.times:
        grid = brier_grid(outcome, max(horizons.times.values()))
        curves = model.survival(grid), rival.survival(grid)
        ibs = partial(integrated_brier, times=grid)
        found["ibs"] = paired_difference(ibs, who, *curves, time, event)
    return found, p_value


def calibration_slope(log_hazard: np.ndarray, outcome: Outcome) -> Interval:
    """Return the Cox slope of the log-hazard on the evaluated rows; 1 where it is right.

    References:
        Royston & Altman, "External validation of a Cox prognostic model", BMC Medical Research
        Methodology 13:33 (2013).
    """
    if not np.ptp(log_hazard) > 0:
        return Interval(np.nan, np.nan, np.nan, len(log_hazard))
    fit = fit_cox(None, clinical=log_hazard[:, None], time=outcome.time, event=outcome.event)
    slope = fit.clinical_effects()[0]
    return Interval(slope.value, slope.low, slope.high, len(log_hazard))


def gap_closed(model: RiskScore, simple: RiskScore, truth: RiskScore, outcome: Outcome) -> Interval:
    """Return how much of the way from a simple model's C-index to the truth's the model goes."""

    def share(
        time: np.ndarray,
        event: np.ndarray,
        risks: np.ndarray,
        *,
        multiplicity: np.ndarray | None = None,
    ) -> float | np.ndarray:
        c, low, high = (
            concordance_index(time, event, risk, multiplicity=multiplicity) for risk in risks.T
        )
        with np.errstate(divide="ignore", invalid="ignore"):  # no way to go in some resample
            return np.divide(c - low, high - low)

    risks = np.stack([score.log_hazard for score in (model, simple, truth)], axis=1)
    return bootstrap(share, outcome.subject_id, outcome.time, outcome.event, risks)


def brier_grid(outcome: Outcome, last: float) -> np.ndarray:
    """Return times from the first tenth of the events to a horizon, evenly spaced."""
    first = float(np.quantile(outcome.time[outcome.event], 0.1))
    return np.linspace(min(first, 0.5 * last), last, GRID)


def _at_horizon(score: RiskScore, outcome: Outcome, suffix: str, at: float) -> dict[str, Interval]:
    """Return calibration and accuracy of the risks at one horizon."""
    time, event, who = outcome.time, outcome.event, outcome.subject_id
    risk = score.risk(at)
    found = calibration_at(time, event, risk, horizon=at)
    brier = bootstrap(partial(brier_at, horizon=at), who, time, event, 1 - risk)
    return {
        f"observed_expected_at_{suffix}": found.observed_expected,
        f"calibration_slope_at_{suffix}": found.slope,
        # A resample would be a fit of its own: the gap is given without an interval.
        f"ici_at_{suffix}": Interval(found.ici, np.nan, np.nan, len(risk)),
        f"brier_at_{suffix}": brier,
    }
