"""Classical 12-lead measurements, the ones a cardiologist reads off, for batches of recordings.

Method: resample to 250 Hz and band-pass (0.5 to 40 Hz, zero phase); QRS complexes are humps of the
spatial velocity; beats of the usual shape are aligned by correlation and their median is measured
(`fm_med.ecg.beats`, `fm_med.ecg.delineation`). Onsets and ends are common to all leads; voltages
are relative to the 16 ms before the QRS complex. What cannot be measured is NaN.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fm_med.ecg.beats import RATE, Beats, find_beats, p_repeats
from fm_med.ecg.delineation import Marks, delineate
from fm_med.ecg.filtering import Band, resample_and_filter
from fm_med.ecg.leads import LEADS
from fm_med.ecg.missing import repair_leads
from fm_med.ecg.storage import MISSING, StoredSignals

BAND = Band(high_pass=0.5, low_pass=40.0)
_ROWS_AT_ONCE = 64
_AFTER_J = 0.060  # seconds after the J point at which ST is read
_T_START = 0.080  # seconds after the J point from which a deflection is T, not ST
_I, _III, _AVL, _AVF, _V1, _V3, _V5, _V6 = (
    LEADS.index(lead) for lead in ("I", "III", "aVL", "aVF", "V1", "V3", "V5", "V6")
)


class Measurement(NamedTuple):
    """Unit and meaning of a measurement."""

    unit: str
    meaning: str


MEASUREMENTS: dict[str, Measurement] = {
    "heart_rate": Measurement("/min", "60 / mean interval between beats"),
    "rr_sd": Measurement("ms", "standard deviation of intervals between usual beats"),
    "rr_rmssd": Measurement("ms", "root mean square of successive differences of those intervals"),
    "ectopic_share": Measurement("", "share of beats that are not of the usual shape"),
    "p_duration": Measurement("ms", "onset to end of P"),
    "pr_interval": Measurement("ms", "onset of P to onset of QRS"),
    "qrs_duration": Measurement("ms", "onset to end of QRS, all leads"),
    "qt_interval": Measurement("ms", "onset of QRS to end of T (tangent)"),
    "qtc_fridericia": Measurement("ms", "QT / cube root of the interval between beats in s"),
    "qtc_bazett": Measurement("ms", "QT / square root of the interval between beats in s"),
    "p_axis": Measurement("degrees", "frontal axis of the area of P"),
    "qrs_axis": Measurement("degrees", "frontal axis of the area of QRS"),
    "t_axis": Measurement("degrees", "frontal axis of the area of T"),
    "qrs_t_angle": Measurement("degrees", "angle between the frontal axes of QRS and T, 0 to 180"),
    "sokolow_lyon": Measurement("mV", "S in V1 + the larger R of V5 and V6"),
    "cornell": Measurement("mV", "R in aVL + S in V3"),
    **{f"r_{lead}": Measurement("mV", f"highest point of QRS in {lead}") for lead in LEADS},
    **{f"s_{lead}": Measurement("mV", f"depth of the lowest point in {lead}") for lead in LEADS},
    **{
        f"st_{lead}": Measurement("mV", f"level 60 ms after the J point in {lead}")
        for lead in LEADS
    },
    **{f"t_{lead}": Measurement("mV", f"largest deflection of T in {lead}") for lead in LEADS},
}


@dataclass
class _Median:
    """What is measured on: median beats above the isoelectric level, and their marks.

    Attributes:
        signal: (batch, 12, samples) mV; NaN in absent leads.
        marks: Of each recording.
    """

    signal: np.ndarray
    marks: Marks

    def within(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the signal between two marks (batch,), NaN elsewhere."""
        time = np.arange(self.signal.shape[-1])
        inside = (time >= start[:, None]) & (time <= stop[:, None])
        return np.where(inside[:, None], self.signal, np.nan)


def measure(
    signal: np.ndarray, *, sampling_rate: float, lead_mask: np.ndarray | None = None
) -> np.ndarray:
    """Measure recordings of one sampling rate.

    Args:
        signal: (batch, 12, samples) mV in the order of `LEADS`; NaN where missing.
        sampling_rate: Hz.
        lead_mask: (batch, 12) bool; None takes leads with varying signal as present.

    Returns:
        (batch, measurements) float64 in the order and units of `MEASUREMENTS`; NaN where a wave is
        not found or a lead is absent.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if lead_mask is None:
        filled = np.nan_to_num(signal)
        lead_mask = filled.max(-1, initial=0) > filled.min(-1, initial=0)
    if not len(signal):
        return np.empty((0, len(MEASUREMENTS)))
    measured = [
        _measure_chunk(signal[rows], lead_mask[rows], sampling_rate)
        for rows in np.array_split(np.arange(len(signal)), -(-len(signal) // _ROWS_AT_ONCE))
    ]
    return np.concatenate(measured)


def measure_stored(stored: StoredSignals) -> np.ndarray:
    """Measure a batch read from a cohort, of any rates and lengths; result as in `measure`."""
    measured = np.full((len(stored.signal), len(MEASUREMENTS)), np.nan)
    kinds = np.stack([stored.sampling_rate, stored.samples], axis=1)
    for rate, samples in np.unique(kinds, axis=0).tolist():
        rows = np.flatnonzero((kinds == (rate, samples)).all(1))
        units = stored.signal[rows, :, : int(samples)]
        millivolt = np.where(units == MISSING, np.nan, units * stored.gain[rows, :, None])
        measured[rows] = measure(millivolt, sampling_rate=rate, lead_mask=stored.lead_mask[rows])
    return measured


def _measure_chunk(signal: np.ndarray, lead_mask: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return (batch, measurements) of a few recordings."""
    whole, mask = repair_leads(torch.from_numpy(signal), torch.from_numpy(lead_mask))
    present = mask.numpy()
    whole = whole.masked_fill(~mask[..., None], 0.0)
    filtered = resample_and_filter(whole, rate=sampling_rate, target_rate=RATE, band=BAND).numpy()
    beats = find_beats(filtered, present)
    rhythm = _rhythm(beats)
    interval = 60 / rhythm["heart_rate"]
    marks = delineate(beats.median, present, interval)
    atrial = p_repeats(filtered, beats, marks.p_onset, marks.p_offset)
    marks.p_onset[~atrial], marks.p_offset[~atrial] = np.nan, np.nan
    corrected = beats.median - marks.level[..., None]
    median = _Median(np.where(present[..., None], corrected, np.nan), marks)
    found = rhythm | _intervals(marks, interval) | _axes(median) | _voltages(median)
    return np.stack([found[name] for name in MEASUREMENTS], axis=1)


