"""Heartbeats of a batch of ECGs: where they are, which are of the usual shape, their median.

Everything works on the spatial velocity, the root mean square of the leads' slopes, which has its
highest values in the QRS complex whatever the heart's axis.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

RATE = 250.0  # Hz of all signals in this module
BEFORE, AFTER = 0.44, 0.72  # seconds of the median beat on either side of the QRS complex
SAME_SHAPE = 0.85  # correlation with the usual QRS complex from which a beat is a usual one
SAME_P = 0.5  # mean correlation of single beats with the median P below which there is no P

_SMOOTHING = 0.10  # seconds; the slopes of one QRS complex melt into one hump
_CLOSEST, _REFRACTORY = 0.24, 0.36  # seconds between two QRS complexes; within the second: a T?
_HEIGHT = 0.4  # of the usual hump; ectopic beats are higher, T waves lower
_CONTRAST, _LEAST = 2.0, 0.15  # hump over the recording's median hump; mV/s
_QRS = (-0.072, 0.112)  # seconds around the hump that tell a beat's shape
_SHIFT = 10  # samples by which a beat may be moved onto the others


@dataclass
class Beats:
    """The beats of a batch; a recording without any has no valid entry.

    Attributes:
        place: (batch, beats) sample of each QRS complex, 0 where not valid.
        valid: (batch, beats) bool.
        usual: (batch, beats) bool, beats of the recording's usual shape.
        median: (batch, 12, samples) median of the usual beats, from `BEFORE` to `AFTER`, mV.
    """

    place: np.ndarray
    valid: np.ndarray
    usual: np.ndarray
    median: np.ndarray


def spatial_velocity(signal: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return (batch, samples) the root mean square over present leads of the slope, mV/s.

    Args:
        signal: (batch, 12, samples) mV at `RATE`; absent leads are 0.
        present: (batch, 12) bool.
    """
    slope = np.gradient(signal, axis=-1) * RATE
    leads = np.maximum(present.sum(1), 1)[:, None]
    return np.sqrt(np.einsum("bls,bls->bs", slope, slope) / leads)


def find_beats(signal: np.ndarray, present: np.ndarray) -> Beats:
    """Find the beats of recordings and average those of the usual shape.

    Args:
        signal: (batch, 12, samples) mV at `RATE`, free of wander; absent leads are 0.
        present: (batch, 12) bool.
    """
    humps = uniform_filter1d(spatial_velocity(signal, present), round(_SMOOTHING * RATE), axis=1)
    found = [_peaks(hump) for hump in humps]
    count = max((len(peaks) for peaks in found), default=0)
    place = np.zeros((len(signal), max(count, 1)), dtype=np.int64)
    valid = np.zeros(place.shape, dtype=bool)
    for row, peaks in enumerate(found):
        place[row, : len(peaks)] = peaks
        valid[row, : len(peaks)] = True
    usual = _align(signal, place, valid)
    return Beats(place, valid, usual, _median_beat(signal, place, usual))


