"""How many points are before a query in one order and above it in another, in O(n log n)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """One bit of the values: the points counted here, and for whom.

    Attributes:
        points: (counted,) the points counted at this level, in the order that ends refer to.
        queries: (asking,) the queries that count some of them.
        ends: (1 + k, asking) a query counts ``points[ends[0] : ends[i]]`` for its i-th end.
    """

    points: np.ndarray
    queries: np.ndarray
    ends: np.ndarray


def count_levels(
    value: np.ndarray, query_value: np.ndarray, query_ends: np.ndarray
) -> Iterator[Level]:
    """Yield, bit by bit, which of the first points have a value above the query's.

    A wavelet matrix: at the highest bit in which a point's and a query's value differ, the point
    has a one and the query a zero. The points are divided by that bit, in a stable way, so that
    those which share all higher bits with a query stay in one run and in their order. The levels
    of one query add up to all points it counts, each once, whatever the weights of the points.

    Args:
        value: (points,) integers >= 0, the points in the order in which ends cut them.
        query_value: (queries,) integers >= 0.
        query_ends: (k, queries) each query counts among the first ``query_ends[i]`` points.

    References:
        Claude, Navarro & Ordonez, "The wavelet matrix", Information Systems 47 (2015).
    """
    bits = int(value.max(initial=0)).bit_length()
    queries = np.flatnonzero(query_value >> bits == 0)  # the others are above every point
    value, query_value = value.astype(np.int32), query_value[queries].astype(np.int32)
    ends = np.vstack([np.zeros(len(queries)), query_ends[:, queries]]).astype(np.int32)
    points = np.arange(len(value), dtype=np.int32)
    ones_before = np.zeros(len(value) + 1, dtype=np.int32)
    for bit in reversed(range(bits)):
        has_one = (value >> bit & 1).astype(bool)
        np.cumsum(has_one, out=ones_before[1:])
        ones, zeros = np.flatnonzero(has_one), np.flatnonzero(~has_one)
        moves = (query_value >> bit & 1).astype(bool)
        asking, moving = np.flatnonzero(~moves), np.flatnonzero(moves)
        asking_ends = ends.take(asking, axis=1)
        right = ones_before.take(asking_ends)
        yield Level(points.take(ones), queries.take(asking), right)
        asking_ends -= right
        moved_ends = ones_before.take(ends.take(moving, axis=1))
        moved_ends += len(zeros)
        ends = np.concatenate([asking_ends, moved_ends], axis=1)
        asked = np.concatenate([asking, moving])
        query_value, queries = query_value.take(asked), queries.take(asked)
        order = np.concatenate([zeros, ones])
        value, points = value.take(order), points.take(order)
