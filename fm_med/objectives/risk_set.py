"""Who is at risk when: the part of Cox's likelihood that does not depend on the network.

Sorting takes most of the time of a Cox loss and needs only the follow-up, so a `RiskSetPlan` is
built once per cohort (or batch) and used at every step.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from fm_med.errors import InputError

Ties = Literal["efron", "breslow"]

# Beyond this spread of log-hazards exp() would underflow in float64, so sums go through logarithms.
WIDE = 600.0


class AtRisk(Protocol):
    """Sums over the risk sets, and over the risk sets that a row belongs to, as logarithms."""

    def log_sum_rows(self, value: Tensor, wide: bool) -> Tensor:
        """Map (rows,) logarithms to (groups,): the sum over the rows at risk at each event time."""

    def log_sum_groups(self, value: Tensor, wide: bool) -> Tensor:
        """Map (groups,) logarithms to (rows,): the sum over the event times each row is at risk."""


@dataclass(frozen=True)
class RiskSetPlan:
    """Risk sets and ties of one set of follow-ups; G groups are distinct event times of a stratum.

    Attributes:
        rows: Number of rows.
        at_risk: Sums over risk sets.
        event: (events,) row of each event.
        event_group: (events,) group of each event.
        weight: (rows,) case weights, float64.
        term_group: (terms,) group of each logarithm in the likelihood.
        term_weight: (terms,) what the logarithm is multiplied with.
        term_share: (terms,) Efron's share of the tied events already gone; None when all are 0.
        groups: G.
    """

    rows: int
    at_risk: AtRisk
    event: Tensor
    event_group: Tensor
    weight: Tensor | None
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
        stratum = torch.zeros_like(event, dtype=torch.int64)
        if strata is not None:
            stratum = strata.unique(return_inverse=True)[1]
        weight = None if weight is None else weight.double()
        # Groups are numbered by stratum, then by falling time: risk sets grow with the number.
        order = _sorted(stratum, time)
        firsts = _changes(stratum[order], time[order]) if len(order) else event
        key = torch.empty_like(stratum).index_put_((order,), firsts.cumsum(0))
        used, event_group = key[event].unique(return_inverse=True)
        rows_of_events = event.nonzero().squeeze(1)
        terms = _terms(event_group, len(used), ties, None if weight is None else weight[event])
        at_risk: AtRisk
        if entry is None:
            at_risk = Prefixes.build(order, key, stratum, used)
        else:
            at_risk = Intervals.build(key, _entry_key(stratum, time, entry, key), used)
        return cls(
            len(time), at_risk, rows_of_events, event_group, weight, *terms, groups=len(used)
        )


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


def _sorted(stratum: Tensor, time: Tensor) -> Tensor:
    """Return rows by stratum, then by falling time; ties keep their order."""
    by_time = time.argsort(descending=True, stable=True)
    return by_time[stratum[by_time].argsort(stable=True)] if stratum.any() else by_time


def _changes(stratum: Tensor, time: Tensor) -> Tensor:
    """Tell where a new (stratum, time) starts among sorted rows, not counting the first."""
    new = torch.zeros_like(stratum, dtype=torch.bool)
    new[1:] = (stratum[1:] != stratum[:-1]) | (time[1:] != time[:-1])
    return new


def _terms(
    event_group: Tensor, groups: int, ties: Ties, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return group, weight and Efron's share of each logarithm of the likelihood."""
    deaths = event_group.bincount(minlength=groups).double()
    total = deaths
    if weight is not None:
        total = torch.zeros_like(deaths).index_add_(0, event_group, weight)
    if ties == "breslow" or bool((deaths <= 1).all()):
        return torch.arange(groups, device=event_group.device), total, None
    by_group = event_group.sort()[0]
    first = deaths.long().cumsum(0) - deaths.long()
    gone = torch.arange(len(by_group), device=by_group.device) - first[by_group]
    return by_group, (total / deaths)[by_group], gone / deaths[by_group]


def _entry_key(stratum: Tensor, time: Tensor, entry: Tensor, key: Tensor) -> Tensor:
    """Return each row's key of the last time of its stratum that is still after its entry, plus 1.

    Sorted together with the times, an entry comes after all times that are larger than it.
    """
    rows = len(time)
    both = torch.cat([time, entry.to(time.dtype)])
    # At equal times an entry comes first: entry == t is not at risk at t.
    is_time = torch.arange(2 * rows, device=time.device) < rows
    order = is_time.long().argsort(stable=True)
    order = order[both[order].argsort(descending=True, stable=True)]
    order = order[torch.cat([stratum, stratum])[order].argsort(stable=True)]
    keys = torch.where(is_time, torch.cat([key, key]), -1)[order]
    reached = keys.cummax(0)[0] + 1
    return torch.empty_like(reached).index_put_((order,), reached)[rows:]


