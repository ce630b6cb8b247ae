"""What ended a follow-up, where more than one kind of event can."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# How tables write that nothing had happened by the end; null and NaN mean the same.
CENSORED = frozenset({"", "0", "false", "censored"})


def cause_names(values: Sequence[Any] | np.ndarray) -> list[str | None]:
    """Return the cause of each row as text, None where censored; 2.0 and 2 are one cause.

    Args:
        values: A column of integers, whole floats, bools or texts, with None or NaN for null.
    """
    return [_name(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def in_order(names: Iterable[str | None]) -> tuple[str, ...]:
    """Return the distinct causes, numbers by size and before words."""
    found = {name for name in names if name is not None}
    return tuple(sorted(found, key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n)))


def _name(value: Any) -> str | None:
    if value is None or value != value:  # NaN
        return None
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    if text.removesuffix(".0").isdigit():
        text = text.removesuffix(".0")
    return None if text.lower() in CENSORED else text
