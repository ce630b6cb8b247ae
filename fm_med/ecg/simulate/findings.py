"""What each finding does to the waves of a beat, graded by its severity.

Rhythm findings (rate, fibrillation, extrasystoles) live in `rhythm`; fibrillation also removes P.
Each function changes `waves` in place; severity is (subjects,), 0 where the finding is absent.
"""

from collections.abc import Callable

import numpy as np

from fm_med.ecg.simulate.subjects import COLUMN, Subjects
from fm_med.ecg.simulate.waves import (
    ATRIAL,
    LATE,
    QRS,
    REPOLARISATION,
    ST,
    Q,
    R,
    S,
    T,
    Waves,
    rotate_frontal,
    shift_p,
)


def apply_findings(waves: Waves, subjects: Subjects) -> None:
    """Change everybody's waves by the findings that they have.

    The order is from the vessel of the others to the overlay: conduction first, voltage last.
    """
    for finding, change in _CHANGES.items():
        rows = np.flatnonzero(subjects.severity[:, COLUMN[finding]] > 0)
        if len(rows):
            part = Waves(waves.centre[rows], waves.width[rows], waves.amplitude[rows])
            change(part, subjects.severity[rows, COLUMN[finding]])
            waves.centre[rows] = part.centre
            waves.width[rows] = part.width
            waves.amplitude[rows] = part.amplitude


def _atrial_fibrillation(waves: Waves, severity: np.ndarray) -> None:
    """No P wave; the fibrillation waves are drawn over time, in `dipole`."""
    waves.amplitude[:, ATRIAL] *= 0 * severity[:, None, None]


def _first_degree_block(waves: Waves, severity: np.ndarray) -> None:
    """PR interval 0.22 to 0.34 s."""
    shift_p(waves, 0.215 + 0.125 * severity)


def _left_bundle_branch_block(waves: Waves, severity: np.ndarray) -> None:
    """Wide notched R in I, V5, V6 without q; deep wide S in V1-V3; ST and T opposite to QRS."""
    grade = 0.45 + 0.55 * severity
    share = grade[:, None]
    waves.amplitude[:, Q] += share * (np.array([0.10, 0.00, 0.22]) - waves.amplitude[:, Q])
    waves.amplitude[:, R] *= 1 - 0.25 * share
    waves.amplitude[:, R, 2] += 0.35 * grade
    waves.amplitude[:, S] *= 1 - share
    waves.amplitude[:, LATE] += share * np.array([0.85, 0.15, 0.85])
    waves.centre[:, Q] -= 0.012 * grade
    waves.width[:, Q] *= 1 + 0.6 * grade
    waves.width[:, R] *= 1 + 0.55 * grade
    waves.centre[:, LATE] = 0.038 + 0.022 * grade
    waves.width[:, LATE] = 0.012 + 0.007 * grade
    waves.amplitude[:, ST] += share * np.array([-0.16, -0.03, -0.20])
    opposite = np.array([-0.17, -0.02, -0.20])
    for wave in REPOLARISATION:
        waves.amplitude[:, wave] += share * (opposite - waves.amplitude[:, wave])
    waves.centre[:, [ST, *REPOLARISATION]] += 0.035 * share


def _right_bundle_branch_block(waves: Waves, severity: np.ndarray) -> None:
    """RSR' in V1 and a wide slurred S in I, V5, V6; T inverted in V1, V2."""
    grade = 0.45 + 0.55 * severity
    share = grade[:, None]
    waves.amplitude[:, S] *= 1 - 0.3 * share
    waves.amplitude[:, LATE] += share * np.array([-0.55, -0.08, -0.75])
    waves.centre[:, LATE] = 0.048 + 0.016 * grade
    waves.width[:, LATE] = 0.012 + 0.007 * grade
    waves.amplitude[:, REPOLARISATION, 2] += 0.19 * share
    waves.centre[:, [ST, *REPOLARISATION]] += 0.025 * share


