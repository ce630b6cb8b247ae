"""What a cohort must satisfy, each rule as a function that returns the problems it found."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort.card import CohortCard, read_card
from fm_med.cohort.summaries import Summary, summary
from fm_med.cohort.tables import (
    content_hash,
    in_split_order,
    open_shards,
    read_batches,
)
from fm_med.errors import InputError

REQUIRED_COLUMNS = ("subject_id", "record_id", "split")
# Equal recordings have equal values. The first of these that a cohort has is used: the hash of the
# middle also finds a copy that was resampled again, which differs in a few samples at its ends.
HASH_COLUMNS = ("middle_hash", "signal_hash", "input_hash")


class Row(NamedTuple):
    """Where a recording stands."""

    split: str
    subject_id: str
    record_id: str


def check_cohort(path: str | os.PathLike[str], allow_duplicates: bool = False) -> list[str]:
    """Read a whole cohort again and return every problem found, one sentence each.

    Args:
        path: The cohort's folder.
        allow_duplicates: Accept equal recordings in different splits, as if the card allowed it.

    Returns:
        Problems; an empty list means that the cohort keeps the contract.
    """
    folder = Path(path)
    try:
        card = read_card(folder)
        tables = open_shards(folder)
    except InputError as error:
        return [str(error)]
    problems = quick_problems(card, {split: summary(table) for split, table in tables.items()})
    if any("has no column" in problem for problem in problems):
        return problems
    problems += row_problems(card, tables)
    if not (allow_duplicates or card.allow_duplicates):
        problems += duplicate_problems(tables)
    if card.fingerprint != content_hash(read_batches(folder)):
        problems.append(f"the rows of {folder} are not those that its card was written for")
    return problems


def quick_problems(card: CohortCard, splits: Mapping[str, Summary]) -> list[str]:
    """Return the problems that can be found without reading any signal."""
    problems = card_problems(card)
    for split, found in splits.items():
        missing = [name for name in _needed_columns(card) if name not in found.columns]
        problems += [f"split {split!r} has no column {name!r}" for name in missing]
        if not found.rows:
            problems.append(f"split {split!r} has no rows")
    counted = {split: found.rows for split, found in splits.items()}
    if counted != card.recordings:
        problems.append(f"the card counts {card.recordings} recordings, the files hold {counted}")
    return problems or subject_problems({split: found.subjects for split, found in splits.items()})


def card_problems(card: CohortCard) -> list[str]:
    """Return what the card fails to state."""
    problems = []
    if not card.units.strip():
        problems.append("the card does not state 'units'")
    if card.modality == "ecg" and not card.leads:
        problems.append("the card does not state 'leads'")
    if (card.time is None) != (card.event is None):
        problems.append("the card names only one of 'time' and 'event'; a follow-up needs both")
    if card.time is not None and not card.follow_up_unit:
        problems.append(f"the card names the follow-up column {card.time!r} without its unit")
    return problems


def checked_columns(card: CohortCard) -> set[str]:
    """Return the columns that `row_problems` and `duplicate_problems` look at, there or not."""
    return {*_needed_columns(card), "sampling_rate", *HASH_COLUMNS}


def _needed_columns(card: CohortCard) -> list[str]:
    labels = [label for labels in card.label_sets.values() for label in labels]
    follow_up = [name for name in (card.time, card.event) if name]
    return [*REQUIRED_COLUMNS, *labels, *card.classes, *follow_up]


def subject_problems(subjects: Mapping[str, pa.ChunkedArray]) -> list[str]:
    """Return one problem that names the subjects found in more than one split, or nothing.

    Args:
        subjects: Split -> ids of its rows' subjects.
    """
    people = {split: pc.unique(ids).cast(pa.string()) for split, ids in subjects.items()}
    every = pa.chunked_array(list(people.values()), pa.string())
    if pc.count_distinct(every, mode="all").as_py() == len(every):
        return []
    repeated = _repeated(every)
    leaking = defaultdict(list)
    for split, ids in people.items():
        for subject in ids.filter(pc.is_in(ids, value_set=repeated)).to_pylist():
            leaking[subject].append(split)
    named = (
        f"{subject} ({', '.join(in_split_order(where))})" for subject, where in leaking.items()
    )
    return [f"{len(leaking)} subject(s) are in more than one split: {first_of(named)}"]


def _repeated(values: pa.ChunkedArray) -> pa.Array:
    """Return what is there more than once, in the order in which it is seen first."""
    counts = pc.value_counts(values)
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values")


def row_problems(card: CohortCard, tables: dict[str, pa.Table]) -> list[str]:
    """Return problems in the values: identity, split column, sampling rate, targets, labels."""
    problems = _identity_problems(tables)
    for split, table in tables.items():
        if card.time and card.event:
            problems += _follow_up_problems(split, table, card.time, card.event)
        if card.sampling_rate and "sampling_rate" in table.column_names:
            rates = pc.unique(table.column("sampling_rate")).drop_null().to_pylist()
            if any(rate != np.float32(card.sampling_rate) for rate in rates):
                problems.append(
                    f"split {split!r} has sampling rates {first_of(map(str, rates))} Hz,"
                    f" the card says {card.sampling_rate:g} Hz"
                )
        for name in (label for labels in card.label_sets.values() for label in labels):
            kind = table.schema.field(name).type
            if not pa.types.is_boolean(kind):
                problems.append(f"label column {name!r} of split {split!r} is {kind}, not bool")
        problems += _class_problems(card, split, table)
    return problems


def _class_problems(card: CohortCard, split: str, table: pa.Table) -> list[str]:
    """Return what a split's class columns hold that the card does not name; null is unknown."""
    problems = []
    for name, classes in card.classes.items():
        kind = table.schema.field(name).type
        if not pa.types.is_string(kind):
            problems.append(f"class column {name!r} of split {split!r} is {kind}, not string")
            continue
        foreign = set(pc.unique(table.column(name)).drop_null().to_pylist()) - set(classes)
        if foreign:
            named = first_of(sorted(foreign))
            problems.append(
                f"class column {name!r} of split {split!r} holds {named}, unknown to the card"
            )
    return problems


