"""What may be kept of training rows in a model that is to be shared (disclosure control).

An extreme is one person's value, and a level that few share tells who they are. Quantiles with
fewer than `MINIMUM` persons beyond them are therefore estimated from those that have as many, and
levels of fewer persons are not kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

MINIMUM = 10  # persons; smaller groups are not told of
HIDDEN = f"< {MINIMUM}"
_END = 0.001  # the outermost rank: no end of a line is an extreme


def hidden_parts(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Return counts of the parts of a whole, the small ones as text.

    Who knows the whole could find a single hidden part by subtraction, so the smallest of the
    others are hidden too, until two or more are hidden and together reach `MINIMUM`.
    """
    hidden = {name for name, count in counts.items() if count < MINIMUM}
    rest = sorted(set(counts) - hidden, key=lambda name: counts[name])
    while hidden and rest and (len(hidden) < 2 or sum(counts[n] for n in hidden) < MINIMUM):
        hidden.add(rest.pop(0))
    return {
        name: ("not shown" if count >= MINIMUM else HIDDEN) if name in hidden else count
        for name, count in counts.items()
    }


def without_small_counts(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is noted of a model's training with small numbers hidden.

    Args:
        training: Perhaps with `rows`, `persons`, `events` and `events_by_cause`; a second time
            nothing changes.
    """
    safe = dict(training)
    for name in ("rows", "persons", "events"):
        if isinstance(safe.get(name), int) and safe[name] < MINIMUM:
            safe[name] = HIDDEN
    causes = safe.get("events_by_cause", {})
    if causes and all(isinstance(count, int) for count in causes.values()):
        safe["events_by_cause"] = hidden_parts(causes)
    return safe


def covered_quantiles(
    values: np.ndarray, ranks: Sequence[float] | np.ndarray, persons: np.ndarray
) -> np.ndarray:
    """Return quantiles of which none is an extreme of fewer than `MINIMUM` persons.

    Ranks out to where ten persons lie beyond are the values' own. Farther out the line goes on as
    that of a normal distribution would, from the median through the last covered quantile. Where
    even the quartiles are not covered (below about 40 persons) all are those of a normal
    distribution with the values' mean and standard deviation: nothing else is told of so few.

    Args:
        values: (cells,) known values, at least one.
        ranks: (ranks,) from 0 to 1; taken as .001 to .999.
        persons: (cells,) numbers of whose the values are; one person may have many.
    """
    ranks = np.clip(ranks, _END, 1 - _END)
    low, high = _first_covered(values, persons), 1 - _first_covered(-values, persons)
    score = norm.ppf(ranks)
    if not low <= 0.25 <= 0.75 <= high:
        return values.mean() + values.std() * score
    found = np.quantile(values, np.clip(ranks, low, high))
    ends, (lower, middle, upper) = norm.ppf((low, high)), np.quantile(values, (low, 0.5, high))
    beyond = np.minimum(score - ends[0], 0) * (lower - middle) / ends[0]
    return found + beyond + np.maximum(score - ends[1], 0) * (upper - middle) / ends[1]


def _first_covered(values: np.ndarray, persons: np.ndarray) -> float:
    """Return the rank of the lowest value that has `MINIMUM` persons below; 1 without any."""
    if len(values) < 2:
        return 1.0
    in_order = persons[np.argsort(values, kind="stable")]
    first = np.sort(np.unique(in_order, return_index=True)[1])  # where a new person begins
    if len(first) <= MINIMUM:
        return 1.0
    return float((first[MINIMUM - 1] + 0.5) / (len(values) - 1))  # between two persons' values


def common_levels(levels: np.ndarray, persons: np.ndarray) -> list[str]:
    """Return the levels that at least `MINIMUM` persons have, in their order.

    Args:
        levels: (cells,) str.
        persons: (cells,) numbers of whose they are.
    """
    names, codes = np.unique(levels, return_inverse=True)
    pairs = np.unique(np.stack([codes, persons]), axis=1)
    count = np.bincount(pairs[0], minlength=len(names))
    return [str(name) for name in names[count >= MINIMUM]]
