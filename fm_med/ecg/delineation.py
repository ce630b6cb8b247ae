"""Where P, QRS and T begin and end in a median beat, for all leads together.

The QRS complex is bounded by where the spatial velocity falls to a fifteenth of its height. T ends,
and P begins and ends, where the tangent to the steepest part of the flank meets the baseline, on
the root mean square of the leads (Lepeschkin & Surawicz, Circulation 6:378, 1952, for the tangent).
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from fm_med.ecg.beats import BEFORE, RATE, spatial_velocity

CENTRE = round(BEFORE * RATE)  # sample of the QRS hump in a median beat
_QRS_REACH = 0.16  # seconds on either side of the hump
_QRS_SHARE = 1 / 15
_QUIET = 3  # samples that must stay below the threshold
_LEAST_P, _LEAST_T = 0.020, 0.035  # mV, root mean square over leads
_LONGEST_QT, _LONGEST_PR = 0.70, 0.40  # seconds
_SEGMENT = 0.016  # seconds before the QRS complex that define the isoelectric level


@dataclass
class Marks:
    """Samples (fractions too) within the median beat; NaN where there is no such wave.

    Attributes:
        level: (batch, 12) isoelectric level, mV.
        qrs_onset: (batch,).
        qrs_offset: (batch,).
        t_end: (batch,).
        p_onset: (batch,).
        p_offset: (batch,).
    """

    level: np.ndarray
    qrs_onset: np.ndarray
    qrs_offset: np.ndarray
    t_end: np.ndarray
    p_onset: np.ndarray
    p_offset: np.ndarray


def delineate(median: np.ndarray, present: np.ndarray, interval: np.ndarray) -> Marks:
    """Find the marks of median beats.

    Args:
        median: (batch, 12, samples) mV at `RATE`; absent leads are 0.
        present: (batch, 12) bool.
        interval: (batch,) seconds from beat to beat; NaN if not known.
    """
    onset, offset = _qrs(median, present)
    time = np.arange(median.shape[-1])
    before = (time > onset[:, None] - _SEGMENT * RATE) & (time <= onset[:, None])
    level = (median * before[:, None]).sum(-1) / np.maximum(before.sum(1), 1)[:, None]
    t_end = _t_end(median - level[..., None], present, onset, offset, interval)
    p_onset, p_offset = _p(median, present, onset, t_end, interval)
    return Marks(level, onset, offset, t_end, p_onset, p_offset)


def _qrs(median: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (batch,) the first and last sample of the QRS complex."""
    velocity = uniform_filter1d(spatial_velocity(median, present), 3, axis=1)
    reach = round(_QRS_REACH * RATE)
    near = velocity[:, CENTRE - reach : CENTRE + reach]
    floor = np.quantile(velocity, 0.1, axis=1, keepdims=True)
    peak = near[:, reach // 2 : -reach // 2].max(1, keepdims=True)
    limit = floor + _QRS_SHARE * (peak - floor)
    quiet = maximum_filter1d(velocity, _QUIET, axis=1) < limit
    time = np.arange(median.shape[-1])
    middle = CENTRE - reach // 2 + near[:, reach // 2 : -reach // 2].argmax(1)
    left = quiet & (time <= middle[:, None]) & (time >= CENTRE - reach)
    right = quiet & (time >= middle[:, None]) & (time <= CENTRE + reach)
    onset = np.where(left.any(1), left.shape[1] - 1 - left[:, ::-1].argmax(1), np.nan)
    offset = np.where(right.any(1), right.argmax(1), np.nan)
    lost = np.isnan(onset) | np.isnan(offset)
    # The middle of three quiet samples is one inside the quiet stretch.
    return np.where(lost, np.nan, onset + 1), np.where(lost, np.nan, offset - 1)


def _size(signal: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return (batch, samples) root mean square over the present leads, smoothed over 20 ms."""
    leads = np.maximum(present.sum(1), 1)[:, None]
    size = np.sqrt(np.einsum("bls,bls->bs", signal, signal) / leads)
    return uniform_filter1d(size, 5, axis=1)


def _t_end(
    corrected: np.ndarray,
    present: np.ndarray,
    onset: np.ndarray,
    offset: np.ndarray,
    interval: np.ndarray,
) -> np.ndarray:
    """Return (batch,) the end of T by the tangent to its descent."""
    size = _size(corrected * present[..., None], present)
    samples = size.shape[1]
    bound = np.fmin(_LONGEST_QT, 0.78 * interval - 0.02) * RATE
    stop = np.fmin(onset + bound, samples - 2)
    start = offset + 0.08 * RATE
    time = np.arange(samples)
    peak, height = _highest(size, start, stop)
    after = (time >= peak[:, None]) & (time <= np.fmin(peak + 0.22 * RATE, stop)[:, None])
    slope = np.gradient(size, axis=1)
    steepest = np.where(after, slope, 0.0).argmin(1)
    rows = np.arange(len(size))
    base = np.where(after & (time >= steepest[:, None]), size, np.inf).min(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        end = steepest + (size[rows, steepest] - base) / -slope[rows, steepest]
    good = (height >= _LEAST_T) & (slope[rows, steepest] < 0) & np.isfinite(base)
    good &= (peak < stop) & (end < samples)
    return np.where(good, end, np.nan)


def _p(
    median: np.ndarray,
    present: np.ndarray,
    onset: np.ndarray,
    t_end: np.ndarray,
    interval: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (batch,) the onset and the end of P by the tangents to its flanks."""
    previous = t_end - interval * RATE  # where T of the beat before ends
    start = np.fmax(onset - _LONGEST_PR * RATE, np.nan_to_num(previous, nan=-np.inf) + 2)
    start = np.fmax(start, 1)
    stop = onset - 2
    level = _line(median, start, stop)
    time = np.arange(median.shape[-1])
    inside = (time >= start[:, None]) & (time <= stop[:, None])
    size = _size((median - level) * present[..., None] * inside[:, None], present)
    peak, height = _highest(size, start + 4, stop - 4)
    slope = np.gradient(size, axis=1)
    reach = 0.09 * RATE
    rows = np.arange(len(size))
    rising = inside & (time <= peak[:, None]) & (time >= peak[:, None] - reach)
    falling = inside & (time >= peak[:, None]) & (time <= peak[:, None] + reach)
    up = np.where(rising, slope, 0.0).argmax(1)
    down = np.where(falling, slope, 0.0).argmin(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = up - size[rows, up] / slope[rows, up]
        last = down + size[rows, down] / -slope[rows, down]
    good = (height >= _LEAST_P) & (slope[rows, up] > 0) & (slope[rows, down] < 0)
    good &= (stop - start > 0.06 * RATE) & (first >= start - 3) & (last <= onset + 3)
    return np.where(good, first, np.nan), np.where(good, np.fmin(last, onset), np.nan)


def _highest(
    size: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (batch,) place and height of the highest sample between two marks; NaN if none."""
    time = np.arange(size.shape[1])
    inside = (time >= start[:, None]) & (time <= stop[:, None])
    masked = np.where(inside, size, -np.inf)
    place = masked.argmax(1)
    height = masked.max(1)
    found = np.isfinite(height)
    return np.where(found, place, np.nan), np.where(found, height, np.nan)


def _line(median: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return (batch, 12, samples) the straight line through each lead at two marks."""
    time = np.arange(median.shape[-1])
    first = np.nan_to_num(start, nan=1.0).astype(int)
    last = np.maximum(np.nan_to_num(stop, nan=2.0).astype(int), first + 1)
    rows = np.arange(len(median))
    a, b = median[rows, :, first], median[rows, :, np.minimum(last, median.shape[-1] - 1)]
    share = (time[None] - first[:, None]) / (last - first)[:, None]
    return a[..., None] + (b - a)[..., None] * share[:, None]
