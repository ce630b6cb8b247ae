"""What a model folder keeps of its training rows, so that a new cohort can be compared with them.

Aggregates only, over one row per person (the first): shares, of which those of fewer than ten
persons are kept as none (or all), and a level of a table that so few have not even by its name;
five quantiles with two significant digits; mean and variance of the pooled features. Nothing at all
is kept of fewer than `FEWEST` persons.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel

from fm_med.cohort.people import tells
from fm_med.differences import Describing, RowFacts
from fm_med.disclosure import MINIMUM
from fm_med.examples import Examples
from fm_med.fusion.naming import JOINT, PARTS, presence_column
from fm_med.modalities import modality_of

FEWEST = 50
SAMPLED = 500  # persons of whom signals are read
MEMORY = 2**30  # bytes of them at once, at most
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Reference:
    """Aggregates of rows, one per person.

    Attributes:
        persons: Number of persons.
        shares: By "topic: item", the share and of how many persons it is known.
        quantiles: By name, the values at `QUANTILES`, and of how many persons they are known.
        embedding: `persons`, `mean` and `variance` of the pooled features; empty without.
    """

    persons: int = 0
    shares: dict[str, tuple[float, int]] = field(default_factory=dict)
    quantiles: dict[str, tuple[list[float], int]] = field(default_factory=dict)
    embedding: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Reference":
        """Read what `kept_reference` returned; {} gives an empty one."""
        return cls(**values)


def kept_reference(examples: Examples, encoder: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """Return what a saved model keeps of its training rows; {} for fewer than `FEWEST` persons.

    Runs on one process and encodes at most `SAMPLED` rows.

    Args:
        examples: The training rows.
        encoder: As it is saved.
        processor: Of the encoder.
    """
    people = one_per_person(examples)
    if len(people) < FEWEST:
        return {}
    facts = [common_facts(people)]
    sample = sample_of(people)
    facts.append(room_facts(sample))
    features = encoded(sample, encoder, processor).astype(np.float64)
    return {
        "persons": len(people),
        "shares": {n: s for fact in facts for n, s in shares(fact, hide=True).items()},
        "quantiles": {n: q for fact in facts for n, q in quantiles(fact, hide=True).items()},
        "embedding": {
            "persons": len(features),
            "mean": _rounded(features.mean(0), 5),
            "variance": _rounded(features.var(0, ddof=1), 5),
        },
    }


# ---------------------------------------------------------------------------------- Rows


def one_per_person(examples: Examples) -> Examples:
    """Return each person's first row."""
    return examples.take(np.sort(np.unique(examples.subject_id, return_index=True)[1]))


def sample_of(people: Examples) -> Examples:
    """Return at most `SAMPLED` rows, evenly spaced; fewer where they would not fit in memory."""
    size = people.table(rows=np.arange(1)).nbytes
    most = min(len(people), SAMPLED, max(FEWEST, MEMORY // max(1, size)))
    return people.take(np.unique(np.linspace(0, len(people) - 1, most).astype(np.int64)))


@torch.inference_mode()
def encoded(examples: Examples, encoder: PreTrainedModel, processor: Any) -> np.ndarray:
    """Return (rows, pooled_size) float32 features.

    Raises:
        InputError: The processor refuses the rows.
    """
    device, encoder = encoder.device, encoder.eval()
    parts = []
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(examples)))
        inputs = examples.inputs(rows, processor, device)
        parts.append(encoder(**inputs).pooler_output.float().cpu().numpy())
    return np.concatenate(parts)


# --------------------------------------------------------------------------------- Facts