def _rhythm(beats: Beats) -> dict[str, np.ndarray]:
    """Return rate and variability; intervals beside an unusual beat do not count for the latter."""
    step = np.diff(beats.place, axis=1) * (1000 / RATE)
    whole = beats.valid[:, 1:] & beats.valid[:, :-1]
    usual = beats.usual[:, 1:] & beats.usual[:, :-1]
    count = usual.sum(1)
    mean = _ratio((step * usual).sum(1), count)
    spread = (np.square(step - mean[:, None]) * usual).sum(1)
    twice = usual[:, 1:] & usual[:, :-1]
    successive = (np.square(np.diff(step, axis=1)) * twice).sum(1)
    return {
        "heart_rate": 60_000 / _ratio((step * whole).sum(1), whole.sum(1)),
        "rr_sd": np.sqrt(_ratio(spread, count - 1)),
        "rr_rmssd": np.sqrt(_ratio(successive, twice.sum(1))),
        "ectopic_share": 1 - _ratio(beats.usual.sum(1), beats.valid.sum(1)),
    }


def _intervals(marks: Marks, interval: np.ndarray) -> dict[str, np.ndarray]:
    """Return durations in ms."""
    unit = 1000 / RATE
    qt = (marks.t_end - marks.qrs_onset) * unit
    return {
        "p_duration": (marks.p_offset - marks.p_onset) * unit,
        "pr_interval": (marks.qrs_onset - marks.p_onset) * unit,
        "qrs_duration": (marks.qrs_offset - marks.qrs_onset) * unit,
        "qt_interval": qt,
        "qtc_fridericia": qt / np.cbrt(interval),
        "qtc_bazett": qt / np.sqrt(interval),
    }


def _axes(median: _Median) -> dict[str, np.ndarray]:
    """Return frontal axes, -180 to 180 degrees: 0 is to the left arm, 90 to the feet."""
    marks = median.marks
    spans = {
        "p_axis": (marks.p_onset, marks.p_offset),
        "qrs_axis": (marks.qrs_onset, marks.qrs_offset),
        "t_axis": (marks.qrs_offset + _T_START * RATE, marks.t_end),
    }
    axes = {}
    for name, (start, stop) in spans.items():
        known = np.isfinite(stop - start)
        area = np.where(known[:, None], np.nansum(median.within(start, stop), axis=-1), np.nan)
        area[np.isnan(median.signal).all(-1)] = np.nan
        # aVF stands for a lead that is shorter than I by the factor root(3) / 2.
        axes[name] = np.degrees(np.arctan2(2 / np.sqrt(3) * area[:, _AVF], area[:, _I]))
    apart = np.abs(axes["qrs_axis"] - axes["t_axis"])
    return axes | {"qrs_t_angle": np.minimum(apart, 360 - apart)}


def _voltages(median: _Median) -> dict[str, np.ndarray]:
    """Return R, S, ST and T of each lead and the two hypertrophy indices, mV."""
    marks = median.marks
    qrs = median.within(marks.qrs_onset, marks.qrs_offset)
    r = np.maximum(_extreme(qrs, np.fmax), 0)
    s = np.maximum(-_extreme(qrs, np.fmin), 0)
    place = marks.qrs_offset + _AFTER_J * RATE
    st = _extreme(median.within(np.floor(place), np.floor(place)), np.fmax)
    wave = median.within(marks.qrs_offset + _T_START * RATE, marks.t_end)
    high, low = _extreme(wave, np.fmax), _extreme(wave, np.fmin)
    t = np.where(high >= -low, high, low)
    named = {
        f"{kind}_{lead}": values[:, index]
        for kind, values in (("r", r), ("s", s), ("st", st), ("t", t))
        for index, lead in enumerate(LEADS)
    }
    return named | {
        "sokolow_lyon": s[:, _V1] + np.maximum(r[:, _V5], r[:, _V6]),
        "cornell": r[:, _AVL] + s[:, _V3],
    }


def _extreme(signal: np.ndarray, choose: np.ufunc) -> np.ndarray:
    """Return (batch, 12) the largest or smallest sample, NaN where there is none."""
    return choose.reduce(signal, axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, NaN where below is not positive."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
