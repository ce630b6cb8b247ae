"""The people of a simulated cohort: age, sex, findings with severities, one unreported trait."""

from dataclasses import dataclass, field

import numpy as np

from fm_med.ecg.simulate.randomness import Tape

FINDINGS = (
    "SBRAD",
    "STACH",
    "AFIB",
    "1AVB",
    "LBBB",
    "RBBB",
    "LVH",
    "AMI",
    "IMI",
    "STD",
    "TINV",
    "LNGQT",
    "LVOLT",
    "PVC",
    "LAD",
)
COLUMN = {finding: column for column, finding in enumerate(FINDINGS)}

# Of each group a person has at most one: two rhythms, or two conduction blocks, cannot coexist,
# an absent P wave has no PR interval, and voltage is not high and low at once.
EXCLUSIVE = (
    ("SBRAD", "STACH", "AFIB"),
    ("AFIB", "1AVB"),
    ("LBBB", "RBBB"),
    ("LVH", "LVOLT"),
)

MEAN_AGE, SD_AGE = 60.0, 14.0
UNIFORMS = 2 * len(FINDINGS) + 8
NORMALS = 64

_PREVALENCE = {
    "SBRAD": 0.070,
    "STACH": 0.050,
    "AFIB": 0.075,
    "1AVB": 0.065,
    "LBBB": 0.055,
    "RBBB": 0.075,
    "LVH": 0.090,
    "AMI": 0.065,
    "IMI": 0.070,
    "STD": 0.080,
    "TINV": 0.090,
    "LNGQT": 0.050,
    "LVOLT": 0.050,
    "PVC": 0.080,
    "LAD": 0.090,
}
_AGE_GRADIENT = 0.35  # log-odds of each finding per standard deviation of age


@dataclass(frozen=True)
class Hospital:
    """What differs between hospitals: patients, language of the reports, recording quality.

    Attributes:
        prevalence: Share of persons aged 60 who have the finding, before exclusions.
        german: Share of reports in German; the others are English.
        noise: Scale of wander, mains and muscle noise; 0 for clean signals.
    """

    prevalence: dict[str, float] = field(default_factory=lambda: dict(_PREVALENCE))
    german: float = 0.5
    noise: float = 1.0


# "b" sees fewer blocks and infarcts, more arrhythmia, writes German and records less cleanly.
_FACTORS_B = {"AFIB": 1.6, "PVC": 1.5, "STACH": 1.6, "LBBB": 0.6, "RBBB": 0.7, "AMI": 0.6}
HOSPITALS = {
    "a": Hospital(),
    "b": Hospital(
        prevalence={name: share * _FACTORS_B.get(name, 1.0) for name, share in _PREVALENCE.items()},
        german=0.85,
        noise=1.8,
    ),
}


@dataclass
class Subjects:
    """A batch of people.

    Attributes:
        age: (subjects,) years.
        female: (subjects,) bool.
        severity: (subjects, 15) in [0, 1], 0 where the finding is absent.
        trait: (subjects,) standard normal; visible in the ECG, never in a report.
        heart_rate: (subjects,) mean ventricular rate, beats per minute.
        body: (subjects, columns) standard normal numbers for the person's own wave shapes.
    """

    age: np.ndarray
    female: np.ndarray
    severity: np.ndarray
    trait: np.ndarray
    heart_rate: np.ndarray
    body: np.ndarray

    def take(self, rows: np.ndarray) -> "Subjects":
        """Return the persons of `rows` (n,), who may repeat."""
        return Subjects(
            self.age[rows],
            self.female[rows],
            self.severity[rows],
            self.trait[rows],
            self.heart_rate[rows],
            self.body[rows],
        )


def draw_subjects(tape: Tape, hospital: Hospital) -> Subjects:
    """Draw the people of a tape of `UNIFORMS` and `NORMALS` columns."""
    age = np.clip(MEAN_AGE + SD_AGE * tape.normal(1)[:, 0], 18, 95)
    female = tape.uniform(1)[:, 0] < 0.5
    severity = _draw_severity(tape, age, hospital)
    trait = tape.normal(1)[:, 0]
    body = tape.normal(NORMALS - 3)
    heart_rate = _heart_rate(severity, tape.normal(1)[:, 0])
    return Subjects(age, female, severity, trait, heart_rate, body)


def _draw_severity(tape: Tape, age: np.ndarray, hospital: Hospital) -> np.ndarray:
    """Return (rows, 15) severities; of findings that exclude each other the more severe stays."""
    prevalence = np.array([hospital.prevalence[name] for name in FINDINGS])
    with np.errstate(divide="ignore"):  # a prevalence of 0 or 1 has infinite log-odds, rightly
        log_odds = np.log(prevalence) - np.log1p(-prevalence)
    older = ((age - MEAN_AGE) / SD_AGE)[:, None]
    with np.errstate(over="ignore"):
        share = 1 / (1 + np.exp(-log_odds - _AGE_GRADIENT * older))
    present = tape.uniform(len(FINDINGS)) < share
    # Kumaraswamy(2, 1.5): close to a Beta distribution, in closed form from one uniform number.
    graded = np.sqrt(1 - (1 - tape.uniform(len(FINDINGS))) ** (1 / 1.5))
    severity = np.where(present, 0.1 + 0.9 * graded, 0.0)
    for group in EXCLUSIVE:
        columns = [COLUMN[name] for name in group]
        members = severity[:, columns]
        members[members < members.max(axis=1, keepdims=True)] = 0
        severity[:, columns] = members
    return severity


def _heart_rate(severity: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return mean rates: 61-98 per minute unless the rhythm says otherwise."""
    slow, fast, fibrillation = (severity[:, COLUMN[name]] for name in ("SBRAD", "STACH", "AFIB"))
    rate = np.clip(72 + 9 * own, 61, 98)
    rate = np.where(slow > 0, 57 + 1.5 * np.clip(own, -2, 1) - 17 * slow, rate)
    rate = np.where(fast > 0, 104 + 1.5 * np.clip(own, -1, 2) + 40 * fast, rate)
    return np.where(fibrillation > 0, np.clip(84 + 16 * own, 50, 150), rate)
