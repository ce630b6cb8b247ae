"""When the heart beats: sinus rhythm that breathes, irregular fibrillation, early ectopic beats."""

from dataclasses import dataclass

import numpy as np

from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.subjects import COLUMN, Subjects

LEAD_IN = 1.6  # seconds simulated before the recording starts, so that its first waves are whole
_FASTEST = 3.4  # beats per second that the tape provides for


@dataclass
class Beats:
    """The beats of a batch of recordings.

    Attributes:
        time: (recordings, beats) seconds of the R peak from the start of the recording, rising.
        ectopic: (recordings, beats) bool, True for a ventricular extrasystole.
        breath_rate: (recordings,) breaths per second.
        breath_phase: (recordings,) radians at time 0.
    """

    time: np.ndarray
    ectopic: np.ndarray
    breath_rate: np.ndarray
    breath_phase: np.ndarray

    def breath(self) -> np.ndarray:
        """Return (recordings, beats) the state of the breath at each beat, in [-1, 1]."""
        phase = 2 * np.pi * self.breath_rate[:, None] * self.time + self.breath_phase[:, None]
        return np.sin(phase)


def beat_columns(seconds: float) -> int:
    """Return the number of beats that are drawn for a recording of this length."""
    return int(np.ceil((seconds + LEAD_IN + 1.0) * _FASTEST))


def draw_beats(tape: Tape, subjects: Subjects, seconds: float) -> Beats:
    """Draw beats until after the end of the recording, one row per recording.

    Uses 5 + beat_columns uniform and beat_columns normal columns of the tape.
    """
    beats = beat_columns(seconds)
    own = tape.uniform(5)
    breath_rate = 0.18 + 0.14 * own[:, 0]
    breath_phase = 2 * np.pi * own[:, 1]
    mean = (60 / subjects.heart_rate)[:, None]
    count = np.arange(beats)
    noise = tape.normal(beats)
    breath = np.sin(2 * np.pi * breath_rate[:, None] * mean * count + breath_phase[:, None])
    youth = np.clip((85 - subjects.age) / 60, 0.1, 1)[:, None]
    interval = mean * (1 + 0.05 * youth * breath + 0.012 * noise)

    fibrillation = subjects.severity[:, [COLUMN["AFIB"]]]
    irregular = np.maximum(mean * (1 + (0.14 + 0.14 * fibrillation) * noise), 0.34)
    interval = np.where(fibrillation > 0, irregular, interval)

    certain = ((LEAD_IN + seconds * (0.25 + 0.5 * own[:, 2])) / mean[:, 0]).astype(int)
    ectopic = _ectopic(tape.uniform(beats), certain, subjects.severity[:, COLUMN["PVC"]])
    early = np.maximum(0.58 + 0.08 * own[:, [3]], 0.33 / mean)
    pause = np.zeros_like(ectopic)
    pause[:, 1:] = ectopic[:, :-1]
    # The pause is compensatory: the beat after an extrasystole comes when it would have come.
    interval = interval * np.where(ectopic, early, np.where(pause, 2 - early, 1.0))
    time = np.cumsum(interval, axis=1) - LEAD_IN - own[:, [4]] * mean
    return Beats(time, ectopic, breath_rate, breath_phase)


def _ectopic(chance: np.ndarray, certain: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Return which beats are ectopic: never two in a row, and beat `certain` of whoever has any."""
    ectopic = chance < (0.26 * severity**1.5)[:, None]
    rows = np.arange(len(ectopic))
    ectopic[rows, certain] = severity > 0
    ectopic[rows, certain - 1] = False
    ectopic[:, 0] = False
    for beat in range(1, ectopic.shape[1]):
        ectopic[:, beat] &= ~ectopic[:, beat - 1]
    return ectopic
