"""Cox's partial likelihood: ties, weights, strata, late entry; exact at any log-hazard."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fm_med.errors import InputError
from fm_med.objectives.risk_set import WIDE, RiskSetPlan, Ties, log_sum


def cox_loss(
    log_hazard: Tensor,
    *,
    time: Tensor | None = None,
    event: Tensor | None = None,
    ties: Ties = "efron",
    weight: Tensor | None = None,
    strata: Tensor | None = None,
    entry: Tensor | None = None,
    plan: RiskSetPlan | None = None,
) -> Tensor:
    r"""Negative log partial likelihood per event.

    .. math::
        \ell = -\frac{1}{\sum_{i \in E} w_i} \Big[ \sum_{i \in E} w_i f_i - \sum_t
        \frac{W_t}{d_t} \sum_{l=0}^{d_t-1} \log\Big( \sum_{j \in R_t} w_j e^{f_j} - \frac{l}{d_t}
        \sum_{j \in E_t} w_j e^{f_j} \Big) \Big]

    where :math:`E_t` are the :math:`d_t` events at time t with total weight :math:`W_t` and
    :math:`R_t` those at risk (Efron); Breslow drops the term with l. It is computed in float64 and
    through logarithms, so that any shift or spread of log-hazards is harmless.

    Args:
        log_hazard: (rows,) of the WHOLE batch: risk sets within a process or micro-batch give
            another loss (gradient errors of 17 %).
        time: (rows,) end of follow-up, any unit.
        event: (rows,) True where the follow-up ended with the event.
        ties: How events at the same time are treated.
        weight: (rows,) case weights >= 0.
        strata: (rows,) int; risk sets never mix strata.
        entry: (rows,) start of being at risk; at risk at t when entry < t <= time.
        plan: Built once by `RiskSetPlan.build` from all of the above, which are then left out.

    Returns:
        Scalar of log_hazard's dtype (at least float32); a zero with gradient zero when there is no
        event, so that distributed training goes on.

    Raises:
        InputError: Shapes or values do not fit, or follow-up is given twice or not at all.

    References:
        Cox 1972; Breslow 1974; Efron 1977; definitions as in R's `survival::coxph`.
    """
    if plan is not None and (time is not None or event is not None):
        raise InputError("cox_loss needs time and event or a plan, not both")
    if plan is None:
        if time is None or event is None:
            raise InputError("cox_loss needs time and event, or a plan")
        plan = RiskSetPlan.build(
            time=time, event=event, ties=ties, weight=weight, strata=strata, entry=entry
        )
    if log_hazard.shape != (plan.rows,):
        raise InputError(
            f"log_hazard must be ({plan.rows},) like time, not {tuple(log_hazard.shape)}"
        )
    return _Cox.apply(log_hazard, plan)


class _Cox(torch.autograd.Function):
    """The gradient in closed form: one pass over the risk sets each way."""

    @staticmethod
    def forward(ctx: Any, log_hazard: Tensor, plan: RiskSetPlan) -> Tensor:
        exact = log_hazard.detach().double()
        weight = torch.ones_like(exact) if plan.weight is None else plan.weight
        total = weight[plan.event].sum()
        ctx.plan, ctx.dtype = plan, log_hazard.dtype
        ctx.empty = not bool(total > 0)
        result = torch.promote_types(log_hazard.dtype, torch.float32)
        if ctx.empty:
            return log_hazard.new_zeros((), dtype=result)
        ctx.wide = bool(exact.max() - exact.min() > WIDE)
        weighted = exact if plan.weight is None else exact + weight.log()
        risk = plan.at_risk.log_sum_rows(weighted, ctx.wide)
        term = risk[plan.term_group]
        if plan.term_share is not None:
            tied = log_sum(weighted[plan.event], plan.event_group, plan.groups) - risk
            term = term + torch.log1p(-plan.term_share * tied.exp()[plan.term_group])
        ctx.save_for_backward(weighted, weight, term, total)
        # Multiplied only where the weight is not 0: 0 * -inf is not a number.
        likelihood = (weight * exact)[plan.event].sum() - _product(plan.term_weight, term).sum()
        return (-likelihood / total).to(result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        plan = ctx.plan
        if ctx.empty:
            return gradients[0].new_zeros(plan.rows, dtype=ctx.dtype), None
        weighted, weight, term, total = ctx.saved_tensors
        # A risk set of weight 0 has a term of -inf, which counts for nothing.
        slope = torch.where(plan.term_weight > 0, plan.term_weight.log() - term, -torch.inf)
        per_group = slope
        if plan.term_share is not None:
            per_group = log_sum(slope, plan.term_group, plan.groups)
        result = (weighted + plan.at_risk.log_sum_groups(per_group, ctx.wide)).exp()
        result[plan.event] -= weight[plan.event]
        if plan.term_share is not None:
            gone = log_sum(plan.term_share.log() + slope, plan.term_group, plan.groups)
            result[plan.event] -= (weighted[plan.event] + gone[plan.event_group]).exp()
        return (result * (gradients[0] / total)).to(ctx.dtype), None


def _product(weight: Tensor, value: Tensor) -> Tensor:
    return torch.where(weight > 0, weight * value, 0)