def _left_ventricular_hypertrophy(waves: Waves, severity: np.ndarray) -> None:
    """Tall R in V5, V6, I and deep S in V1, V2, with strain when it is severe."""
    growth = np.stack([0.45 + 0.55 * severity, 0.20 + 0.20 * severity, 0.60 + 0.80 * severity], 1)
    waves.amplitude[:, R] *= 1 + growth
    waves.amplitude[:, S, 2] *= 1.2 + 0.4 * severity
    waves.width[:, QRS] *= (1 + 0.08 * severity)[:, None]
    strain = np.clip(severity - 0.3, 0, 1)[:, None]
    waves.amplitude[:, ST] += strain * np.array([-0.12, -0.03, 0.02])
    for wave in REPOLARISATION:
        waves.amplitude[:, wave] += strain * np.array([-0.40, -0.15, 0.02])


def _anterior_infarction(waves: Waves, severity: np.ndarray) -> None:
    """Anterior forces are lost: QS or tiny r in V1-V4, ST slightly up and T inverted there."""
    share = severity[:, None]
    waves.amplitude[:, Q] *= 1 - 0.7 * np.minimum(share + 0.3, 1)
    waves.amplitude[:, Q, 2] += 0.20 + 0.20 * severity
    waves.amplitude[:, R, 2] += 0.15 + 0.50 * severity
    waves.amplitude[:, R, 0] *= 1 - 0.25 * severity
    waves.amplitude[:, ST, 2] -= 0.02 + 0.09 * severity
    waves.amplitude[:, REPOLARISATION, 2] += 0.06 + 0.22 * share


def _inferior_infarction(waves: Waves, severity: np.ndarray) -> None:
    """Q at least 40 ms wide in II, III, aVF, lower R there, T inverted there."""
    waves.amplitude[:, Q, 1] -= 0.28 + 0.42 * severity
    waves.centre[:, Q] -= 0.006
    waves.width[:, Q] *= 1.5 + 0.3 * severity
    waves.amplitude[:, R, 1] *= 0.85 - 0.30 * severity
    waves.amplitude[:, REPOLARISATION, 1] -= (0.05 + 0.16 * severity)[:, None]


def _st_depression(waves: Waves, severity: np.ndarray) -> None:
    """Horizontal ST depression of 0.1 to 0.3 mV in V3-V6, I, II."""
    depth = 0.3 + 0.7 * severity
    waves.amplitude[:, ST] += depth[:, None] * np.array([-0.19, -0.12, 0.08])
    waves.width[:, ST] *= 1.15


def _t_inversion(waves: Waves, severity: np.ndarray) -> None:
    """T flat to deeply negative in V2-V6, I, II."""
    waves.amplitude[:, REPOLARISATION] *= (0.25 - 1.15 * severity)[:, None, None]


def _long_qt(waves: Waves, severity: np.ndarray) -> None:
    """QT 50 to 140 ms longer."""
    waves.centre[:, REPOLARISATION] += (0.045 + 0.090 * severity)[:, None]
    waves.width[:, T] *= 1.1 + 0.2 * severity


def _left_axis(waves: Waves, severity: np.ndarray) -> None:
    """Frontal QRS axis beyond -30 degrees: I positive, II and aVF negative."""
    waves.amplitude[:, [R, S]] = rotate_frontal(waves.amplitude[:, [R, S]], -66 - 32 * severity)


def _low_voltage(waves: Waves, severity: np.ndarray) -> None:
    """QRS below 0.5 mV in the limb leads."""
    waves.amplitude[:, QRS] *= (0.55 - 0.30 * severity)[:, None, None]
    waves.amplitude[:, [ST, *REPOLARISATION]] *= (0.75 - 0.25 * severity)[:, None, None]


_CHANGES: dict[str, Callable[[Waves, np.ndarray], None]] = {
    "AFIB": _atrial_fibrillation,
    "1AVB": _first_degree_block,
    "LBBB": _left_bundle_branch_block,
    "RBBB": _right_bundle_branch_block,
    "LVH": _left_ventricular_hypertrophy,
    "AMI": _anterior_infarction,
    "IMI": _inferior_infarction,
    "STD": _st_depression,
    "TINV": _t_inversion,
    "LNGQT": _long_qt,
    "LAD": _left_axis,
    "LVOLT": _low_voltage,
}
