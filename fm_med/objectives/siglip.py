"""The sigmoid loss over recordings and reports: each pair is a yes-or-no question of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fm_med.objectives.positives import Positives, blocks, default_chunk


def siglip_loss(
    signal_embedding: Tensor,
    text_embedding: Tensor,
    *,
    logit_scale: Tensor,
    logit_bias: Tensor,
    report_id: Tensor | None = None,
    subject_id: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Sum over all pairs of the logistic loss, per row.

    .. math::
        \ell = -\frac{1}{N} \sum_{ij} \log \sigma\big(z_{ij} (\tau^{-1} x_i^\top y_j + b)\big)

    with :math:`z_{ij} = 1` for positives (the pair itself, equal reports, one person), else -1. No
    row needs another one's normaliser, so the gradient is taken in the same pass over the blocks.

    Args:
        signal_embedding: (batch, dim) L2-normalised.
        text_embedding: (batch, dim) L2-normalised.
        logit_scale: Scalar, 1 / temperature.
        logit_bias: Scalar; -10 at the start, as nearly all pairs are negatives.
        report_id: (batch,) int64, equal for identical reports.
        subject_id: (batch,) int64, equal for one person.
        chunk_size: Rows per block; chosen so that a block takes 16 MB when None.

    Returns:
        Scalar.

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.
    """
    ids = tuple(values for values in (report_id, subject_id) if values is not None)
    positives = Positives(len(signal_embedding), ids, signal_embedding.device)
    chunk = chunk_size or default_chunk(len(signal_embedding))
    return _SigLIP.apply(
        signal_embedding, text_embedding, logit_scale, logit_bias, positives, chunk
    )


class _SigLIP(torch.autograd.Function):
    """One pass over the blocks for the value and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        positives: Positives,
        chunk: int,
    ) -> Tensor:
        total = len(signal)
        wide = torch.promote_types(signal.dtype, torch.float32)
        value, to_bias = torch.zeros(2, dtype=wide, device=signal.device).unbind()
        to_signal = torch.empty_like(signal, dtype=wide)
        to_text = torch.zeros_like(to_signal)
        for rows in blocks(total, chunk):
            logits = (signal[rows] @ text.T).to(wide).mul_(scale).add_(bias)
            # log sigma(-x) = log sigma(x) - x: all pairs as negatives, then positives corrected.
            first, second = positives.pairs(rows)
            value -= functional.logsigmoid(-logits).sum() + logits[first, second].sum()
            slope = logits.sigmoid_()
            slope[first, second] -= 1
            to_bias += slope.sum()
            slope = slope.to(signal.dtype)
            to_signal[rows] = (slope @ text).to(wide)
            to_text += (slope.T @ signal[rows]).to(wide)
        # The logits depend on scale times signal, so the scale's slope follows from the signal's.
        to_scale = (to_signal * signal).sum()
        to_signal, to_text = to_signal.mul_(scale), to_text.mul_(scale)
        ctx.save_for_backward(to_signal, to_text, to_scale, to_bias)
        ctx.dtypes = (signal.dtype, text.dtype, scale.dtype, bias.dtype)
        return value / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor = gradients[0] / len(ctx.saved_tensors[0])
        scaled = [(g * factor).to(t) for g, t in zip(ctx.saved_tensors, ctx.dtypes)]
        return (*scaled, None, None)
