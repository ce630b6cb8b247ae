"""Missing samples of ECG batches, before they are filtered."""

import torch
from torch import Tensor

from fm_med.ecg.storage import MISSING

# A lead that misses more of its samples than this is absent.
LARGEST_MISSING_SHARE = 0.5


def repair_leads(signal: Tensor, lead_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate missing samples of present leads, and mark leads that miss too many as absent.

    Absent leads keep whatever they hold; only leads with a missing sample are touched.

    Args:
        signal: (batch, leads, samples), int16 with the code `MISSING`, or floats with NaN.
        lead_mask: (batch, leads) bool.

    Returns:
        Signal (as given, or float32 if something was repaired) and lead mask.
    """
    # The lowest value of a lead tells in one pass: `MISSING` is the lowest code, and NaN wins.
    affected = _is_missing(signal.amin(-1)) & lead_mask
    if not affected.any():
        return signal, lead_mask
    leads = signal[affected]
    missing = _is_missing(leads)
    signal, lead_mask = signal.to(torch.float32, copy=True), lead_mask.clone()
    signal[affected] = fill_missing(leads.to(torch.float32), missing)
    lead_mask[affected] = missing.sum(-1) <= LARGEST_MISSING_SHARE * signal.shape[-1]
    return signal, lead_mask


def _is_missing(values: Tensor) -> Tensor:
    return values.isnan() if values.is_floating_point() else values == MISSING


def fill_missing(signal: Tensor, missing: Tensor) -> Tensor:
    """Replace missing samples by straight lines between their neighbours, edges by the nearest.

    Args:
        signal: (rows, samples) float32; missing samples may hold anything.
        missing: (rows, samples) bool.

    Returns:
        (rows, samples) float32; a row without any sample becomes zero.
    """
    samples = signal.shape[-1]
    place = torch.arange(samples, device=signal.device).expand_as(missing)
    before = place.masked_fill(missing, -1).cummax(-1).values
    after = place.masked_fill(missing, samples).flip(-1).cummin(-1).values.flip(-1)
    left = torch.where(before < 0, after, before).clamp(max=samples - 1)
    right = torch.where(after == samples, before, after).clamp(min=0)
    present = signal.masked_fill(missing, 0.0)
    low, high = present.gather(-1, left), present.gather(-1, right)
    share = (place - left) / (right - left).clamp(min=1)
    return torch.where(missing, low + (high - low) * share, present)
