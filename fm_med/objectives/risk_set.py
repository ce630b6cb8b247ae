"""Who is at risk when: the part of Cox's likelihood that does not depend on the network.

Sorting takes most of the time of a Cox loss and needs only the follow-up, so a `RiskSetPlan` is
built once per cohort (or batch) and used at every step.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fm_med.errors import InputError
from fm_med.objectives.sums import Form

Ties = Literal["efron", "breslow"]


class AtRisk(Protocol):
    """Sums over the risk sets, and over the risk sets that a row belongs to."""

    def sum_rows(self, held: Tensor, form: Form) -> Tensor:
        """Map (rows,) numbers to (groups,): the sum over the rows at risk at each event time."""

    def sum_groups(self, held: Tensor, form: Form) -> Tensor:
        """Map (groups,) numbers to (rows,): the sum over the event times each row is at risk."""


@dataclass(frozen=True)
class Weights:
    """Case weights, divided by the largest, which changes a likelihood by a constant.

    Attributes:
        event: (events,) weight of each event, float64.
        total: Sum of `event`.
        log: (rows,) logarithms; None when all are 1.
        spread: How far the finite ones reach below 0.
        log_scale: Logarithm of the largest weight as given.
    """

    event: Tensor
    total: float
    log: Tensor | None = None
    spread: float = 0.0
    log_scale: float = 0.0

    @classmethod
    def build(cls, weight: Tensor | None, events: Tensor) -> "Weights":
        """Look at the weights once; None is 1 for each row."""
        if weight is None:
            ones = torch.ones_like(events, dtype=torch.float64)
            return cls(ones, float(len(ones)))
        weight = weight.double()
        top = weight.max() if len(weight) else weight.new_zeros(())
        if not top > 0:
            return cls(weight.index_select(0, events), 0.0)
        weight = weight / top
        log, of_events = weight.log(), weight.index_select(0, events)
        spread = -float(log[weight > 0].min())
        return cls(of_events, float(of_events.sum()), log, spread, float(top.log()))


@dataclass(frozen=True)
class RiskSetPlan:
    """Risk sets and ties of one set of follow-ups; G groups are distinct event times of a stratum.

    Attributes:
        rows: Number of rows.
        at_risk: Sums over risk sets.
        event: (events,) row of each event.
        event_group: (events,) group of each event.
        weights: Case weights.
        term_group: (terms,) group of each logarithm in the likelihood.
        term_weight: (terms,) what the logarithm is multiplied with, > 0.
        term_share: (terms,) Efron's share of the tied events already gone; None when all are 0.
        groups: G.
    """

    rows: int
    at_risk: AtRisk
    event: Tensor
    event_group: Tensor
    weights: Weights
    term_group: Tensor
    term_weight: Tensor
    term_share: Tensor | None
    groups: int

    @classmethod
    def build(
        cls,
        *,
        time: Tensor,
        event: Tensor,
        ties: Ties = "efron",
        weight: Tensor | None = None,
        strata: Tensor | None = None,
        entry: Tensor | None = None,
    ) -> "RiskSetPlan":
        """Sort once.

        Args:
            time: (rows,) end of follow-up, any unit.
            event: (rows,) True where the follow-up ended with the event.
            ties: How events at the same time are treated; Efron's is closer to the exact one.
            weight: (rows,) case weights >= 0.
            strata: (rows,) int; risk sets never mix strata.
            entry: (rows,) start of being at risk (left truncation); a row is at risk at t when
                entry < t <= time, as in R's `Surv(entry, time, event)`.

        Raises:
            InputError: A shape, a name or a value does not fit.
        """
        _check(time, event, ties, weight, entry)
        event = event.bool()
        stratum = None if strata is None else strata.unique(return_inverse=True)[1]
        at_risk: AtRisk
        if entry is None:
            group, sizes = _groups(time, event, stratum)
            at_risk = Prefixes.build(group, sizes, stratum)
        else:
            # An entry is a moment of its stratum, too; at risk are the groups between the two.
            both = torch.cat([time, entry.to(torch.promote_types(time.dtype, entry.dtype))])
            twice = None if stratum is None else stratum.repeat(2)
            group, sizes = _groups(both, torch.cat([event, torch.zeros_like(event)]), twice)
            group, end = group.split(len(time))
            at_risk = Intervals.build(group, end, sum(sizes))
        rows = event.nonzero().squeeze(1)
        event_group = group.index_select(0, rows)
        weights = Weights.build(weight, rows)
        terms = _terms(event_group, sum(sizes), ties, weights.event)
        return cls(len(time), at_risk, rows, event_group, weights, *terms, groups=sum(sizes))


def _check(
    time: Tensor, event: Tensor, ties: str, weight: Tensor | None, entry: Tensor | None
) -> None:
    if ties not in ("efron", "breslow"):
        raise InputError(f"ties must be 'efron' or 'breslow', not {ties!r}")
    if time.dim() != 1 or time.shape != event.shape:
        raise InputError(
            f"time and event must be (rows,) each, not {tuple(time.shape)} and {tuple(event.shape)}"
        )
    if not torch.isfinite(time).all():
        raise InputError(
            f"time has {int((~torch.isfinite(time)).sum())} values that are not finite"
        )
    if weight is not None and not (weight >= 0).all():
        raise InputError("weight must be >= 0 in every row")
    if entry is not None and not (entry < time).all():
        row = int((~(entry < time)).nonzero()[0])
        raise InputError(f"entry must be before time, but is not in row {row}")


def _argsort(value: Tensor, stable: bool = False) -> Tensor:
    """Return the order of rising values."""
    if value.device.type != "cpu" or value.dtype == torch.bfloat16:
        return value.argsort(stable=stable)
    # NumPy sorts four times faster.
    return torch.from_numpy(np.argsort(value.detach().numpy(), kind="stable" if stable else None))


def _groups(moment: Tensor, event: Tensor, stratum: Tensor | None) -> tuple[Tensor, list[int]]:
    """Number the distinct event times by stratum, then by falling time: risk sets grow.

    Returns:
        For each moment, the first group of its stratum that is not later, or the number of groups
        up to the stratum's end; and the number of groups of each stratum.
    """
    order = _argsort(moment).flip(0)
    if stratum is not None:
        order = order[_argsort(stratum[order], stable=True)]
    key = torch.zeros_like(order)
    at = moment.index_select(0, order)
    new = at[1:] != at[:-1]
    if stratum is not None:
        new |= stratum[order][1:] != stratum[order][:-1]
    key[1:] = new.cumsum(0)
    of_events = key.index_select(0, event.index_select(0, order).nonzero().squeeze(1))
    keys = int(key[-1]) + 1 if len(key) else 0
    is_group = torch.zeros(keys, dtype=torch.bool, device=key.device).index_fill_(0, of_events, 1)
    before = is_group.cumsum(0) - is_group.long()
    group = torch.empty_like(key).scatter_(0, order, before.index_select(0, key))
    if stratum is None:
        return group, [int(is_group.sum())]
    key_stratum = torch.zeros_like(before).scatter_(0, key, stratum[order])
    number = int(stratum.max()) + 1 if len(stratum) else 1
    return group, key_stratum[is_group].bincount(minlength=number).tolist()


def _terms(
    event_group: Tensor, groups: int, ties: Ties, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return group, weight and Efron's share of each logarithm that counts."""
    deaths = event_group.bincount(minlength=groups)
    total = weight.new_zeros(groups).scatter_add_(0, event_group, weight)
    group = (total > 0).nonzero().squeeze(1)
    if ties == "breslow" or bool((deaths <= 1).all()):
        return group, total[group], None
    count = deaths[group]
    first = (count.cumsum(0) - count).repeat_interleave(count)
    group = group.repeat_interleave(count)
    gone = torch.arange(len(group), device=group.device) - first
    return group, (total / deaths)[group], gone / deaths[group].double()


