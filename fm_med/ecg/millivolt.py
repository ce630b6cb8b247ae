"""From stored integers to millivolt, recording by recording while it is in the cache."""

import math
from collections.abc import Iterable

import numpy as np


def write_millivolt(
    codes: Iterable[np.ndarray], gain: np.ndarray, lead_mask: np.ndarray, out: np.ndarray
) -> None:
    """Write the voltages of recordings of one length that miss no sample of a present lead.

    The values are `codes * gain` in float32, bit for bit, and zero in absent leads.

    Args:
        codes: Recordings (12 * samples,) int16, lead after lead.
        gain: (batch, 12) float32, millivolt per unit.
        lead_mask: (batch, 12) bool.
        out: (batch, 12, samples) float32.
    """
    # NumPy multiplies int16 by float32 in small pieces that it converts first. To convert a whole
    # recording and then scale it where it lies is faster, more so by one factor for all leads.
    factor = gain.max(1, initial=0.0)
    uniform = ((gain == factor[:, None]) | ~lead_mask).all(1).flatten().tolist()
    complete = lead_mask.all(1).flatten().tolist()
    flats = out.reshape(len(out), math.prod(out.shape[1:]))
    for row, (units, flat) in enumerate(zip(codes, flats)):
        flat[...] = units
        if uniform[row]:
            np.multiply(flat, factor[row], out=flat)
        else:
            out[row] *= gain[row, :, None]
        if not complete[row]:
            out[row, ~lead_mask[row]] = 0.0
