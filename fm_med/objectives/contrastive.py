"""InfoNCE over recordings and reports, exact in blocks, with several positives per row."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fm_med.objectives.positives import Positives, blocks, default_chunk

# exp(40) times any batch is far from the largest number of single precision, exp(-40) far from the
# smallest.
LARGEST_PLAIN_LOGIT = 40.0
# Similarities that are kept for the backward pass: 128 MB in single precision.
KEPT_ELEMENTS = 2**25


def contrastive_loss(
    signal_embedding: Tensor,
    text_embedding: Tensor,
    *,
    logit_scale: Tensor,
    report_id: Tensor | None = None,
    subject_id: Tensor | None = None,
    soft_targets: float = 0.0,
    text_features: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Mean of both directions' cross-entropies, with all positives of a row as its target.

    .. math::
        \ell = \frac{1}{2N} \sum_i \Big[ \log\sum_j e^{s_{ij}} - \frac{1}{|P_i|}\sum_{p \in P_i}
        s_{ip} \Big] + \text{the same over columns}, \qquad s_{ij} = \tau^{-1} x_i^\top y_j

    where :math:`P_i` holds the row itself and all rows with the same report or subject. The
    similarities are computed in blocks; the first 128 MB of them are kept for the backward pass and
    the others computed again: beyond that memory grows with N, not with its square.

    Args:
        signal_embedding: (batch, dim) L2-normalised.
        text_embedding: (batch, dim) L2-normalised.
        logit_scale: Scalar, 1 / temperature.
        report_id: (batch,) int64, equal for identical reports.
        subject_id: (batch,) int64, equal for one person.
        soft_targets: Share a of the target that goes to similar reports: (1 - a) times the above
            plus a times the softmax of the reports' similarities at the same scale.
        text_features: (batch, any) L2-normalised, for those similarities, such as the frozen text
            model's vectors; the text embedding when None. No gradient flows through the target.
        chunk_size: Rows per block; chosen so that a block takes 16 MB when None.

    Returns:
        Scalar; log(batch) when the embeddings tell nothing.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        ICML 2021; for several positives Khosla et al., "Supervised Contrastive Learning", 2020.
    """
    ids = tuple(values for values in (report_id, subject_id) if values is not None)
    positives = Positives(len(signal_embedding), ids, signal_embedding.device)
    features = None
    if soft_targets:
        features = (text_embedding if text_features is None else text_features).detach()
    target = _Target(positives, float(soft_targets), features, logit_scale.detach())
    chunk = chunk_size or default_chunk(len(signal_embedding))
    return _InfoNCE.apply(signal_embedding, text_embedding, logit_scale, target, chunk)