@dataclass(frozen=True)
class Prefixes:
    """Without late entry a row is at risk from one group on, to the last of its stratum.

    Attributes:
        group: (rows,) the first group each row is in; the number of groups where it is in none.
        sizes: Groups of each stratum.
    """

    group: Tensor
    sizes: list[int]

    @classmethod
    def build(cls, group: Tensor, sizes: list[int], stratum: Tensor | None) -> "Prefixes":
        """Mark the rows that left their stratum before its first event."""
        if stratum is not None:
            end = torch.tensor(sizes, device=group.device).cumsum(0)[stratum]
            group = torch.where(group < end, group, sum(sizes))
        return cls(group, sizes)

    def sum_rows(self, held: Tensor, form: Form) -> Tensor:
        """See `AtRisk`."""
        groups = sum(self.sizes)
        starting = form.collect(held, self.group, groups + 1)[:groups]
        return torch.cat([form.cumulate(part) for part in starting.split(self.sizes)])

    def sum_groups(self, held: Tensor, form: Form) -> Tensor:
        """See `AtRisk`."""
        parts = [form.cumulate(part.flip(0)).flip(0) for part in held.split(self.sizes)]
        return torch.cat([*parts, form.zeros(held, 1)]).index_select(0, self.group)


@dataclass(frozen=True)
class Intervals:
    """With late entry a row is at risk in an interval of groups.

    Differences of running sums would cancel, so there are only additions: where first and last
    group of an interval differ in bit b as their highest, a boundary of blocks of 2^b groups lies
    between them. The interval is the end of the block before it and the start of the one after it,
    and running sums away from that boundary, for each b, serve all rows.

    Attributes:
        groups: Number of groups.
        levels: Bits of a group's number.
        cells: (2, rows) the cells of a (levels, 2^levels) table in which an interval begins and
            ends; the cell after the last where there is none.
    """

    groups: int
    levels: int
    cells: Tensor

    @classmethod
    def build(cls, first: Tensor, end: Tensor, groups: int) -> "Intervals":
        """Find the boundary in each row's interval `first <= group < end`."""
        levels = max(groups - 1, 1).bit_length()
        last = end - 1
        level = torch.frexp((first ^ last).double()).exponent.long().sub(1).clamp_min(0)
        begins = torch.where(first <= last, (level << levels) + first, levels << levels)
        ends = torch.where(first < last, (level << levels) + last, levels << levels)
        return cls(groups, levels, torch.stack([begins, ends]))

    def sum_rows(self, held: Tensor, form: Form) -> Tensor:
        """See `AtRisk`."""
        size = self.levels << self.levels
        table = form.collect(held.repeat(2), self.cells.flatten(), size + 1)[:size]
        total = form.zeros(held, 1 << self.levels)
        for level, row in enumerate(table.view(self.levels, -1)):
            before, after = row.view(-1, 2, 1 << level).unbind(1)
            both = [form.cumulate(before), form.cumulate(after.flip(1)).flip(1)]
            total = form.add(total, torch.stack(both, 1).flatten())
        return total[: self.groups]

    def sum_groups(self, held: Tensor, form: Form) -> Tensor:
        """See `AtRisk`."""
        padded = torch.cat([held, form.zeros(held, (1 << self.levels) - self.groups)])
        table = []
        for level in range(self.levels):
            before, after = padded.view(-1, 2, 1 << level).unbind(1)
            both = [form.cumulate(before.flip(1)).flip(1), form.cumulate(after)]
            table.append(torch.stack(both, 1).flatten())
        cells = torch.cat([*table, form.zeros(held, 1)])
        return form.add(*(cells.index_select(0, side) for side in self.cells))
