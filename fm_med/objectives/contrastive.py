"""InfoNCE over recordings and reports, exact in blocks, with several positives per row."""

from typing import Any

import torch
from torch import Tensor

from fm_med.objectives.positives import blocks, default_chunk, positive_counts, positive_pairs


def contrastive_loss(
    signal_embedding: Tensor,
    text_embedding: Tensor,
    *,
    logit_scale: Tensor,
    report_id: Tensor | None = None,
    subject_id: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Mean of both directions' cross-entropies, with all positives of a row as its target.

    .. math::
        \ell = \frac{1}{2N} \sum_i \Big[ \log\sum_j e^{s_{ij}} - \frac{1}{|P_i|}\sum_{p \in P_i}
        s_{ip} \Big] + \text{the same over columns}, \qquad s_{ij} = \tau^{-1} x_i^\top y_j

    where :math:`P_i` holds the row itself and all rows with the same report or subject. The
    similarities are computed in blocks, once forward and once backward, and never held as a whole:
    memory grows with N, not with its square.

    Args:
        signal_embedding: (batch, dim) L2-normalised.
        text_embedding: (batch, dim) L2-normalised.
        logit_scale: Scalar, 1 / temperature.
        report_id: (batch,) int64, equal for identical reports.
        subject_id: (batch,) int64, equal for one person.
        chunk_size: Rows per block; chosen so that a block takes 64 MB when None.

    Returns:
        Scalar; log(batch) when the embeddings tell nothing.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        ICML 2021; for several positives Khosla et al., "Supervised Contrastive Learning", 2020.
    """
    ids = [values for values in (report_id, subject_id) if values is not None]
    chunk = chunk_size or default_chunk(len(signal_embedding))
    return _InfoNCE.apply(signal_embedding, text_embedding, logit_scale, ids, chunk)


class _InfoNCE(torch.autograd.Function):
    """Forward keeps the normalisers of rows and columns; backward recomputes the similarities."""

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, text: Tensor, scale: Tensor, ids: list[Tensor], chunk: int
    ) -> Tensor:
        total = len(signal)
        wide = torch.promote_types(signal.dtype, torch.float32)
        across = torch.empty(total, dtype=wide, device=signal.device)
        down = torch.full_like(across, -torch.inf)
        matched = torch.zeros((), dtype=wide, device=signal.device)
        share = 1 / positive_counts(ids, total, chunk, signal.device).to(wide)
        for rows in blocks(total, chunk):
            logits = (signal[rows] @ text.T).to(wide) * scale
            across[rows] = logits.logsumexp(1)
            down = torch.logaddexp(down, logits.logsumexp(0))
            # Being positive is mutual, so a column has the positives of the row of its number.
            target = positive_pairs(rows, ids, total, signal.device) * (share[rows, None] + share)
            matched += (logits * target).sum()
        ctx.save_for_backward(signal, text, scale, across, down, share, *ids)
        ctx.chunk = chunk
        return (across.sum() + down.sum() - matched) / (2 * total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        signal, text, scale, across, down, share, *ids = ctx.saved_tensors
        total = len(signal)
        to_signal = torch.empty_like(signal, dtype=across.dtype)
        to_text = torch.zeros_like(to_signal)
        to_scale = torch.zeros_like(across[0])
        for rows in blocks(total, ctx.chunk):
            similarity = (signal[rows] @ text.T).to(across.dtype)
            logits = similarity * scale
            slope = (logits - across[rows, None]).exp_() + (logits - down).exp_()
            mask = positive_pairs(rows, ids, total, signal.device)
            slope -= mask * (share[rows, None] + share)
            to_scale += (slope * similarity).sum()
            slope = slope.to(signal.dtype)
            to_signal[rows] = (slope @ text).to(across.dtype)
            to_text += (slope.T @ signal[rows]).to(across.dtype)
        factor = gradients[0] / (2 * total)
        return (
            (to_signal * (factor * scale)).to(signal.dtype),
            (to_text * (factor * scale)).to(text.dtype),
            (to_scale * factor).to(scale.dtype),
            None,
            None,
        )
