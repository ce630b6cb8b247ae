"""Losses of labels, classes and numbers; NaN marks a label that is not known and counts nowhere."""

import torch
from torch import Tensor
from torch.nn import functional


def bce_loss(
    logits: Tensor,
    *,
    label: Tensor,
    pos_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy, averaged over the known labels.

    Args:
        logits: (batch, labels).
        label: (batch, labels) float 0 or 1; NaN where not known.
        pos_weight: (labels,) weight of a present label; negatives weigh 1.
        row_weight: (batch,) weights of the average; None weighs all rows alike.

    Returns:
        Scalar; a zero with gradient zero when no label is known.
    """
    known, target = _known(logits, label)
    each = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight, reduction="none"
    )
    return _mean(each, known, row_weight)


def focal_loss(
    logits: Tensor,
    *,
    label: Tensor,
    gamma: float = 2.0,
    pos_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    r"""Focal loss :math:`-(1 - p_t)^\gamma \log p_t`: easy labels count less.

    Args:
        logits: (batch, labels).
        label: (batch, labels) float 0 or 1; NaN where not known.
        gamma: 0 gives `bce_loss`.
        pos_weight: (labels,) weight of a present label.
        row_weight: As of `bce_loss`.

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017.
    """
    known, target = _known(logits, label)
    each = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight, reduction="none"
    )
    wrong = torch.sigmoid(torch.where(target > 0.5, -logits, logits))
    return _mean(wrong.pow(gamma) * each, known, row_weight)


def asymmetric_loss(
    logits: Tensor,
    *,
    label: Tensor,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
    row_weight: Tensor | None = None,
) -> Tensor:
    r"""Asymmetric loss: absent labels are focused more than present ones, easy ones not at all.

    .. math::
        -y (1 - p)^{\gamma_+} \log p - (1 - y)\, p_m^{\gamma_-} \log(1 - p_m), \quad
        p_m = \max(p - m, 0)

    Args:
        logits: (batch, labels).
        label: (batch, labels) float 0 or 1; NaN where not known.
        gamma_positive: Focus on hard present labels.
        gamma_negative: Focus on hard absent labels.
        margin: m; an absent label of lower probability costs nothing.
        row_weight: As of `bce_loss`.

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021.
    """
    known, target = _known(logits, label)
    p = torch.sigmoid(logits)
    shifted = (p - margin).clamp(min=0)
    present = (1 - p).pow(gamma_positive) * functional.logsigmoid(logits)
    # pow of 0 has gradient 0 for exponents above 1; 1 - shifted stays at or above the margin.
    absent = shifted.pow(gamma_negative) * torch.log1p(-shifted.clamp(max=1 - 1e-7))
    return _mean(-torch.where(target > 0.5, present, absent), known, row_weight)


def cross_entropy_loss(
    logits: Tensor,
    *,
    label: Tensor,
    class_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over exclusive classes, averaged with the weights of the rows' classes.

    Args:
        logits: (batch, classes).
        label: (batch,) int64 class number.
        class_weight: (classes,).
        row_weight: (batch,), by which the rows are also weighed.
    """
    if row_weight is None:
        return functional.cross_entropy(logits, label, weight=class_weight)
    weight = row_weight if class_weight is None else row_weight * class_weight[label]
    each = functional.cross_entropy(logits, label, reduction="none")
    return (weight * each).sum() / weight.sum()


def squared_error_loss(value: Tensor, *, target: Tensor) -> Tensor:
    """Mean squared error of (batch,) values."""
    return (value - target).square().mean()


def huber_loss(value: Tensor, *, target: Tensor, delta: float = 1.0) -> Tensor:
    """Half the squared error below `delta`, linear above it, averaged over (batch,) values.

    References:
        Huber, "Robust estimation of a location parameter", 1964.
    """
    return functional.huber_loss(value, target, delta=delta)


def _known(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return which labels are known and the labels with 0 elsewhere, in the logits' dtype."""
    known = ~torch.isnan(label)
    return known, torch.where(known, label, 0).to(logits.dtype)


def _mean(each: Tensor, known: Tensor, row_weight: Tensor | None) -> Tensor:
    if row_weight is None:
        return torch.where(known, each, 0).sum() / known.sum().clamp(min=1)
    weight = known * row_weight[:, None]
    smallest = torch.finfo(weight.dtype).tiny
    return (weight * torch.where(known, each, 0)).sum() / weight.sum().clamp(min=smallest)
