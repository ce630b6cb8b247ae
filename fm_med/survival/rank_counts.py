"""How many points are before a query in one order and above it in another, in O(n log n)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Queries answered at once: their temporary arrays stay in the processor's cache.
BLOCK = 2**14


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


def count_above(value: np.ndarray, query_value: np.ndarray, query_ends: np.ndarray) -> np.ndarray:
    """Return (k, queries) how many of the first ``query_ends[i]`` points are above the query's.

    The same count as `count_levels`, faster but without weights: several bits at a time, by tables
    of how many of the first points reach each digit; the more queries, the larger the tables.

    Args:
        value: (points,) integers >= 0, the points in the order in which ends cut them.
        query_value: (queries,) integers >= 0.
        query_ends: (k, queries).
    """
    bits, points = int(value.max(initial=0)).bit_length(), len(value)
    width = int(np.clip(len(query_value) // max(points, 1), 4, 128)).bit_length() - 1
    query_value = np.minimum(query_value, value.max(initial=0)).astype(np.intp)
    ends = np.vstack([np.zeros(len(query_value), np.intp), query_ends])
    counted = np.zeros(ends.shape, dtype=np.intp)
    # reaching[d, e]: of the first e points, those with a digit of at least d
    reaching = np.zeros((2**width + 1, points + 1), dtype=np.int32)
    reaching[0] = np.arange(points + 1)
    digits = np.arange(1, 2**width, dtype=np.uint8)[:, None]
    for shift in reversed(range(0, bits, width)):
        digit = (value >> shift & 2**width - 1).astype(np.uint8)
        np.cumsum(digit >= digits, axis=1, out=reaching[1:-1, 1:])
        smaller = points - reaching[:, points]
        for start in range(0, len(query_value), BLOCK):
            block = np.s_[..., start : start + BLOCK]
            asked = query_value[block] >> shift & 2**width - 1
            cell = ends[block] + asked * (points + 1)
            above = reaching.ravel().take(cell + (points + 1))
            counted[block] += above
            if shift:
                ends[block] = reaching.ravel().take(cell) - above + smaller.take(asked)
        value = value.take(np.argsort(digit, kind="stable"))
    return counted[1:] - counted[0]
