"""From clean leads to a recording: noise at the nine electrodes, then the twelve leads.

Noise belongs to electrodes, not to leads, so Einthoven's and Goldberger's equations hold for the
recording as they do for the heart.
"""

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.rhythm import Beats

ELECTRODES = 9  # right arm, left arm, left leg, V1-V6
UNIFORMS = 2
NORMALS = 8 * ELECTRODES + ELECTRODES + 2

# Millivolt of one stored unit. Independent leads are whole microvolt, so that the augmented leads,
# which halve sums of them, are whole units too.
RESOLUTION = 0.0005
_DENSITY = 0.0011  # millivolt per root hertz of muscle and amplifier noise
_BANDWIDTH = 125.0  # hertz
_MAINS = 50.0


def electrode_noise(
    tape: Tape,
    generators: list[np.random.Generator],
    beats: Beats,
    sampling_rate: int,
    samples: int,
) -> np.ndarray:
    """Return (recordings, 9, samples) float32 millivolt: wander, breath, mains, muscle.

    Wander and mains are functions of continuous time. Muscle noise is white up to 125 Hz with one
    density at every sampling rate, drawn sample by sample.
    """
    own = tape.uniform(UNIFORMS)
    coefficients = tape.normal(8 * ELECTRODES).reshape(tape.rows, ELECTRODES, 8)
    loudness = np.exp(0.35 * tape.normal(ELECTRODES) + 0.45 * tape.normal(1))
    restless = np.exp(0.6 * tape.normal(1))[:, :, None]

    frequency = np.stack(
        [
            0.05 + 0.1 * own[:, 0],
            beats.breath_rate,
            0.35 + 0.3 * own[:, 1],
            np.full(tape.rows, _MAINS),
        ],
        axis=1,
    )
    size = np.array([0.035, 0.030, 0.010, 0.004 if sampling_rate > 2.5 * _MAINS else 0.0])
    coefficients = coefficients * np.repeat(size, 2)
    coefficients[:, :, :6] *= restless
    time = np.arange(samples) / sampling_rate
    angle = 2 * np.pi * frequency[:, :, None] * time
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(tape.rows, 8, samples)
    noise = np.matmul(coefficients.astype(np.float32), waves.astype(np.float32))
    for row, generator in enumerate(generators):
        noise[row] += loudness[row, :, None] * _white(generator, sampling_rate, samples)
    return noise


def _white(generator: np.random.Generator, sampling_rate: int, samples: int) -> np.ndarray:
    """Return (9, samples) noise of one density; a moving mean limits it to the bandwidth."""
    length = max(1, int(sampling_rate // (2 * _BANDWIDTH)))
    scale = np.float32(_DENSITY * np.sqrt(sampling_rate / 2))
    white = generator.standard_normal((ELECTRODES, samples + length - 1), dtype=np.float32)
    white *= scale / length
    return np.sum([white[:, shift : shift + samples] for shift in range(length)], axis=0)


def twelve_leads(independent: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return (recordings, 12, samples) float32 millivolt in the order of `LEADS`.

    Args:
        independent: (recordings, 8, samples) leads I, II, V1-V6.
        noise: (recordings, 9, samples) at the electrodes; V1-V6 are read against the mean of the
            three limbs (Wilson's terminal).
    """
    right, left, leg = noise[:, 0], noise[:, 1], noise[:, 2]
    signal = np.empty((len(independent), len(LEADS), independent.shape[2]), dtype=np.float32)
    wilson = (right + left + leg) / np.float32(3)
    first = _whole_microvolt(independent[:, 0] + left - right)
    second = _whole_microvolt(independent[:, 1] + leg - right)
    signal[:, 0] = first
    signal[:, 1] = second
    signal[:, 2] = second - first
    signal[:, 3] = -(first + second) / 2
    signal[:, 4] = first - second / 2
    signal[:, 5] = second - first / 2
    signal[:, 6:] = _whole_microvolt(independent[:, 2:] + noise[:, 3:] - wilson[:, None])
    return signal


def _whole_microvolt(signal: np.ndarray) -> np.ndarray:
    return np.rint(signal * np.float32(1000)) * np.float32(0.001)
