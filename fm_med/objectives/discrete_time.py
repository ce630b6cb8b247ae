"""Survival in intervals of time: a hazard per interval, a loss that is an average over rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fm_med.errors import InputError


def discrete_time_loss(
    logits: Tensor,
    *,
    time: Tensor,
    event: Tensor,
    edges: Tensor | Sequence[float],
    weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log likelihood of discrete hazards :math:`h_j = \sigma(\text{logit}_j)`.

    .. math:: \ell_i = -\sum_{j \text{ survived}} \log(1 - h_{ij})
        - \sum_{j \text{ of the event}} \log h_{ij}

    An event at t lies in the interval (e_{j-1}, e_j] that holds t. A censored row survives every
    interval that it completes, and the one in which it is censored from its middle on; events
    after the last edge are censored there. The hazards need no proportionality, and the loss does
    not couple rows: batches of any size give unbiased gradients.

    Args:
        logits: (rows, intervals).
        time: (rows,) end of follow-up, in the unit of `edges`.
        event: (rows,) True where it ended with the event.
        edges: (intervals,) rising upper ends of the intervals; the first starts at 0.
        weight: (rows,) case weights >= 0; the mean is over weight.

    Returns:
        Scalar, the (weighted) mean over rows; 0, attached to the graph, for no rows.

    Raises:
        InputError: Shapes or values do not fit.

    References:
        Gensheimer and Narasimhan, PeerJ 7 (2019) e6257.
    """
    upper = torch.as_tensor(edges, dtype=torch.float64, device=logits.device)
    _check(logits, time, event, upper)
    time, event = time.to(torch.float64), event.bool()
    lower = torch.cat([upper.new_zeros(1), upper[:-1]])
    # The interval of an event: the first whose upper end is not before it.
    happens = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    inside = event & (time <= upper[-1])
    rows = inside.nonzero().squeeze(1)
    happens[rows, torch.searchsorted(upper, time[inside].contiguous())] = True
    long_enough = torch.where(event[:, None], upper, (lower + upper) / 2)
    survived = (time[:, None] >= long_enough) & ~happens
    # log(1 - h) = -softplus(logit) and log h = -softplus(-logit), finite at any logit.
    loss = torch.where(survived, functional.softplus(logits), 0)
    loss = (loss + torch.where(happens, functional.softplus(-logits), 0)).sum(1)
    if weight is None:
        return loss.mean() if len(loss) else loss.sum()
    return (loss * weight).sum() / weight.sum().clamp_min(torch.finfo(loss.dtype).tiny)


def discrete_time_survival(logits: Tensor) -> Tensor:
    """Return (rows, intervals): the probability of no event by the end of each interval."""
    return functional.softplus(logits).cumsum(1).neg().exp()


def interval_edges(time: np.ndarray, event: np.ndarray, intervals: int) -> np.ndarray:
    """Return up to `intervals` rising edges at quantiles of the TRAINING event times.

    Intervals with about as many events each keep every hazard estimable. The last edge is the last
    event; equal edges are merged.

    Raises:
        InputError: There is no event, or no interval is asked for.
    """
    deaths = np.asarray(time, dtype=np.float64)[np.asarray(event, dtype=bool)]
    if intervals < 1 or not len(deaths):
        raise InputError(f"intervals need events: {intervals} intervals of {len(deaths)} events")
    return np.unique(np.quantile(deaths, np.arange(1, intervals + 1) / intervals, method="higher"))


def _check(logits: Tensor, time: Tensor, event: Tensor, upper: Tensor) -> None:
    rows = (len(logits),)
    if logits.dim() != 2 or logits.shape[1] != len(upper):
        raise InputError(
            f"logits must be (rows, {len(upper)}) like edges, not {tuple(logits.shape)}"
        )
    if time.shape != rows or event.shape != rows:
        raise InputError(
            f"time and event must be {rows} each, not {tuple(time.shape)}, {tuple(event.shape)}"
        )
    if not (upper.diff() > 0).all() or not upper[0] > 0:
        raise InputError(f"edges must be > 0 and rising, not {upper.tolist()}")
    if not (torch.isfinite(time) & (time >= 0)).all():
        raise InputError("time must be finite and >= 0 in every row")
