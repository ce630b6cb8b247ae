"""Sums over risk sets in numpy: everything of Cox's likelihood that the coefficients do not touch.

The torch version for training is `fm_med.objectives.RiskSetPlan`; a fit needs sums of whole
matrices as well (for the information matrix), in linear space and without importing torch.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from scipy import sparse

from fm_med.errors import InputError
from fm_med.survival.follow_up import FollowUp

Ties = Literal["efron", "breslow"]


class AtRisk(Protocol):
    """The 0/1 matrix (groups, rows) of who is at risk at which event time, as an operator."""

    def sums(self, weight: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """Return (groups,) sums of `weight` over those at risk, or (groups, k) of weight*values."""

    def spread(self, value: np.ndarray) -> np.ndarray:
        """Return (rows,): the sum of value (groups,) over the event times each row is at risk."""


@dataclass(frozen=True)
class RiskSets:
    """Risk sets and ties of a follow-up; a group is a distinct event time of a stratum.

    Groups are numbered by stratum, then by falling time, so that risk sets grow with the number.

    Attributes:
        at_risk: Sums over risk sets.
        dead: (groups, rows) sparse 0/1 matrix of the events.
        event_row: (events,) row of each event.
        event_group: (events,) its group.
        time: (groups,) event time.
        stratum: (groups,) stratum.
        term_group: (terms,) group of each logarithm in the likelihood.
        term_weight: (terms,) what it is multiplied with.
        term_share: (terms,) Efron's share of the tied events already gone.
    """

    at_risk: AtRisk
    dead: sparse.csr_matrix
    event_row: np.ndarray
    event_group: np.ndarray
    time: np.ndarray
    stratum: np.ndarray
    term_group: np.ndarray
    term_weight: np.ndarray
    term_share: np.ndarray

    @classmethod
    def build(cls, follow_up: FollowUp, ties: Ties = "efron") -> "RiskSets":
        """Sort once.

        Raises:
            InputError: `ties` is neither "efron" nor "breslow".
        """
        if ties not in ("efron", "breslow"):
            raise InputError(f"ties must be 'efron' or 'breslow', not {ties!r}")
        rows = np.flatnonzero(follow_up.event)
        pairs = np.stack([follow_up.stratum[rows], -follow_up.time[rows]], axis=1)
        groups, number = np.unique(pairs, axis=0, return_inverse=True)
        number = number.reshape(-1)
        stratum, time = groups[:, 0].astype(np.int64), -groups[:, 1]
        starts = np.searchsorted(stratum, np.arange(int(follow_up.stratum.max(initial=0)) + 2))
        first = _first_group(follow_up, follow_up.time, time, starts)
        at_risk: AtRisk
        if follow_up.entry is None:
            at_risk = Prefixes.build(first, starts[follow_up.stratum + 1], starts)
        else:
            last = _first_group(follow_up, follow_up.entry, time, starts)
            at_risk = Intervals.build(first, last, len(time))
        dead = sparse.csr_matrix(
            (np.ones(len(rows)), (number, rows)), shape=(len(time), len(follow_up.time))
        )
        terms = _terms(number, len(time), follow_up.weight[rows], ties)
        return cls(at_risk, dead, rows, number, time, stratum, *terms)


def _first_group(
    follow_up: FollowUp, at: np.ndarray, time: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Return, of each row's stratum, the first group with an event time <= `at`."""
    found = np.zeros(len(at), dtype=np.int64)
    for stratum, (start, end) in enumerate(pairwise(starts)):
        here = follow_up.stratum == stratum if len(starts) > 2 else slice(None)
        found[here] = start + np.searchsorted(-time[start:end], -at[here], side="left")
    return found


