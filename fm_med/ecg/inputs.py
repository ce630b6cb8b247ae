"""What every ECG encoder does to its input before its first layer."""

import torch
from torch import Tensor

from fm_med.errors import InputError


def check_signal(
    signal: Tensor, lead_mask: Tensor | None, *, leads: int, min_samples: int
) -> Tensor:
    """Refuse a signal that the encoder cannot take; return the lead mask, all True by default.

    Args:
        signal: (batch, leads, samples) mV.
        lead_mask: (batch, leads) bool, True where the lead is present, or None.
        leads: Leads that the encoder was built for.
        min_samples: Fewest samples that give one token.

    Raises:
        InputError: Wrong number of dimensions, leads or samples, or a mask of another shape.
    """
    if signal.dim() != 3 or signal.shape[1] != leads:
        raise InputError(
            f"signal must be (batch, {leads} leads, samples), its shape is {tuple(signal.shape)}"
        )
    if signal.shape[2] < min_samples:
        raise InputError(
            f"signal has {signal.shape[2]} samples, the encoder needs at least {min_samples}"
        )
    if lead_mask is None:
        return torch.ones(signal.shape[:2], dtype=torch.bool, device=signal.device)
    if lead_mask.shape != signal.shape[:2]:
        raise InputError(
            f"lead_mask must be {tuple(signal.shape[:2])}, its shape is {tuple(lead_mask.shape)}"
        )
    return lead_mask.bool()


def silence_absent_leads(signal: Tensor, lead_mask: Tensor) -> Tensor:
    """Zero the absent leads, whatever they hold (they may hold NaN)."""
    return signal.masked_fill(~lead_mask[..., None], 0.0)
