"""Rebuilding a recording: squared error where there is something to rebuild."""

import torch
from torch import Tensor


def masked_mse_loss(reconstruction: Tensor, signal: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each row over the samples that count.

    Rows do not couple, so the result is per row and fits `coupled_backward(row_loss=...)`; its mean
    is the batch's loss.

    Args:
        reconstruction: (batch, leads, samples) mV.
        signal: (batch, leads, samples) mV.
        mask: True where the error counts: (batch, leads) for leads that are present, or (batch,
            leads, samples) for samples that were hidden from the encoder; all when None.

    Returns:
        (batch,) in squared mV, at least float32; 0 for a row in which nothing counts.
    """
    wide = torch.promote_types(reconstruction.dtype, torch.float32)
    error = (reconstruction.to(wide) - signal.to(wide)).square()
    if mask is None:
        return error.flatten(1).mean(1)
    counts = (mask if mask.dim() == error.dim() else mask[..., None]).expand_as(error)
    # where, not a product: what does not count may be NaN.
    total = torch.where(counts, error, 0).flatten(1).sum(1)
    return total / counts.flatten(1).sum(1).clamp(min=1)