class _Target:
    """What both directions aim at: T[i, j] + T[j, i] for a block of rows i."""

    def __init__(
        self, positives: Positives, soft: float, features: Tensor | None, scale: Tensor
    ) -> None:
        self.positives = positives
        self.soft = soft
        self.features = features
        self.scale = scale
        self.share = torch.empty(0)
        self.normaliser = torch.empty(0)

    def prepare(self, chunk: int, dtype: torch.dtype) -> None:
        """Count positives and take the soft targets' normalisers, both once per batch."""
        self.share = (1 - self.soft) / self.positives.counts(chunk).to(dtype)
        if self.features is not None:
            everything = blocks(self.positives.total, chunk)
            parts = [self.soft_logits(rows, dtype).logsumexp(1) for rows in everything]
            self.normaliser = torch.cat(parts)

    def soft_logits(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Return (rows, batch) scaled similarities of texts with texts."""
        assert self.features is not None
        return (self.features[rows] @ self.features.T).to(dtype) * self.scale

    def subtract(self, slope: Tensor, rows: slice) -> Tensor:
        """Take the target away from a block in place."""
        first, second = self.positives.pairs(rows)
        own = self.share[rows]
        # Without equal indices, so the order of the additions does not matter.
        slope[first, second] -= own[first] + self.share[second]
        if self.features is not None:
            logits = self.soft_logits(rows, slope.dtype)
            slope.sub_((logits - self.normaliser).exp_(), alpha=self.soft)
            slope.sub_(logits.sub_(self.normaliser[rows, None]).exp_(), alpha=self.soft)
        return slope

    def matched(self, logits: Tensor, rows: slice) -> Tensor:
        """Return the sum of a block's logits, weighted by the target."""
        first, second = self.positives.pairs(rows)
        own = self.share[rows]
        value = (logits[first, second] * (own[first] + self.share[second])).sum()
        if self.features is not None:
            soft = self.soft_logits(rows, logits.dtype)
            value += self.soft * ((soft - self.normaliser).exp_() * logits).sum()
            soft = soft.sub_(self.normaliser[rows, None]).exp_()
            value += self.soft * (soft * logits).sum()
        return value


class _Sums:
    """Normalisers of rows and columns for logits whose exponentials can be added as they are."""

    def __init__(self, total: int, like: Tensor) -> None:
        self.across, self.down = like.new_empty(total), like.new_zeros(total)

    def known(self, logits: Tensor) -> Tensor:
        """Turn logits into what the slope is made of, in place."""
        return logits.exp_()

    def add(self, known: Tensor, rows: slice) -> None:
        """Take a block in."""
        self.across[rows] = known.sum(1)
        self.down += known.sum(0)

    def total(self) -> Tensor:
        """Return the sum of the logarithms of all normalisers."""
        return self.across.log().sum() + self.down.log().sum()

    def slope(self, known: Tensor, rows: slice, space: Tensor) -> Tensor:
        """Return, in the memory of `space`, the softmax over columns plus the softmax over rows."""
        return torch.add(1 / self.across[rows, None], 1 / self.down, out=space).mul_(known)


class _LogSums:
    """The same for any logits, by their logarithms: twice as many exponentials."""

    def __init__(self, total: int, like: Tensor) -> None:
        self.across, self.down = like.new_empty(total), like.new_full((total,), -torch.inf)

    def known(self, logits: Tensor) -> Tensor:
        """Leave the logits as they are."""
        return logits

    def add(self, known: Tensor, rows: slice) -> None:
        """Take a block in."""
        self.across[rows] = known.logsumexp(1)
        self.down = torch.logaddexp(self.down, known.logsumexp(0))

    def total(self) -> Tensor:
        """Return the sum of all normalisers."""
        return self.across.sum() + self.down.sum()

    def slope(self, known: Tensor, rows: slice, space: Tensor) -> Tensor:
        """Return, in the memory of `space`, the softmax over columns plus the softmax over rows."""
        slope = torch.sub(known, self.across[rows, None], out=space).exp_()
        return slope.add_((known - self.down).exp_())


def _normalisers(
    signal: Tensor, text: Tensor, scale: Tensor, wide: torch.dtype
) -> _Sums | _LogSums:
    """Choose by the largest logit there can be."""
    norms = (x.detach().to(wide).square().sum(1).amax().sqrt() for x in (signal, text))
    largest = math.prod(norms) * scale.detach().abs()
    # Cauchy and Schwarz; NaN compares as False and stays NaN the other way.
    kind = _Sums if bool(largest <= LARGEST_PLAIN_LOGIT) else _LogSums
    return kind(len(signal), signal.new_empty(0, dtype=wide))


class _InfoNCE(torch.autograd.Function):
    """Forward keeps the normalisers and the first blocks; backward computes the others again."""

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, text: Tensor, scale: Tensor, target: _Target, chunk: int
    ) -> Tensor:
        total = len(signal)
        wide = torch.promote_types(signal.dtype, torch.float32)
        target.prepare(chunk, wide)
        sums = _normalisers(signal, text, scale, wide)
        matched = torch.zeros((), dtype=wide, device=signal.device)
        ctx.kept = {}
        for rows in blocks(total, chunk):
            logits = _logits(signal, text, scale, rows)
            matched += target.matched(logits, rows)
            known = sums.known(logits)
            sums.add(known, rows)
            # Half precision is for fast products: to compute again is cheap then, memory is not.
            if rows.stop * total <= KEPT_ELEMENTS and signal.dtype == wide:
                ctx.kept[rows.start] = known
        ctx.save_for_backward(signal, text, scale)
        ctx.sums, ctx.target, ctx.chunk = sums, target, chunk
        return (sums.total() - matched) / (2 * total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        signal, text, scale = ctx.saved_tensors
        to_signal = torch.empty_like(signal, dtype=ctx.sums.across.dtype)
        to_text = torch.zeros_like(to_signal)
        space = to_signal.new_empty(min(ctx.chunk, len(signal)), len(signal))
        for rows in blocks(len(signal), ctx.chunk):
            known = ctx.kept.get(rows.start)
            if known is None:
                known = ctx.sums.known(_logits(signal, text, scale, rows))
            slope = ctx.sums.slope(known, rows, space[: rows.stop - rows.start])
            slope = ctx.target.subtract(slope, rows).to(signal.dtype)
            to_signal[rows] = slope @ text
            if to_text.dtype == signal.dtype:
                to_text.addmm_(slope.T, signal[rows])
            else:
                to_text += slope.T @ signal[rows]
        factor = gradients[0] / (2 * len(signal))
        # The loss depends on scale times signal, so the scale's slope follows from the signal's.
        to_scale = (to_signal * signal).sum() * factor
        to_signal, to_text = (g.mul_(factor * scale) for g in (to_signal, to_text))
        return (
            to_signal.to(signal.dtype),
            to_text.to(text.dtype),
            to_scale.to(scale.dtype),
            None,
            None,
        )


def _logits(signal: Tensor, text: Tensor, scale: Tensor, rows: slice) -> Tensor:
    """Return (rows, batch) scaled similarities, at least in single precision."""
    wide = torch.promote_types(signal.dtype, torch.float32)
    if signal.dtype == wide:  # scaling the vectors spares a pass over the block
        return ((signal[rows] * scale.to(wide)) @ text.T).to(wide)  # autocast would round it
    return (signal[rows] @ text.T).to(wide).mul_(scale)
