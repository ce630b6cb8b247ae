"""From stored integers to millivolt, recording by recording while it is in the cache."""

from collections.abc import Iterable

import numpy as np


def write_millivolt(
    codes: Iterable[np.ndarray], gain: np.ndarray, lead_mask: np.ndarray, out: np.ndarray
) -> None:
    """Write the voltages of recordings of one length that miss no sample of a present lead.

    The values are `codes * gain` in float32, bit for bit, and zero in absent leads.

    Args:
        codes: Recordings (12, samples) int16, one after the other.
        gain: (batch, 12) float32, millivolt per unit.
        lead_mask: (batch, 12) bool.
        out: (batch, 12, samples) float32.
    """
    # NumPy multiplies int16 by float32 in small pieces that it converts first. To convert a whole
    # recording and then scale it where it lies is faster, more so by one factor for all leads.
    factor = gain.max(1, initial=0.0)
    uniform = set(np.flatnonzero(((gain == factor[:, None]) | ~lead_mask).all(1)).tolist())
    incomplete = set(np.flatnonzero(~lead_mask.all(1)).tolist())
    for row, (units, place) in enumerate(zip(codes, out)):
        place[...] = units
        np.multiply(place, factor[row] if row in uniform else gain[row, :, None], out=place)
        if row in incomplete:
            place[~lead_mask[row]] = 0.0