def _terms(
    group: np.ndarray, groups: int, weight: np.ndarray, ties: Ties
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return group, weight and Efron's share of each logarithm of the likelihood."""
    deaths = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=weight, minlength=groups)
    if ties == "breslow":
        return np.arange(groups), total, np.zeros(groups)
    by_group = np.sort(group)
    gone = np.arange(len(group)) - (np.cumsum(deaths) - deaths)[by_group]
    return by_group, (total / deaths)[by_group], gone / deaths[by_group]


def cumulate(value: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return running sums along axis 0 that restart at each of `starts` (its last is the end)."""
    result = np.empty_like(value)
    for start, end in pairwise(starts):
        np.cumsum(value[start:end], axis=0, out=result[start:end])
    return result


def scaled(matrix: sparse.csr_matrix, weight: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix with its columns multiplied by `weight`, without a dense copy."""
    data = matrix.data * weight[matrix.indices]
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _indicator(group: np.ndarray, row: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(group)), (group, row)), shape=shape)


@dataclass(frozen=True)
class Prefixes:
    """Without late entry a row is at risk from its first group to the end of its stratum."""

    joining: sparse.csr_matrix
    first: np.ndarray
    never: np.ndarray
    starts: np.ndarray

    @classmethod
    def build(cls, first: np.ndarray, end: np.ndarray, starts: np.ndarray) -> "Prefixes":
        """Note who joins the risk set at which group."""
        never = first >= end
        row = np.flatnonzero(~never)
        joining = _indicator(first[row], row, (int(starts[-1]), len(first)))
        return cls(joining, np.minimum(first, max(int(starts[-1]) - 1, 0)), never, starts)

    def sums(self, weight: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """See `AtRisk`."""
        if values is None:
            return cumulate(self.joining @ weight, self.starts)
        return cumulate(scaled(self.joining, weight) @ values, self.starts)

    def spread(self, value: np.ndarray) -> np.ndarray:
        """See `AtRisk`."""
        if not len(value):
            return np.zeros(len(self.first))
        backward = cumulate(value[::-1], (self.starts[-1] - self.starts)[::-1])[::-1]
        return np.where(self.never, 0.0, backward[self.first])


@dataclass(frozen=True)
class Intervals:
    """With late entry a row is at risk in an interval of groups.

    Differences of running sums would cancel. A segment tree only adds: an interval is the union of
    O(log G) nodes, and each event time lies in the log G nodes above its leaf.
    """

    node: sparse.csr_matrix
    groups: int

    @classmethod
    def build(cls, first: np.ndarray, end: np.ndarray, groups: int) -> "Intervals":
        """Cut each row's interval of groups [first, end) into nodes of the tree."""
        leaves = 1 << max(groups - 1, 0).bit_length()
        left, right = first + leaves, end + leaves
        number = np.arange(len(first))
        nodes, rows = [number[:0]], [number[:0]]
        while (left < right).any():
            inside = left < right
            take_left, take_right = inside & (left % 2 == 1), inside & (right % 2 == 1)
            nodes += [left[take_left], right[take_right] - 1]
            rows += [number[take_left], number[take_right]]
            left, right = (left + take_left) // 2, (right - take_right) // 2
        shape = (2 * leaves, len(first))
        return cls(_indicator(np.concatenate(nodes), np.concatenate(rows), shape), groups)

    def sums(self, weight: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """See `AtRisk`; sums are handed down from each node to its leaves."""
        if values is None:
            level = self.node @ weight
        else:
            level = scaled(self.node, weight) @ values
        above = level[1:2]
        while 2 * len(above) < len(level):
            size = 2 * len(above)
            above = level[size : 2 * size] + np.repeat(above, 2, axis=0)
        return above[: self.groups]

    def spread(self, value: np.ndarray) -> np.ndarray:
        """See `AtRisk`; sums are collected from the leaves up."""
        leaves = self.node.shape[0] // 2
        levels = [np.concatenate([value, np.zeros(leaves - self.groups)])]
        while len(levels[0]) > 1:
            levels.insert(0, levels[0][::2] + levels[0][1::2])
        return self.node.T @ np.concatenate([[0.0], *levels])
