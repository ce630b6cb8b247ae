"""The waves of one heartbeat as Gaussians in space: a healthy beat, and an ectopic one.

Axes are Frank's: X to the left arm, Y to the feet, Z to the back; times are relative to the R peak.
The idea of summing Gaussians is McSharry et al., A dynamical model for generating synthetic
electrocardiogram signals (IEEE TBME 50(3), 2003), here in three dimensions.
"""

from dataclasses import dataclass

import numpy as np

from fm_med.ecg.simulate.subjects import MEAN_AGE, SD_AGE, Subjects

P, P_TERMINAL, Q, R, S, LATE, ST, T, T_TAIL = range(9)
ATRIAL = [P, P_TERMINAL]
QRS = [Q, R, S, LATE]
REPOLARISATION = [T, T_TAIL]

QRS_ONSET = -0.040  # seconds before the R peak

#                centre   width     X      Y      Z   (seconds, seconds, millivolt)
_HEALTHY = np.array(
    [
        [-0.000, 0.0190, 0.060, 0.085, -0.045],  # P, placed by the PR interval
        [-0.000, 0.0190, 0.055, 0.060, 0.050],  # P_TERMINAL
        [-0.021, 0.0070, -0.130, 0.000, -0.240],  # Q: the septum, to the right and forward
        [+0.000, 0.0105, 1.000, 0.750, 0.300],  # R
        [+0.025, 0.0095, -0.270, -0.120, 0.500],  # S: the base, backward
        [+0.055, 0.0180, 0.000, 0.000, 0.000],  # LATE: only in conduction blocks
        [+0.110, 0.0360, 0.015, 0.010, -0.030],  # ST
        [+0.000, 0.0480, 0.150, 0.110, -0.120],  # T, placed by the QT interval
        [+0.000, 0.0300, 0.160, 0.110, -0.130],  # T_TAIL: makes the descent the steeper side
    ]
)
_ECTOPIC = np.array(
    [
        [-0.150, 0.0190, 0.0, 0.0, 0.0],
        [-0.150, 0.0190, 0.0, 0.0, 0.0],
        [-0.045, 0.0200, 0.15, 0.05, 0.10],
        [+0.000, 0.0290, 1.00, 0.90, -0.55],
        [+0.055, 0.0270, 0.35, -0.35, 0.45],
        [+0.090, 0.0250, 0.0, 0.0, 0.0],
        [+0.160, 0.0500, -0.20, -0.18, 0.10],
        [+0.270, 0.0600, -0.28, -0.24, 0.15],
        [+0.330, 0.0420, -0.22, -0.18, 0.12],
    ]
)


@dataclass
class Waves:
    """The nine waves of each person's beat.

    Attributes:
        centre: (subjects, 9) seconds after the R peak.
        width: (subjects, 9) standard deviation of the Gaussian, seconds.
        amplitude: (subjects, 9, 3) millivolt along X, Y, Z.
    """

    centre: np.ndarray
    width: np.ndarray
    amplitude: np.ndarray


def rotate_frontal(vector: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Turn (subjects, waves, 3) vectors in the frontal plane; negative is towards the left arm."""
    angle = np.deg2rad(degrees)[:, None]
    turned = vector.copy()
    turned[..., 0] = vector[..., 0] * np.cos(angle) - vector[..., 1] * np.sin(angle)
    turned[..., 1] = vector[..., 0] * np.sin(angle) + vector[..., 1] * np.cos(angle)
    return turned


def healthy_waves(subjects: Subjects) -> Waves:
    """Return each person's beat without findings: own shapes, age, sex, rate and the trait.

    The trait lowers T, strengthens the terminal force of P and widens the QRS complex, each by
    less than people differ anyway.
    """
    body, trait = subjects.body, subjects.trait
    rows = len(subjects.age)
    waves = Waves(
        np.tile(_HEALTHY[:, 0], (rows, 1)),
        np.tile(_HEALTHY[:, 1], (rows, 1)),
        np.tile(_HEALTHY[:, 2:], (rows, 1, 1)),
    )
    older = (subjects.age - MEAN_AGE) / SD_AGE
    waves.amplitude *= 1 + 0.10 * body[:, :27].reshape(rows, 9, 3)
    waves.amplitude *= np.exp(0.16 * body[:, 27] - 0.06 * subjects.female)[:, None, None]
    waves.amplitude[:, QRS] = rotate_frontal(
        waves.amplitude[:, QRS], 11 * np.clip(body[:, 28], -2, 2) - 6 * older
    )
    repolarisation = np.exp(0.13 * body[:, 29] - 0.16 * trait - 0.05 * older)
    waves.amplitude[:, REPOLARISATION] *= repolarisation[:, None, None]
    terminal = 0.016 * (trait + body[:, 30])
    waves.amplitude[:, P_TERMINAL] += terminal[:, None] * np.array([0.2, 0.0, 1.0])

    slowing = np.exp(0.045 * body[:, 31] + 0.055 * trait)
    waves.centre[:, QRS] *= slowing[:, None]
    waves.width[:, QRS] *= slowing[:, None]
    _place_p_and_t(waves, subjects)
    return waves


def _place_p_and_t(waves: Waves, subjects: Subjects) -> None:
    """Set the PR interval (0.16 s at rest) and the QT interval (QTc by a cubic-root rule)."""
    body = subjects.body
    interval = np.clip(60 / subjects.heart_rate, 0.4, 1.5)
    pr = 0.156 * interval**0.2 * (1 + 0.08 * np.clip(body[:, 32], -2, 2))
    shift_p(waves, pr)
    pace = interval**0.4 * (1 + 0.03 * np.clip(body[:, 33], -2, 2) + 0.02 * subjects.female)
    waves.centre[:, T] = 0.245 * pace
    waves.centre[:, T_TAIL] = 0.290 * pace
    waves.width[:, REPOLARISATION] *= pace[:, None]
    waves.centre[:, ST] *= np.sqrt(pace)
    waves.width[:, ST] *= np.sqrt(pace)


def shift_p(waves: Waves, pr_interval: np.ndarray) -> None:
    """Place the P wave so that it begins `pr_interval` (subjects,) seconds before the QRS."""
    waves.centre[:, P] = QRS_ONSET - pr_interval + 0.040
    waves.centre[:, P_TERMINAL] = QRS_ONSET - pr_interval + 0.070


def ectopic_waves(subjects: Subjects) -> Waves:
    """Return each person's ventricular extrasystole: wide, tall, T opposite, own direction."""
    body = subjects.body
    rows = len(subjects.age)
    amplitude = np.tile(_ECTOPIC[:, 2:], (rows, 1, 1)) * np.exp(0.15 * body[:, 34])[:, None, None]
    amplitude = rotate_frontal(amplitude, 50 * np.clip(body[:, 35], -2, 2))
    depth = np.where(body[:, 36] > 0, 1.0, -1.0)  # left or right ventricle: forward or backward
    amplitude[..., 2] *= depth[:, None]
    centre = np.tile(_ECTOPIC[:, 0], (rows, 1))
    width = np.tile(_ECTOPIC[:, 1], (rows, 1))
    return Waves(centre, width, amplitude)
