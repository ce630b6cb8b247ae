"""From beats and waves to the eight independent leads: a moving dipole seen through Dower's matrix.

The dipole is a function of continuous time, so every sampling rate samples the same heart.
"""

import numpy as np

from fm_med.ecg.simulate.findings import apply_findings
from fm_med.ecg.simulate.rhythm import Beats
from fm_med.ecg.simulate.subjects import COLUMN, Subjects
from fm_med.ecg.simulate.waves import Waves, ectopic_waves, healthy_waves

# Rows I, II, V1-V6; columns X, Y, Z. Dower, Machado, Osborne: On deriving the electrocardiogram
# from vectorcardiographic leads. Clinical Cardiology 3(2), 1980.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ],
    dtype=np.float32,
)

_BEFORE, _AFTER = 0.48, 0.72  # seconds around the R peak in which a beat has waves
_LUNGS = np.deg2rad(5.0)  # the heart turns this far with each breath
FIBRILLATION_COLUMNS = 6


def independent_leads(
    subjects: Subjects, beats: Beats, fibrillation: np.ndarray, sampling_rate: int, samples: int
) -> np.ndarray:
    """Return (recordings, 8, samples) float32 millivolt of leads I, II, V1-V6, without noise.

    Args:
        subjects: The person of each recording.
        beats: The beats of each recording.
        fibrillation: (recordings, FIBRILLATION_COLUMNS) uniform numbers for the f waves.
        sampling_rate: Hz.
        samples: Length.
    """
    frank = _beat_by_beat(subjects, beats, sampling_rate, samples)
    _add_fibrillation(frank, subjects, fibrillation, sampling_rate)
    return np.matmul(DOWER, frank)


def _beat_by_beat(subjects: Subjects, beats: Beats, sampling_rate: int, samples: int) -> np.ndarray:
    """Return (recordings, 3, samples) float32: the waves of every beat, added up."""
    before, after = int(_BEFORE * sampling_rate), int(_AFTER * sampling_rate)
    margin = before + after
    padded = np.zeros((len(beats.time), 3, samples + 2 * margin), dtype=np.float32)
    sinus = healthy_waves(subjects)
    apply_findings(sinus, subjects)
    ectopic = ectopic_waves(subjects)
    breath = beats.breath()
    window = np.arange(-before, after)
    for beat in range(beats.time.shape[1]):
        peak = np.floor(beats.time[:, beat] * sampling_rate).astype(int)
        rows = np.flatnonzero((peak > -after) & (peak < samples + before))
        if not len(rows):
            continue
        wide = beats.ectopic[rows, beat]
        waves = _choose(sinus, ectopic, rows, wide)
        _breathe(waves, breath[rows, beat])
        offset = beats.time[rows, beat] - peak[rows] / sampling_rate
        time = (window / sampling_rate)[None, :] - offset[:, None]
        place = peak[rows, None] + margin + window
        # One beat touches each sample of a recording once, so adding through an index is right.
        padded[rows[:, None, None], np.arange(3)[:, None], place[:, None, :]] += _shape(waves, time)
    return padded[:, :, margin : margin + samples]


def _choose(sinus: Waves, ectopic: Waves, rows: np.ndarray, wide: np.ndarray) -> Waves:
    """Return the waves of one beat of the recordings `rows`, ectopic where `wide`."""
    chosen = Waves(sinus.centre[rows], sinus.width[rows], sinus.amplitude[rows])
    chosen.centre[wide] = ectopic.centre[rows[wide]]
    chosen.width[wide] = ectopic.width[rows[wide]]
    chosen.amplitude[wide] = ectopic.amplitude[rows[wide]]
    return chosen


def _breathe(waves: Waves, breath: np.ndarray) -> None:
    """Turn the heart about the front-to-back axis and dampen it as the lungs fill."""
    angle = _LUNGS * breath[:, None]
    x, y = waves.amplitude[..., 0].copy(), waves.amplitude[..., 1].copy()
    waves.amplitude[..., 0] = x * np.cos(angle) - y * np.sin(angle)
    waves.amplitude[..., 1] = x * np.sin(angle) + y * np.cos(angle)
    waves.amplitude *= 1 - 0.04 * breath[:, None, None]


def _shape(waves: Waves, time: np.ndarray) -> np.ndarray:
    """Return (rows, 3, times): the sum of a beat's Gaussians along each axis."""
    scale = (1 / waves.width).astype(np.float32)
    distance = time.astype(np.float32)[:, None, :] * scale[:, :, None]
    distance -= (waves.centre.astype(np.float32) * scale)[:, :, None]
    np.square(distance, out=distance)
    distance *= -0.5
    np.exp(distance, out=distance)
    return np.matmul(waves.amplitude.astype(np.float32).transpose(0, 2, 1), distance)


def _add_fibrillation(
    frank: np.ndarray, subjects: Subjects, random: np.ndarray, sampling_rate: int
) -> None:
    """Add f waves, 4.5-8 Hz and waxing, strongest in V1 and II, to whoever has fibrillation."""
    severity = subjects.severity[:, COLUMN["AFIB"]]
    rows = np.flatnonzero(severity > 0)
    if not len(rows):
        return
    time = (np.arange(frank.shape[2]) / sampling_rate)[None, :]
    own = random[rows]
    frequency = 4.5 + 3.5 * own[:, [0]]
    drift = 0.8 * np.sin(2 * np.pi * (0.15 + 0.3 * own[:, [1]]) * time + 6.28 * own[:, [2]])
    phase = 2 * np.pi * (frequency * time + own[:, [3]]) + drift
    waxing = 1 + 0.4 * np.sin(2 * np.pi * (0.2 + 0.4 * own[:, [4]]) * time + 6.28 * own[:, [5]])
    wave = waxing * (np.sin(phase) + 0.35 * np.sin(2 * phase + 1.0))
    size = 0.035 + 0.045 * severity[rows]
    direction = np.array([-0.35, 0.75, -0.85])
    frank[rows] += (size[:, None, None] * direction[:, None] * wave[:, None, :]).astype(np.float32)
