"""What the numbers of `metrics.json` are called on a page that people read."""

import re
from dataclasses import dataclass
from typing import Literal

from fm_med.hub.card_facts import Leaf

OWN = "this model"
_UNTRAINED = "_random"  # ends the place of the same result with an encoder that was not trained
_RIVALS = {
    "age_sex": "age and sex",
    "age_sex_fine_gray": "age and sex (Fine–Gray)",
    "clinical": "clinical covariates",
    "measurements": "ECG measurements",
    "oracle": "known truth (simulation)",
    "random_encoder": "untrained encoder",
}
_METRICS = {
    "auroc": "AUROC",
    "brier": "Brier score",
    "c_index": "C-index",
    "c_index_uno": "C-index (Uno)",
    "ibs": "integrated Brier score",
    "macro_auroc": "macro AUROC",
    "macro_f1": "macro F1",
    "mcc": "Matthews correlation",
    "oracle_gap_closed": "share of the gap from age and sex to the known truth",
    "r2": "R²",
    "scaled_brier": "scaled Brier score",
}
_YEARS = re.compile(r"(?!recall)(.+)_at_(\d+(?:\.\d+)?)")  # horizons; recall is among so many


@dataclass(frozen=True)
class Place:
    """Where a number belongs in the tables of results.

    Attributes:
        table: "value", or the paired "difference" of the model and a rival.
        column: Whose it is, or the rival.
        row: Which metric.
    """

    table: Literal["value", "difference"]
    column: str
    row: str


def place_of(leaf: Leaf) -> Place:
    """Return the place of a number, by its path in `metrics.json`."""
    path = [part for part in leaf.path if part != "model"]
    table: Literal["value", "difference"] = "difference" if "difference" in path else "value"
    column = OWN
    for group in ("baselines", "difference"):
        if group in path[:-2]:
            place = path.index(group)
            column = path[place + 1]
            path = path[:place] + path[place + 2 :]
    for name in (column, path[0]):
        if name.endswith(_UNTRAINED):
            column = "random_encoder"
            path = [name.removesuffix(_UNTRAINED), path[-1]]
    words = [part.replace("_", " ") for part in path[:-1]]
    return Place(table, rival_name(column), " ".join([*words, metric_name(path[-1])]))


def rival_name(name: str) -> str:
    """Return what a baseline is called."""
    return _RIVALS.get(name, name.replace("_", " "))


def metric_name(name: str) -> str:
    """Return what a metric is called, `auroc_at_3` as AUROC at 3 years."""
    horizon = _YEARS.fullmatch(name)
    if horizon:
        return f"{metric_name(horizon[1])} at {years(horizon[2])}"
    return _METRICS.get(name, name.replace("_", " "))


def years(text: str) -> str:
    """Return a horizon in words; a bare number counts years."""
    if not text.replace(".", "", 1).isdecimal():
        return text.replace("_", " ")
    return f"{text} year" if text == "1" else f"{text} years"
