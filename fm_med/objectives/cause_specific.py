"""Competing risks: the partial likelihood of all cause-specific hazards at once."""

import torch
from torch import Tensor

from fm_med.errors import InputError
from fm_med.objectives.cox import cox_loss
from fm_med.objectives.risk_set import Ties


def cause_specific_loss(
    log_hazard: Tensor, *, time: Tensor, cause: Tensor, ties: Ties = "efron"
) -> Tensor:
    r"""Negative log partial likelihood of every cause's Cox model, per event of any cause.

    .. math:: \ell = \frac{1}{d} \sum_k d_k\, \ell_k

    where :math:`\ell_k` is `cox_loss` of cause k, in which the :math:`d_k` events of that cause
    count and all others are censored, and d is the number of all events. The likelihood of the
    data factors in this way, so that separate parameters per cause are fitted as by separate Cox
    models; with one cause it is `cox_loss`. In an encoder that the causes share, a rare cause
    weighs as little as it has events.

    Args:
        log_hazard: (rows, causes) of the WHOLE batch.
        time: (rows,) end of follow-up, any unit.
        cause: (rows,) int: 0 censored, k for an event of the k-th column.
        ties: How events of one cause at the same time are treated.

    Returns:
        Scalar of log_hazard's dtype (at least float32); a zero with gradient zero without events.

    Raises:
        InputError: Shapes or values do not fit.

    References:
        Prentice et al., Biometrics 34 (1978) 541-554; Kalbfleisch and Prentice, "The Statistical
        Analysis of Failure Time Data", 2002, section 8.2.
    """
    if log_hazard.dim() != 2 or time.shape != log_hazard.shape[:1] or cause.shape != time.shape:
        raise InputError(
            "log_hazard must be (rows, causes), time and cause (rows,) each, not "
            f"{tuple(log_hazard.shape)}, {tuple(time.shape)} and {tuple(cause.shape)}"
        )
    causes = log_hazard.shape[1]
    if bool(((cause < 0) | (cause > causes)).any()):
        raise InputError(f"cause must be 0 to {causes}, 0 where censored")
    losses = torch.stack(
        [
            cox_loss(log_hazard[:, k], time=time, event=cause == k + 1, ties=ties)
            for k in range(causes)
        ]
    )
    events = torch.bincount(cause, minlength=causes + 1)[1:].to(losses)
    return (losses * events).sum() / events.sum().clamp_min(1)
