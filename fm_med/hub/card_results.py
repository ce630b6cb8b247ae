"""Results as tables: on a model's card, and on the page of a report that is shared."""

import re
from collections.abc import Sequence

from fm_med.hub.card_facts import Leaf

Lines = list[str]

_TITLES = {
    "model": "",
    "baselines": "What it has to beat, on the same persons:",
    "difference": "Difference to these (model minus baseline, paired):",
}
# What is 1, or 0, when predicted risks are those observed.
_CALIBRATION = {
    "observed_expected": "observed / expected events (1)",
    "calibration_slope": "slope (1)",
    "ici": "mean distance of predicted and observed risk (0)",
    "ece": "mean distance of predicted and observed probability (0)",
}
_AT = re.compile(rf"({'|'.join(_CALIBRATION)})(?:_at_(.+))?")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def results(leaves: Sequence[Leaf]) -> Lines:
    """Return the results of a model, of its baselines and the differences; [] for none."""
    groups: dict[str, list[Leaf]] = {name: [] for name in _TITLES}
    for leaf in leaves:
        group = "baselines" if leaf.is_control else "model"
        groups["difference" if "difference" in leaf.path else group].append(leaf)
    lines: Lines = []
    for group, found in groups.items():
        rows = [(_plain(leaf, group), str(leaf), f"{leaf.n:,}") for leaf in found]
        if rows:
            lines += ["", *([_TITLES[group], ""] if _TITLES[group] else [])]
            lines += table(("", "value (95 % interval)", "N"), rows)
    heading = "Value with its 95 % interval; N persons, whole persons resampled."
    return [heading, *lines] if lines else []


def _plain(leaf: Leaf, group: str) -> str:
    return " ".join(part for part in leaf.path if part != group).replace("_", " ")


def calibration(leaves: Sequence[Leaf]) -> Lines:
    """Return how well the model's own risks are calibrated, by horizon; [] where not judged."""
    found: dict[str, dict[str, Leaf]] = {}
    for leaf in leaves:
        match = _AT.fullmatch(leaf.path[-1])
        if match and not leaf.is_control:
            where = [part for part in leaf.path[:-1] if part != "model"]
            where += [match[2]] if match[2] else []
            found.setdefault(" ".join(where).replace("_", " ") or "all", {})[match[1]] = leaf
    names = [name for name in _CALIBRATION if any(name in row for row in found.values())]
    if not names:
        return []
    rows = [
        (where, *(str(row[name]) if name in row else "" for name in names))
        for where, row in found.items()
    ]
    what = "Are predicted risks those observed? In brackets above each column: what a perfect model"
    return [f"{what} has.", "", *table(("", *(_CALIBRATION[name] for name in names)), rows)]
