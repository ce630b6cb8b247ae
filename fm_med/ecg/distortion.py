"""The arithmetic of the augmentation: scale, noise, wander and shift, for rows or whole batches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fm_med.recycled import recycled

# OpenBLAS adds vectors up to this length on the thread that asks, longer ones on several.
_VALUES_OF_ONE_THREAD = 10_000


@dataclass(frozen=True)
class Layer:
    """Something that is added to recordings: a window of a long bank, at a strength.

    Attributes:
        bank: (values,) float32. A recording takes one window for all of its leads, one after the
            other, so that no two leads get the same values.
        place: (batch,) int64, where its window begins.
        strength: (batch,) float32.
    """

    bank: Tensor
    place: Tensor
    strength: Tensor


@dataclass(frozen=True)
class Distortion:
    """What is done to each recording of a batch.

    Attributes:
        factor: (batch,) float32, of the amplitude.
        layers: What is added, in this order.
        shift: (batch,) int64, samples to the right; what enters is zero.
        lead_mask: (batch, leads) bool; other leads become zero.
    """

    factor: Tensor
    layers: list[Layer]
    shift: Tensor
    lead_mask: Tensor


def distort(signal: Tensor, how: Distortion) -> Tensor:
    """Return distorted recordings (batch, leads, samples); the given ones are left alone."""
    plain = signal.dtype == torch.float32 and not signal.requires_grad
    if signal.device.type == "cpu" and plain:
        return distort_rows(signal.contiguous(), how)
    return distort_batch(signal, how)


def distort_batch(signal: Tensor, how: Distortion) -> Tensor:
    """Distort all recordings at once, as an accelerator likes it."""
    batch, leads, samples = signal.shape
    out = signal * how.factor[:, None, None].to(signal.dtype)
    for layer in how.layers:
        windows = layer.bank.unfold(0, leads * samples, 1)[layer.place]
        out += windows.view_as(out) * layer.strength[:, None, None]
    source = torch.arange(samples, device=signal.device) - how.shift[:, None]
    stays = (source >= 0) & (source < samples)
    source = source.clamp(0, samples - 1)[:, None].expand(batch, leads, samples)
    keep = stays[:, None] & how.lead_mask[..., None]
    return out.gather(2, source).masked_fill(~keep, 0.0)


def distort_rows(signal: Tensor, how: Distortion) -> Tensor:
    """Distort one recording after the other, each while it is in the cache of a CPU.

    Three passes over it: it is scaled on its way to where it moves, and each layer is added from
    the bank without a copy. The leads lie one after the other and are moved as one; what thereby
    leaves one lead for the next is what becomes zero.
    """
    from scipy.linalg.blas import saxpy

    output = recycled(*signal.shape)
    leads, samples = signal.shape[1:]
    given, moved, out = signal.flatten().numpy(), output.flatten().numpy(), output.numpy()
    layers = [(one.bank.numpy(), one.place.tolist(), one.strength.tolist()) for one in how.layers]
    factor, absent = how.factor.numpy(), ~how.lead_mask.numpy()
    incomplete = set(np.flatnonzero(absent.any(1)).tolist())
    for row, by in enumerate(how.shift.tolist()):
        first, length = row * leads * samples, leads * samples - abs(by)
        source, target = first + max(-by, 0), first + max(by, 0)
        end = target + length
        np.multiply(given[source : source + length], factor[row], out=moved[target:end])
        for bank, place, strength in layers:
            window = place[row] + max(-by, 0) - target
            for at in range(target, end, _VALUES_OF_ONE_THREAD):
                values = min(_VALUES_OF_ONE_THREAD, end - at)
                # x, y, n, a, offset and step of x, offset and step of y; names cost a microsecond.
                saxpy(bank, moved, values, strength[row], window + at, 1, at, 1)
        out[row, :, slice(0, by) if by >= 0 else slice(samples + by, None)] = 0.0
        if row in incomplete:
            out[row, absent[row]] = 0.0
    return output
