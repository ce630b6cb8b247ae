"""Survival times whose hazard is known: Weibull in time, log-linear in what the person has."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.subjects import (
    FINDINGS,
    MEAN_AGE,
    NORMALS,
    SD_AGE,
    UNIFORMS,
    Hospital,
    Subjects,
    draw_subjects,
)

SHAPE = 1.3  # of the Weibull distribution: the hazard rises with time
FOLLOW_UP = (24.0, 88.0)  # months; censoring is uniform in between

LOG_HAZARD = {
    "SBRAD": 0.0,
    "STACH": 0.2,
    "AFIB": 0.9,
    "1AVB": 0.1,
    "LBBB": 1.2,
    "RBBB": 0.2,
    "LVH": 0.9,
    "AMI": 0.9,
    "IMI": 0.6,
    "STD": 0.5,
    "TINV": 0.5,
    "LNGQT": 0.4,
    "LVOLT": 0.4,
    "PVC": 0.3,
    "LAD": 0.0,
}
_TRAIT, _RATE, _AGE = 0.55, 0.25, 0.45
_MEAN_RATE, _SD_RATE = 74.0, 14.0
_REFERENCE_PERSONS = 20_000


@dataclass
class LogHazard:
    """What an oracle knows of each person's log-hazard (subjects,), at an effect of 1.

    Attributes:
        everything: Findings, trait, rate and age; the true log-hazard is effect x this.
        ecg: All of it that the ECG shows: without age.
        findings: Only the findings that a report can name.
        age: Only age.
    """

    everything: np.ndarray
    ecg: np.ndarray
    findings: np.ndarray
    age: np.ndarray


def log_hazard(subjects: Subjects) -> LogHazard:
    """Return the oracles' ladder for a batch of people."""
    # A product of matrices would round one person's sum by how many persons there are.
    weights = np.array([LOG_HAZARD[name] for name in FINDINGS])
    findings = (subjects.severity * weights).sum(axis=1)
    rate = (subjects.heart_rate - _MEAN_RATE) / _SD_RATE
    ecg = findings + _TRAIT * subjects.trait + _RATE * rate
    age = _AGE * (subjects.age - MEAN_AGE) / SD_AGE
    return LogHazard(ecg + age, ecg, findings, age)


def draw_survival(tape: Tape, hazard: np.ndarray, baseline: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw follow-up of people with log-hazard `hazard` (subjects,); uses 2 uniform columns.

    Args:
        tape: Random numbers.
        hazard: True log-hazards.
        baseline: Logarithm of the cumulative hazard at one month when the log-hazard is 0.

    Returns:
        time (subjects,) months, and event (subjects,) bool, False where censored.
    """
    own = tape.uniform(2)
    survival = -np.log1p(-own[:, 0])
    failure = np.exp((np.log(np.maximum(survival, 1e-300)) - baseline - hazard) / SHAPE)
    censored = FOLLOW_UP[0] + (FOLLOW_UP[1] - FOLLOW_UP[0]) * own[:, 1]
    return np.minimum(failure, censored), failure <= censored


# Months of follow-up at which the expected event share is averaged.
_MONTHS = np.linspace(*FOLLOW_UP, 65)


def baseline_for(hospital: Hospital, effect: float, event_share: float) -> float:
    """Return the baseline at which the hospital expects this share of events, by bisection.

    It is found on a fixed reference population, so a person's follow-up does not depend on who
    else is simulated; the share in a cohort then varies as chance lets it.
    """
    prevalence = tuple(sorted(hospital.prevalence.items()))
    return _baseline(prevalence, effect, event_share)


@lru_cache(maxsize=32)
def _baseline(prevalence: tuple[tuple[str, float], ...], effect: float, share: float) -> float:
    generator = np.random.default_rng(20_000)
    tape = Tape(
        generator.random((_REFERENCE_PERSONS, UNIFORMS)),
        generator.standard_normal((_REFERENCE_PERSONS, NORMALS)),
    )
    people = draw_subjects(tape, Hospital(prevalence=dict(prevalence)))
    hazard = effect * log_hazard(people).everything
    low, high = -40.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        if _expected_share(hazard, middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _expected_share(hazard: np.ndarray, baseline: float) -> float:
    """Return the mean probability of an event before censoring."""
    scale = np.exp(np.sort(hazard)[::20] + baseline)  # every 20th quantile is enough
    return float(np.mean(-np.expm1(-scale[:, None] * _MONTHS**SHAPE)))
