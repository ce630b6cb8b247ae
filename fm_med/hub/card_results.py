"""Results as tables: on a model's card, and on the page of a report that is shared."""

import re
from collections.abc import Mapping, Sequence

from fm_med.disclosure import MINIMUM
from fm_med.hub.card_facts import Leaf
from fm_med.hub.card_names import OWN, place_of, years
from fm_med.report.calibration_drawing import CALIBRATION_FILE

Lines = list[str]
_NONE = "–"

# What is 1, or 0, when predicted risks are those observed.
_CALIBRATION = {
    "observed_expected": "observed / expected events (1)",
    "calibration_slope": "slope (1)",
    "ici": "mean distance of predicted and observed risk (0)",
    "ece": "mean distance of predicted and observed probability (0)",
}
_PICTURE = (
    f"![Observed against predicted risk]({CALIBRATION_FILE})\n\nEach point is a group of "
    f"{MINIMUM} persons or more with similar predictions; on the diagonal predictions are right, "
    "below it too high."
)
_AT = re.compile(rf"({'|'.join(_CALIBRATION)})(?:_at_(.+))?")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def results(leaves: Sequence[Leaf]) -> Lines:
    """Return the results of a model beside its baselines, and the differences; [] for none.

    How well risks are calibrated is left to `calibration`.
    """
    cells: dict[str, dict[str, dict[str, Leaf]]] = {"value": {}, "difference": {}}
    for leaf in leaves:
        if not _AT.fullmatch(leaf.path[-1]):
            place = place_of(leaf)
            cells[place.table].setdefault(place.row, {})[place.column] = leaf
    lines: Lines = []
    if cells["value"]:
        heading = "Value with its 95 % interval; N persons, whole persons resampled."
        lines += [heading, "", *_matrix(cells["value"])]
    if cells["difference"]:
        heading = "The same persons: this model minus each of the others, paired."
        lines += ["", heading, "", *_matrix(cells["difference"])]
    return lines


def _matrix(rows: Mapping[str, Mapping[str, Leaf]]) -> Lines:
    """Return a table with a row per metric, a column per model, and the number of persons."""
    found = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns = sorted(found, key=lambda name: name != OWN)  # the model first
    lines = []
    for name, row in rows.items():
        persons = ", ".join(f"{n:,}" for n in sorted({leaf.n for leaf in row.values()}))
        lines.append((name, *(str(row.get(column, _NONE)) for column in columns), persons))
    return table(("", *columns, "N"), lines)


def calibration(leaves: Sequence[Leaf], *, drawn: bool = False) -> Lines:
    """Return how well the model's own risks are calibrated, by horizon; [] where not judged.

    Args:
        leaves: The results.
        drawn: Whether a drawing lies beside the card.
    """
    found: dict[str, dict[str, Leaf]] = {}
    for leaf in leaves:
        match = _AT.fullmatch(leaf.path[-1])
        if match and not leaf.is_control:
            where = [part for part in leaf.path[:-1] if part != "model"]
            where += [years(match[2])] if match[2] else []
            found.setdefault(" ".join(where).replace("_", " ") or "all", {})[match[1]] = leaf
    names = [name for name in _CALIBRATION if any(name in row for row in found.values())]
    picture = [_PICTURE, ""] if drawn else []
    if not names:
        return picture
    rows = [(where, *(str(row.get(name, _NONE)) for name in names)) for where, row in found.items()]
    what = "Are predicted risks those observed? In brackets above each column: what a perfect model"
    return [
        *picture,
        f"{what} has.",
        "",
        *table(("", *(_CALIBRATION[name] for name in names)), rows),
    ]