def common_facts(examples: Examples) -> RowFacts:
    """Return age, sex, labels, classes and follow-up of each row, as far as the cohort has them."""
    card = examples.cohort.card
    yes: dict[str, np.ndarray] = {}
    numbers: dict[str, np.ndarray] = {}
    available = set(examples.cohort.splits[str(examples.split[0])].column_names)
    labels = [label for labels in card.label_sets.values() for label in labels]
    names = ["age", "sex", "report", *labels, *card.classes, card.time, card.event]
    table = examples.table([name for name in dict.fromkeys(names) if name and name in available])
    there = set(table.column_names)
    if tells(table, "age"):
        age = _numbers(table, "age")
        numbers["age (years)"] = age
        yes["missing: age"] = np.isnan(age).astype(np.float64)
    if tells(table, "sex"):
        yes |= _levels(table, "sex", ["female"])
        yes["missing: sex"] = np.asarray(pc.is_null(table.column("sex")), np.float64)
    if "report" in there:
        yes["missing: report"] = np.asarray(pc.is_null(table.column("report")), np.float64)
    for label in labels:
        yes[f"label: {label}"] = _numbers(table, label)
    for name, classes in card.classes.items():
        yes |= _levels(table, name, classes)
    if card.time and card.event and {card.time, card.event} <= there:
        numbers[f"follow-up ({card.follow_up_unit})"] = _numbers(table, card.time)
        yes["event: observed"] = _numbers(table, card.event)
    return RowFacts(yes, numbers)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return (rows,) float64 of numbers or bools, NaN for null."""
    column = table.column(name).combine_chunks()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _levels(table: pa.Table, name: str, levels: Sequence[str]) -> dict[str, np.ndarray]:
    column = table.column(name)
    known = column.is_valid().to_numpy()
    return {
        f"{name}: {level}": np.where(
            known, pc.fill_null(pc.equal(column, level), False).to_numpy(), np.nan
        )
        for level in levels
    }


def room_facts(examples: Examples) -> RowFacts:
    """Return what the rooms tell of the rows; of two modalities each under its name."""
    table, name = examples.table(), examples.cohort.card.modality
    if JOINT not in name:
        return describing(name).row_facts(table)
    yes: dict[str, np.ndarray] = {}
    numbers: dict[str, np.ndarray] = {}
    for part, own, shown in parts(name, table):
        yes[f"present: {part}"] = shown.astype(np.float64)
        facts = describing(part).row_facts(own) if shown.any() else RowFacts()
        yes |= {key: _widened(values, shown) for key, values in facts.yes.items()}
        numbers |= {key: _widened(values, shown) for key, values in facts.numbers.items()}
    return RowFacts(yes, numbers)


def describing(modality: str) -> Describing:
    """Return what a room can tell of its rows."""
    found = modality_of(modality).describing
    assert found is not None  # every room has it; a fusion is taken apart before
    return found


def parts(modality: str, table: pa.Table) -> Iterator[tuple[str, pa.Table, np.ndarray]]:
    """Yield each of two joined modalities with the rows that have it, and which these are."""
    for part, _place in zip(modality.split(JOINT), PARTS):
        shown = pc.fill_null(table.column(presence_column(part)), False).to_numpy()
        yield part, table.filter(pa.array(shown)), shown


def _widened(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    whole = np.full(len(shown), np.nan)
    whole[shown] = values
    return whole


# ----------------------------------------------------------------------------- Aggregates


def shares(facts: RowFacts, *, hide: bool) -> dict[str, tuple[float, int]]:
    """Sum yes and no up.

    Args:
        facts: One row per person.
        hide: Count fewer than ten persons with or without as none, and leave out what is known of
            fewer than `FEWEST`.
    """
    found = {}
    for name, values in facts.yes.items():
        known = values[~np.isnan(values)]
        count = int(known.sum())
        if len(known) < (FEWEST if hide else 1):
            continue
        if hide and count < MINIMUM:
            if name.startswith("level: "):  # a text of the table, that may be somebody's own
                continue
            count = 0
        elif hide and len(known) - count < MINIMUM:
            count = len(known)
        found[name] = (round(count / len(known), 4), len(known))
    return found


def quantiles(facts: RowFacts, *, hide: bool) -> dict[str, tuple[list[float], int]]:
    """Sum numbers up; arguments as of `shares`. Kept ages are whole years."""
    found = {}
    for name, values in facts.numbers.items():
        known = values[np.isfinite(values)]
        if len(known) < (FEWEST if hide else 1):
            continue
        values = np.quantile(known, QUANTILES)
        rounded = np.round(values) if name.startswith("age") else _rounded(values, 2)
        found[name] = ([float(value) for value in (rounded if hide else values)], len(known))
    return found


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
