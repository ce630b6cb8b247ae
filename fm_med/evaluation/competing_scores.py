"""Predictions under competing risks, and what is measured on them for each cause."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from fm_med.evaluation.baselines import Design
from fm_med.evaluation.fine_gray import FineGray
from fm_med.evaluation.survival_scores import Horizons, Outcome
from fm_med.examples import Examples
from fm_med.metrics import Interval, bootstrap, paired_difference
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.competing import cumulative_incidence
from fm_med.survival.competing_scores import (
    incidence_auroc_at,
    incidence_brier_at,
    incidence_observed_expected,
)
from fm_med.survival.concordance import concordance_difference, concordance_interval
from fm_med.survival.cox_fit import fit_cox


@dataclass(frozen=True)
class CauseScore:
    """One model's predictions for the evaluated rows.

    Attributes:
        name: As in ``metrics.json``.
        log_hazard: (rows, causes).
        incidence: From a time to (rows, causes) predicted by then; None where only the order is
            known.
    """

    name: str
    log_hazard: np.ndarray
    incidence: Callable[[float], np.ndarray] | None


@dataclass(frozen=True)
class CauseOutcome:
    """The follow-up of the evaluated rows.

    Attributes:
        time: (rows,) in the unit of the model.
        cause: (rows,) int, 0 where censored.
        subject_id: (rows,) str.
    """

    time: np.ndarray
    cause: np.ndarray
    subject_id: np.ndarray

    def of(self, cause: int) -> Outcome:
        """Return the follow-up until one cause, with the others censored."""
        return Outcome(self.time, self.cause == cause, self.subject_id)


def fit_rivals(design: Design, train: Examples, causes: tuple[str, ...]) -> list[CauseScore]:
    """Fit a Cox model per cause on a design's training rows, for age and sex Fine-Gray's as well.

    Clinical covariates are not shrunk; the ridge of the features is chosen for each cause.
    """
    time, cause = train.targets["time"], train.targets["cause"]
    features = (None, None) if design.features is None else design.features
    clinical = design.clinical if design.clinical[0].shape[1] else (None, None)
    both = []
    for k in range(len(causes)):
        fit = fit_cox(
            features[0],
            clinical=clinical[0],
            time=time,
            event=cause == k + 1,
            subject_id=train.subject_id,
        )
        both.append([fit.log_hazard(x, z) for x, z in zip(features, clinical)])
    in_train, in_test = (np.stack(part, axis=1) for part in zip(*both))
    hazards = CauseHazards.fit(in_train, time=time, cause=cause, causes=causes)
    rivals = [CauseScore(design.name, in_test, partial(hazards.incidence, in_test))]
    if design.name == "age_sex":
        rivals.append(_fine_gray(design, train, len(causes)))
    return rivals


def _fine_gray(design: Design, train: Examples, causes: int) -> CauseScore:
    """Fit Fine and Gray's model to each cause."""
    time, cause = train.targets["time"], train.targets["cause"]
    z, test = design.clinical
    fits = [FineGray.fit(z, time=time, cause=cause, of=k + 1) for k in range(causes)]

    def incidence(at: float) -> np.ndarray:
        return np.stack([fit.incidence(test, at) for fit in fits], axis=1)

    log_hazard = np.stack([fit.log_hazard(test) for fit in fits], axis=1)
    return CauseScore(f"{design.name}_fine_gray", log_hazard, incidence)


def cause_scores(
    score: CauseScore, outcome: CauseOutcome, place: int, horizons: Horizons
) -> dict[str, Interval]:
    """Return all metrics of one model for one cause.

    Args:
        score: The model.
        outcome: Of its rows.
        place: The column of the cause, whose number is one more.
        horizons: At which incidences are judged.
    """
    time, cause, who = outcome.time, outcome.cause, outcome.subject_id
    own = outcome.of(place + 1)
    ranking = score.log_hazard[:, place]
    found = {"c_index": concordance_interval(time, own.event, ranking, subject_id=who)}
    if score.incidence is None:
        return found
    observed = cumulative_incidence(time, cause)
    for suffix, at in horizons.times.items():
        risk = score.incidence(at)[:, place]
        auroc = partial(incidence_auroc_at, of=place + 1, horizon=at)
        brier = partial(incidence_brier_at, of=place + 1, horizon=at)
        found[f"auroc_at_{suffix}"] = bootstrap(auroc, who, time, cause, risk)
        found[f"observed_expected_at_{suffix}"] = incidence_observed_expected(
            observed, place + 1, risk, at
        )
        found[f"brier_at_{suffix}"] = bootstrap(brier, who, time, cause, risk)
    return found


def cause_differences(
    model: CauseScore, rival: CauseScore, outcome: CauseOutcome, place: int, horizons: Horizons
) -> tuple[dict[str, Interval], float]:
    """Return the model's metrics minus a rival's, paired, and the p value for the C-index."""
    time, cause, who = outcome.time, outcome.cause, outcome.subject_id
    a, b = model.log_hazard[:, place], rival.log_hazard[:, place]
    event = cause == place + 1
    gain, p_value = concordance_difference(time, event, a, b, subject_id=who)
    found = {"c_index": gain}
    if model.incidence is None or rival.incidence is None:
        return found, p_value
    for suffix, at in horizons.times.items():
        risks = model.incidence(at)[:, place], rival.incidence(at)[:, place]
        for name, statistic in (("auroc", incidence_auroc_at), ("brier", incidence_brier_at)):
            of_cause = partial(statistic, of=place + 1, horizon=at)
            found[f"{name}_at_{suffix}"] = paired_difference(of_cause, who, *risks, time, cause)
    return found, p_value