def _identity_problems(tables: dict[str, pa.Table]) -> list[str]:
    problems = []
    for name in ("subject_id", "record_id"):
        blank = sum(table.column(name).null_count for table in tables.values())
        if blank:
            problems.append(f"{blank} row(s) have no {name}")
    records = pa.chunked_array(
        [chunk for table in tables.values() for chunk in table.column("record_id").chunks],
        pa.string(),
    )
    repeated = _repeated(records.drop_null())
    if len(repeated):
        problems.append(f"record ids are used more than once: {first_of(repeated.to_pylist())}")
    for split, table in tables.items():
        named = pc.unique(table.column("split")).to_pylist()
        if named != [split]:
            problems.append(f"the file of split {split!r} holds rows that say {first_of(named)}")
    return problems


def _follow_up_problems(split: str, table: pa.Table, time: str, event: str) -> list[str]:
    """Return what is wrong with a follow-up; a row without one has null in both columns."""
    values = table.column(time).to_numpy().astype(float)
    records = table.column("record_id")
    has_time, has_event = (table.column(name).is_valid().to_numpy() for name in (time, event))

    def named(wrong: np.ndarray) -> str:
        return first_of(records.take(np.flatnonzero(wrong)).to_pylist())

    problems = []
    unusable = np.where(has_time, ~np.isfinite(values), has_event)
    if unusable.any():
        problems.append(f"{time!r} is missing or infinite in split {split!r}: {named(unusable)}")
    if (values < 0).any():
        problems.append(f"{time!r} is negative in split {split!r}: {named(values < 0)}")
    unknown = has_time & ~has_event
    if unknown.any():
        problems.append(f"{event!r} is missing in split {split!r}: {named(unknown)}")
    return problems


def duplicate_problems(tables: dict[str, pa.Table]) -> list[str]:
    """Return one problem that names equal recordings in different splits, or nothing."""
    groups = [group for group in equal_recordings(tables) if len({row.split for row in group}) > 1]
    if not groups:
        return []
    named = (" = ".join(f"{row.record_id} ({row.split})" for row in group) for group in groups)
    return [
        f"{len(groups)} recording(s) are in more than one split: {first_of(named)};"
        " remove them or state allow_duplicates"
    ]


def equal_recordings(tables: dict[str, pa.Table]) -> list[list[Row]]:
    """Return groups of rows whose recordings are equal, in row order; empty without hashes."""
    there = set.intersection(*(set(table.column_names) for table in tables.values()))
    name = next((name for name in HASH_COLUMNS if name in there), None)
    if name is None:
        return []
    hashes = pa.chunked_array(
        [chunk for table in tables.values() for chunk in table.column(name).chunks]
    )
    indices = hashes.combine_chunks().dictionary_encode().indices
    codes = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False)
    repeated = np.flatnonzero((codes >= 0) & (np.bincount(codes + 1)[codes + 1] > 1))
    ends = np.cumsum([table.num_rows for table in tables.values()])
    groups = defaultdict(list)
    for position in repeated.tolist():
        which = int(np.searchsorted(ends, position, side="right"))
        split, table = list(tables.items())[which]
        row = table.slice(position - (int(ends[which]) - table.num_rows), 1)
        ids = (row.column(name)[0].as_py() for name in ("subject_id", "record_id"))
        groups[codes[position]].append(Row(split, *ids))
    return list(groups.values())


def first_of(names: Iterable[str], count: int = 5) -> str:
    """Return the first few names and how many more there are."""
    every = [str(name) for name in names]
    more = f" and {len(every) - count} more" if len(every) > count else ""
    return ", ".join(every[:count]) + more
