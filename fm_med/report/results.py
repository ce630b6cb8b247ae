"""Nested results: written as ``metrics.json`` and set as tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fm_med.atomic import atomic_file
from fm_med.metrics import Interval
from fm_med.report.page import Table


def write_metrics(path: str | Path, nested: Mapping[str, Any]) -> Path:
    """Write ``metrics.json``: nested names, each leaf ``{"value", "low", "high", "n"}``.

    JSON knows no NaN: an undefined number is written as null and its leaf gains a ``reason``.

    Args:
        path: The file; its folder is made.
        nested: Mappings of mappings that end in `Interval`.

    Raises:
        TypeError: A leaf is not an `Interval`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_leaves(nested, ""), indent=1, allow_nan=False) + "\n")
    return path


def interval_table(
    rows: Mapping[str, Interval], *, caption: str, note: str = "", unit: str = "Patients"
) -> Table:
    """Return a table with one result per row: value, 95 % interval, number of patients.

    Args:
        rows: Results by what the reader should call them.
        caption: Of the table.
        note: Small print below.
        unit: What `n` counts.
    """
    cells = []
    for name, interval in rows.items():
        value, _, spread = str(interval).replace("-", "−").partition(" [")
        cells.append((name, value, spread.rstrip("]").replace(", ", " to "), f"{interval.n:,}"))
    return Table(("", "Value", "95 % interval", unit), cells, caption, note)


def _leaves(node: Mapping[str, Any] | Interval, name: str) -> dict[str, Any]:
    """Return the JSON form of a mapping or an interval."""
    if isinstance(node, Interval):
        leaf: dict[str, Any] = dict(node.as_dict())
        if leaf["value"] is None:
            leaf["reason"] = "not defined on these rows (a class without members, or too few rows)"
        elif leaf["low"] is None:
            leaf["reason"] = (
                "no interval: not computed, or undefined in half of the resamples or more"
            )
        return leaf
    if isinstance(node, Mapping):
        return {key: _leaves(value, f"{name}.{key}".lstrip(".")) for key, value in node.items()}
    raise TypeError(f"metric {name} must be an Interval, however: {node!r}")