def p_repeats(
    signal: np.ndarray, beats: Beats, onset: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Return (batch,) whether what looks like P in the median beat is there in single beats too.

    Fibrillation waves leave a rest in the median that no single beat resembles.

    Args:
        signal: (batch, 12, samples) mV at `RATE`; absent leads are 0.
        beats: Of `find_beats`.
        onset: (batch,) sample of the median beat, NaN where there is no P.
        offset: (batch,) likewise, its end.
    """
    first = round(BEFORE * RATE)
    time = np.arange(first)
    inside = (time >= onset[:, None]) & (time <= offset[:, None])
    count = np.maximum(inside.sum(1), 1)[:, None, None]

    def shape(windows: np.ndarray) -> np.ndarray:
        part = windows * inside[:, None, None]
        part -= part.sum(-1, keepdims=True) / count[..., None]
        return _unit(part * inside[:, None, None])

    single = shape(_windows(signal, beats.place, -first, 0))
    alike = (single * shape(beats.median[:, None, :, :first])).sum(-1)
    usual = beats.usual & (beats.place >= first)
    mean = (alike * usual).sum(1) / np.maximum(usual.sum(1), 1)
    return inside.any(1) & ((mean > SAME_P) | (usual.sum(1) < 2))


def _peaks(hump: np.ndarray) -> np.ndarray:
    """Return the samples of the QRS complexes of one recording's smoothed velocity."""
    pieces = np.array_split(hump, max(1, round(len(hump) / (1.5 * RATE))))
    usual = float(np.median([piece.max() for piece in pieces]))
    if usual < max(_LEAST, _CONTRAST * float(np.median(hump))):
        return np.empty(0, dtype=np.int64)
    peaks, _ = find_peaks(hump, height=_HEIGHT * usual, distance=round(_CLOSEST * RATE))
    # A complex that an end of the recording cuts has no place and no shape.
    first, last = (round(edge * RATE) for edge in _QRS)
    peaks = peaks[(peaks + first >= 0) & (peaks + last <= len(hump))]
    kept: list[int] = []
    for peak in peaks.tolist():
        close = bool(kept) and peak - kept[-1] < _REFRACTORY * RATE
        if not (close and hump[peak] < 0.6 * hump[kept[-1]]):
            kept.append(peak)
    return np.array(kept, dtype=np.int64)


def _windows(signal: np.ndarray, place: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return (batch, beats, 12, last - first) samples around each place, edges repeated."""
    index = np.clip(place[..., None] + np.arange(first, last), 0, signal.shape[-1] - 1)
    rows = np.arange(len(signal))[:, None, None]
    return signal[rows, :, index].swapaxes(-1, -2)


def _align(signal: np.ndarray, place: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Move beats (in place) onto the recording's most typical one; return which look like it."""
    first, last = (round(edge * RATE) for edge in _QRS)
    wide = _windows(signal, place, first - _SHIFT, last + _SHIFT)
    wide -= wide.mean(-1, keepdims=True)
    shape = _unit(wide[..., _SHIFT:-_SHIFT])
    alike = np.matmul(shape, shape.swapaxes(1, 2))
    alike = np.where(valid[:, None, :], alike, 0.0)  # what fills up a batch must not matter
    # Most companions of its shape; among equals the one most like all others.
    votes = (alike > SAME_SHAPE).sum(2) + alike.sum(2) / (valid.sum(1)[:, None] + 1)
    typical = np.where(valid, votes, -1.0).argmax(1)
    template = shape[np.arange(len(shape)), typical][:, None]
    length = last - first
    by_shift = np.stack(
        [
            (_unit(wide[..., start : start + length]) * template).sum(-1)
            for start in range(2 * _SHIFT + 1)
        ]
    )
    place += np.where(valid, by_shift.argmax(0) - _SHIFT, 0)
    np.clip(place, 0, signal.shape[-1] - 1, out=place)
    return valid & (by_shift.max(0) > SAME_SHAPE)


def _unit(windows: np.ndarray) -> np.ndarray:
    """Return (batch, beats, 12 x samples) of length one."""
    flat = windows.reshape(*windows.shape[:2], -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-9)


def _median_beat(signal: np.ndarray, place: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return (batch, 12, samples); beats cut by an end of the recording are used only alone."""
    first, last = -round(BEFORE * RATE), round(AFTER * RATE)
    whole = usual & (place + first >= 0) & (place + last <= signal.shape[-1])
    chosen = np.where(whole.any(1, keepdims=True), whole, usual)
    median = np.zeros((*signal.shape[:2], last - first), dtype=signal.dtype)
    for row in np.flatnonzero(chosen.any(1)):
        windows = _windows(signal[[row]], place[[row]][:, chosen[row]], first, last)
        median[row] = np.median(windows[0], axis=0)
    return median