def log_sum(value: Tensor, index: Tensor, size: int) -> Tensor:
    """Return (size,) the logarithm of the sum of exp(value) of equal index; -inf for none."""
    top = value.new_full((size,), -torch.inf).scatter_reduce(0, index, value, "amax")
    # Where a maximum is -inf there is nothing to add; 0 avoids inf - inf.
    shift = torch.where(top.isfinite(), top, 0)
    total = torch.zeros_like(top).index_add_(0, index, (value - shift[index]).exp())
    return total.log() + shift


def log_cumulate(value: Tensor, sizes: list[int], wide: bool) -> Tensor:
    """Return logarithms of the running sums of exp(value), restarted in every stratum."""
    if len(sizes) > 1:
        return torch.cat([log_cumulate(part, [len(part)], wide) for part in value.split(sizes)])
    if wide or not len(value):
        return value.logcumsumexp(0)
    top = value.max()
    shift = torch.where(top.isfinite(), top, 0)
    return (value - shift).exp_().cumsum(0).log_() + shift


@dataclass(frozen=True)
class Prefixes:
    """Without late entry a risk set is a prefix of its stratum, sorted by falling time."""

    order: Tensor
    stratum_rows: list[int]
    stratum_groups: list[int]
    last_row: Tensor
    first_group: Tensor
    has_group: Tensor

    @classmethod
    def build(cls, order: Tensor, key: Tensor, stratum: Tensor, used: Tensor) -> "Prefixes":
        """Note where each group's prefix ends, and from which group on each row is at risk."""
        sorted_key = key[order]
        last_row = torch.searchsorted(sorted_key, used, right=True) - 1
        first_group = torch.searchsorted(used, key)
        number = int(stratum.max()) + 1 if len(stratum) else 1
        group_stratum = stratum[order][last_row]
        padded = torch.cat([group_stratum, group_stratum.new_full((1,), -1)])
        return cls(
            order,
            stratum.bincount(minlength=number).tolist(),
            group_stratum.bincount(minlength=number).tolist(),
            last_row,
            first_group.clamp(max=max(len(used) - 1, 0)),
            padded[first_group] == stratum,
        )

    def log_sum_rows(self, value: Tensor, wide: bool) -> Tensor:
        """See `AtRisk`."""
        return log_cumulate(value[self.order], self.stratum_rows, wide)[self.last_row]

    def log_sum_groups(self, value: Tensor, wide: bool) -> Tensor:
        """See `AtRisk`."""
        running = log_cumulate(value.flip(0), self.stratum_groups[::-1], wide).flip(0)
        return torch.where(self.has_group, running[self.first_group], -torch.inf)


@dataclass(frozen=True)
class Intervals:
    """With late entry a row is at risk in an interval of groups.

    Differences of running sums would cancel. A segment tree only adds: an interval is the union of
    O(log G) nodes, and each event time lies in the log G nodes above its leaf.
    """

    rows: int
    groups: int
    leaves: int
    node: Tensor
    node_row: Tensor

    @classmethod
    def build(cls, key: Tensor, entry_key: Tensor, used: Tensor) -> "Intervals":
        """Cut each row's interval of groups into nodes of the tree."""
        leaves = 1 << max(len(used) - 1, 0).bit_length()
        left = torch.searchsorted(used, key) + leaves
        right = torch.searchsorted(used, entry_key) + leaves
        numbers = torch.arange(len(key), device=key.device)
        nodes, rows = [], []
        while bool((left < right).any()):
            open_interval = left < right
            take_left = open_interval & (left % 2 == 1)
            take_right = open_interval & (right % 2 == 1)
            nodes += [left[take_left], right[take_right] - 1]
            rows += [numbers[take_left], numbers[take_right]]
            left, right = (left + take_left.long()) // 2, (right - take_right.long()) // 2
        empty = [numbers[:0]]
        return cls(len(key), len(used), leaves, torch.cat(nodes or empty), torch.cat(rows or empty))

    def log_sum_rows(self, value: Tensor, wide: bool) -> Tensor:
        """See `AtRisk`; sums are handed down from each node to its leaves."""
        del wide
        level = log_sum(value[self.node_row], self.node, 2 * self.leaves)
        above = level[1:2]
        while len(above) < self.leaves:
            size = 2 * len(above)
            above = torch.logaddexp(level[size : 2 * size], above.repeat_interleave(2))
        return above[: self.groups]

    def log_sum_groups(self, value: Tensor, wide: bool) -> Tensor:
        """See `AtRisk`; sums are collected from the leaves up."""
        del wide
        below = value.new_full((self.leaves,), -torch.inf)
        below[: self.groups] = value
        levels = [below]
        while len(levels[0]) > 1:
            levels.insert(0, torch.logaddexp(levels[0][::2], levels[0][1::2]))
        tree = torch.cat([value.new_full((1,), -torch.inf), *levels])
        return log_sum(tree[self.node], self.node_row, self.rows)
