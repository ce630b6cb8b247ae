"""Fine and Gray's partial likelihood: risk of one cause when others can come first."""

import torch
from torch import Tensor

from fm_med.errors import InputError


def fine_gray_loss(log_hazard: Tensor, *, time: Tensor, cause: Tensor, of: int = 1) -> Tensor:
    r"""Negative log partial likelihood of the subdistribution hazard, per event.

    .. math:: \ell = -\frac{1}{d} \sum_{i: c_i = k} \Big[ f_i - \log\Big( \sum_{t_j \ge t_i} e^{f_j}
        + \sum_{t_j < t_i,\, c_j \notin \{0, k\}} \frac{G(t_i-)}{G(t_j-)} e^{f_j} \Big) \Big]

    Who had another event stays in the risk set, with the probability G of not being censored until
    then (Kaplan-Meier of censoring in this batch: give the WHOLE batch). Ties by Breslow. Two
    running sums replace the n^2 rows into which R's ``finegray`` splits the data. In float64 and
    through logarithms, so that any shift or spread of log-hazards is harmless.

    Args:
        log_hazard: (rows,) of the whole batch.
        time: (rows,) end of follow-up, any unit.
        cause: (rows,) int: 0 censored, else which event ended the follow-up.
        of: The cause whose incidence is modelled.

    Returns:
        Scalar of log_hazard's dtype (at least float32); a zero with gradient zero where the cause
        does not occur.

    Raises:
        InputError: Shapes or values do not fit.

    References:
        Fine and Gray, Journal of the American Statistical Association 94 (1999) 496-509.
    """
    rows = tuple(log_hazard.shape)
    if log_hazard.dim() != 1 or tuple(time.shape) != rows or tuple(cause.shape) != rows:
        raise InputError(
            "log_hazard, time and cause must be (rows,) each, not "
            f"{rows}, {tuple(time.shape)}, {tuple(cause.shape)}"
        )
    if not torch.isfinite(time).all():
        raise InputError("time must be finite in every row")
    if of == 0 or bool((cause < 0).any()):
        raise InputError("causes are integers >= 0, where 0 means censored and cannot be modelled")
    result = torch.promote_types(log_hazard.dtype, torch.float32)
    own = cause == of
    if not own.any():
        return (log_hazard * 0).sum().to(result)
    exact, at = log_hazard.double(), time[own].double()
    log_risk = torch.logaddexp(
        _still_at_risk(exact, time.double(), at),
        _after_another_event(exact, time.double(), cause, own, at),
    )
    return (log_risk - exact[own]).mean().to(result)


def _still_at_risk(exact: Tensor, time: Tensor, at: Tensor) -> Tensor:
    """Return (events,) the log of the sum of hazards over rows with a time >= `at`."""
    order = time.argsort(descending=True, stable=True)
    running = exact[order].logcumsumexp(0)
    return running[torch.searchsorted(-time[order], -at, right=True) - 1]


def _after_another_event(
    exact: Tensor, time: Tensor, cause: Tensor, own: Tensor, at: Tensor
) -> Tensor:
    """Return (events,) the log of the weighted sum over rows with another event before `at`."""
    other = ((cause != 0) & ~own).nonzero().squeeze(1)
    other = other[time[other].argsort(stable=True)]
    log_free = _log_uncensored(time, cause, torch.cat([time[other], at]))
    summed = (exact[other] - log_free[: len(other)]).logcumsumexp(0)
    summed = torch.cat([summed.new_full((1,), -torch.inf), summed])
    before = torch.searchsorted(time[other].contiguous(), at)
    return summed[before] + log_free[len(other) :]


def _log_uncensored(time: Tensor, cause: Tensor, at: Tensor) -> Tensor:
    """Return log G(at-), the chance of not being censored before `at`.

    At equal times events come first, so that they are not at risk of the censoring.
    """
    moments, number = time[cause == 0].unique(return_inverse=True)
    censored = number.bincount(minlength=len(moments)).double()
    ordered, events = time.sort()[0], time[cause != 0].sort()[0]
    at_risk = len(time) - torch.searchsorted(ordered, moments)
    gone = torch.searchsorted(events, moments, right=True) - torch.searchsorted(events, moments)
    steps = torch.log1p(-censored / (at_risk - gone)).cumsum(0)
    steps = torch.cat([steps.new_zeros(1), steps])
    return steps[torch.searchsorted(moments, at)]
