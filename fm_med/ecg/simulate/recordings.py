"""From people to recordings and their reports."""

from dataclasses import dataclass

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate import electrodes, reports
from fm_med.ecg.simulate.dipole import FIBRILLATION_COLUMNS, independent_leads
from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.rhythm import beat_columns, draw_beats
from fm_med.ecg.simulate.subjects import Hospital, Subjects

_CHEST = [LEADS.index(lead) for lead in ("V1", "V2", "V3", "V4", "V5", "V6")]
_BLOCK_SAMPLES = 48_000  # of one lead


@dataclass(frozen=True)
class Setup:
    """How recordings are made.

    Attributes:
        hospital: Its language and noise.
        sampling_rate: Hz.
        seconds: Length.
        lead_dropout: Share of recordings that lack one to three of V1-V6.
    """

    hospital: Hospital
    sampling_rate: int
    seconds: float
    lead_dropout: float


@dataclass
class Recorded:
    """Recordings and reports, one row each; fields as in `SimulatedBatch`."""

    signal: np.ndarray
    lead_mask: np.ndarray
    report: list[str]
    language: list[str]
    mentioned: np.ndarray


def record(subjects: Subjects, recorders: list[np.random.Generator], setup: Setup) -> Recorded:
    """Record one ECG per row of `subjects` (a person may repeat), each with its own generator.

    Works through the rows in blocks that stay in the processor's cache.
    """
    rows = len(recorders)
    samples = round(setup.sampling_rate * setup.seconds)
    block = max(1, _BLOCK_SAMPLES // samples)
    recorded = Recorded(
        signal=np.empty((rows, len(LEADS), samples), dtype=np.float32),
        lead_mask=np.empty((rows, len(LEADS)), dtype=bool),
        report=[],
        language=[],
        mentioned=np.empty(subjects.severity.shape, dtype=bool),
    )
    for start in range(0, rows, block):
        part = slice(start, min(start + block, rows))
        one = _record_block(subjects.take(np.arange(rows)[part]), recorders[part], setup)
        recorded.signal[part] = one.signal
        recorded.lead_mask[part] = one.lead_mask
        recorded.report += one.report
        recorded.language += one.language
        recorded.mentioned[part] = one.mentioned
    return recorded


def _record_block(
    subjects: Subjects, recorders: list[np.random.Generator], setup: Setup
) -> Recorded:
    beats = beat_columns(setup.seconds)
    uniforms = 5 + beats + FIBRILLATION_COLUMNS + electrodes.UNIFORMS + reports.UNIFORMS + 7
    tape = Tape.draw(recorders, uniforms, beats + electrodes.NORMALS)
    samples = round(setup.sampling_rate * setup.seconds)

    rhythm = draw_beats(tape, subjects, setup.seconds)
    fibrillation = tape.uniform(FIBRILLATION_COLUMNS)
    heart = independent_leads(subjects, rhythm, fibrillation, setup.sampling_rate, samples)
    noise = electrodes.electrode_noise(tape, recorders, rhythm, setup.sampling_rate, samples)
    signal = electrodes.twelve_leads(heart, np.float32(setup.hospital.noise) * noise)
    written = reports.write_reports(tape, subjects.severity, setup.hospital.german)
    lead_mask = _lead_mask(tape.uniform(7), setup.lead_dropout)
    signal[~lead_mask] = np.nan
    return Recorded(signal, lead_mask, *written)


def _lead_mask(own: np.ndarray, lead_dropout: float) -> np.ndarray:
    """Return (rows, 12) bool: a chest electrode that falls off takes only its own lead."""
    lead_mask = np.ones((len(own), len(LEADS)), dtype=bool)
    # The first number says whether any falls off and, within that share, how many.
    lost = np.ceil(3 * (1 - own[:, 0] / max(lead_dropout, 1e-12))).astype(int)
    rank = np.argsort(np.argsort(own[:, 1:], axis=1), axis=1)
    lead_mask[:, _CHEST] = rank >= np.maximum(lost, 0)[:, None]
    return lead_mask
