"""Interpolate short gaps in sampled signals, all leads at once."""

import numpy as np


def fill_short_gaps(signal: np.ndarray, longest: int) -> None:
    """Replace inner gaps of at most `longest` samples by straight lines, in place.

    A gap at the beginning or the end has no neighbour on one side and stays NaN, as does every
    gap that is longer: inventing signal there would be a guess.

    Args:
        signal: (leads, samples) float, contiguous; NaN is a missing sample.
        longest: Longest gap that is filled, in samples.
    """
    leads, samples = signal.shape
    # One column of "present" on both sides: a run then never crosses from one lead to the next.
    missing = np.zeros((leads, samples + 2), dtype=np.int8)
    missing[:, 1:-1] = np.isnan(signal)
    change = np.diff(missing.ravel())
    lead, start = np.divmod(np.flatnonzero(change == 1), samples + 2)
    stop = np.flatnonzero(change == -1) % (samples + 2)
    length = stop - start
    inner = (start > 0) & (stop < samples) & (length <= longest)
    lead, start, stop, length = lead[inner], start[inner], stop[inner], length[inner]

    step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    weight = (step + 1) / np.repeat(length + 1, length)
    before = np.repeat(signal[lead, start - 1], length)
    after = np.repeat(signal[lead, stop], length)
    signal[np.repeat(lead, length), np.repeat(start, length) + step] = (
        before * (1 - weight) + after * weight
    )
