"""A cohort from one's own table (CSV or Parquet, one row per recording) and recordings."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import COLUMN_MEANINGS, CohortCard
from fm_med.cohort.writing import free_destination
from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError
from fm_med.sources.conversion import FILE_COLUMN, convert_recordings
from fm_med.sources.table_file import (
    booleans,
    endings,
    identifiers,
    numbers,
    read_table,
    refuse_rows,
)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
SEXES = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male"}
_PORTION = 4096  # rows whose values are Python's at a time
OLDEST = 130.0  # years; more is a code or a birth year


@dataclass(frozen=True)
class Columns:
    """Which column of the table holds what; see `make_ecg_table`."""

    subject: str
    path: str
    report: str | None
    time: str | None
    event: str | None
    cause: str | None
    labels: tuple[str, ...]
    split: str | None
    age: str | None
    sex: str | None

    def names(self) -> list[str]:
        """Return the names of all columns to read."""
        single = (self.subject, self.path, self.report, self.time, self.event, self.cause)
        names = (*single, self.split, self.age, self.sex, *self.labels)
        return [name for name in names if name is not None]


def make_ecg_table(  # noqa: PLR0913 (one keyword per column of the user's table)
    table: str | os.PathLike[str],
    records: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    subject: str,
    path: str,
    report: str | None = None,
    time: str | None = None,
    event: str | None = None,
    cause: str | None = None,
    follow_up_unit: str | None = None,
    labels: Sequence[str] = (),
    split: str | None = None,
    age: str | None = None,
    sex: str | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    workers: int | None = None,
    allow_duplicates: bool = False,
    rows_per_shard: int | None = None,
    shard: str | None = None,
) -> Path:
    """Convert a table and the recordings that it names.

    Args:
        table: CSV (any usual delimiter) or Parquet with one row per recording.
        records: Folder that the paths in the table start from.
        destination: The new cohort's folder.
        subject: Column with the person's id.
        path: Column with the recording's path, with or without extension; the record's id.
        report: Column with free text.
        time: Column with the follow-up time from the recording; needs its unit and `event` or
            `cause`.
        event: Column that is true (1, true, yes) where the event was observed.
        cause: Column that names which event came first, where there are several; blank, 0 and
            "censored" are none. Instead of `event` or beside it.
        follow_up_unit: Unit of `time`, for example "days" or "months".
        labels: Columns of truth values; blank means unknown. They keep their names.
        split: Column with train, validation or test; without it people are drawn by `fractions`.
        age: Column with the age in years.
        sex: Column with female/male, f/m.
        fractions: Shares of people in train, validation and test.
        seed: Of the draw. A person's split depends on seed and id alone, so it stays the same
            when the table grows.
        delimiter: Of the CSV; None to find it.
        encoding: Of the CSV.
        workers: Processes; None for one per core.
        allow_duplicates: Proceed although equal recordings are in two splits.
        rows_per_shard: Recordings per file and per step of a resumed conversion; see
            `convert_recordings`.
        shard: "2/8" for one share of the recordings; see `convert_recordings`.

    Returns:
        The cohort's folder, or that of the part.

    Raises:
        InputError: A file or column is missing, a value is blank, negative or not of its kind, the
            follow-up has no unit, or see `convert_recordings`.
    """
    free_destination(destination)
    if not Path(records).is_dir():
        raise InputError(f"no recordings at {records}: there is no such folder")
    columns = Columns(subject, path, report, time, event, cause, tuple(labels), split, age, sex)
    _check_follow_up(columns, follow_up_unit)
    source = read_table(table, columns.names(), delimiter=delimiter, encoding=encoding)
    rows = _rows(source, columns)
    people = rows["subject_id"]
    rows["split"] = _given(source, split) if split else drawn_splits(people, fractions, seed)
    rows[FILE_COLUMN] = _files(Path(records), rows["record_id"])
    card = CohortCard(
        name=Path(table).stem,
        modality="ecg",
        units="mV",
        leads=list(LEADS),
        follow_up_unit=follow_up_unit if time else None,
        time="time" if time else None,
        event="event" if time else None,
        label_sets={"labels": list(labels)} if labels else {},
        source=f"{Path(table).name} with recordings of its column {path!r}",
        allow_duplicates=allow_duplicates,
    )
    return convert_recordings(
        pa.table(rows),
        destination,
        card,
        options="ecg table",
        workers=workers,
        rows_per_shard=rows_per_shard,
        shard=shard,
    )


def _rows(source: pa.Table, columns: Columns) -> dict[str, Any]:
    """Return the cohort's columns that come from the table, by name."""
    return {
        "subject_id": identifiers(source, columns.subject),
        "record_id": _record_ids(source, columns.path),
        **_described(source, columns),
        **_follow_up(source, columns),
        **_labels(source, columns),
    }


def _check_follow_up(columns: Columns, unit: str | None) -> None:
    if (columns.time is None) != (columns.event is None and columns.cause is None):
        raise InputError("a follow-up needs both a time column and an event column, or causes")
    if columns.time is not None and not unit:
        raise InputError(
            f"the unit of the time column {columns.time!r} is not stated;"
            " give follow_up_unit (days, weeks, months or years)"
        )


def _record_ids(source: pa.Table, path: str) -> pa.ChunkedArray:
    column = source.column(path)
    refuse_rows(column.is_null().to_numpy(), f"column {path!r} is blank")
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    refuse_rows(np.bincount(codes)[codes] > 1, f"column {path!r} is not unique", column)
    return column


def _files(records: Path, names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the paths of recordings, made in portions: Python's strings take much memory."""
    portions = (names.slice(row, _PORTION) for row in range(0, len(names), _PORTION))
    return pa.chunked_array(
        [[str(records / name) for name in portion.to_pylist()] for portion in portions],
        pa.string(),
    )


def _described(source: pa.Table, columns: Columns) -> dict[str, Any]:
    """Return report, age and sex where the table has them."""
    found: dict[str, Any] = {}
    if columns.report:
        found["report"] = source.column(columns.report)
    if columns.age:
        age = numbers(source, columns.age)
        seen = source.column(columns.age)
        refuse_rows((age < 0) | (age > OLDEST), f"column {columns.age!r} is no age", seen)
        found["age"] = pa.array(age, pa.float32(), from_pandas=True)  # NaN becomes null
    if columns.sex:
        column = source.column(columns.sex)
        sexes = [SEXES.get(text.lower()) if text else None for text in column.to_pylist()]
        unknown = np.array([s is None for s in sexes]) & column.is_valid().to_numpy()
        refuse_rows(unknown, f"column {columns.sex!r} is neither female nor male", column)
        found["sex"] = pa.array(sexes, pa.string())
    return found


def _follow_up(source: pa.Table, columns: Columns) -> dict[str, Any]:
    if columns.time is None:
        return {}
    time = numbers(source, columns.time)
    refuse_rows(np.isnan(time), f"follow-up time {columns.time!r} is blank")
    refuse_rows(
        time < 0, f"follow-up time {columns.time!r} is negative", source.column(columns.time)
    )
    ended = endings(source, time, columns.event, columns.cause)
    refuse_rows(ended["event"].is_null().to_numpy(), f"event {columns.event!r} is blank")
    return {"time": pa.array(time), **ended}


def _labels(source: pa.Table, columns: Columns) -> dict[str, Any]:
    for name in columns.labels:
        if name in COLUMN_MEANINGS or name == FILE_COLUMN:
            raise InputError(f"a label cannot be named {name!r}: every cohort uses that name")
    return {name: booleans(source, name) for name in columns.labels}


def _given(source: pa.Table, name: str) -> pa.Array:
    column = source.column(name)
    splits = [SPLIT_NAMES.get((text or "").lower()) for text in column.to_pylist()]
    unknown = np.array([split is None for split in splits], bool)
    refuse_rows(unknown, f"column {name!r} is not train, validation or test", column)
    return pa.array(splits, pa.string())


def draw_splits(
    subjects: Sequence[str], fractions: tuple[float, float, float], seed: int
) -> list[str]:
    """Return `drawn_splits` of ids in a list."""
    return drawn_splits(pa.array([str(who) for who in subjects]), fractions, seed).to_pylist()


def drawn_splits(
    subjects: pa.Array | pa.ChunkedArray, fractions: tuple[float, float, float], seed: int
) -> pa.Array:
    """Return the split of each row, the same for all rows of a person.

    A hash of seed and id, as a number in [0, 1), is compared with the cumulated fractions.

    Args:
        subjects: Ids, one per row.
        fractions: Shares of train, validation and test; they add up to 1.
        seed: Another seed, another draw.

    Raises:
        InputError: The fractions do not add up to 1, or a split that should have people has none.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {fractions} are not three shares that add up to 1")
    names = ("train", "validation", "test")
    wanted = [name for name, share in zip(names, fractions) if share > 0]
    ends = np.cumsum([share for share in fractions if share > 0])[:-1]
    people = pc.unique(subjects)
    # one by one: a list of all ids would take many times their memory
    uniform = np.fromiter((_uniform(person.as_py(), seed) for person in people), float, len(people))
    places = np.searchsorted(ends, uniform, side="right").astype(np.int8)
    for place, name in enumerate(wanted):
        if place not in places:
            raise InputError(
                f"no person falls into the split {name!r} ({len(people)} people, seed {seed});"
                " use another seed, other fractions or a split column"
            )
    rows = pc.index_in(subjects, value_set=people).to_numpy(zero_copy_only=False)
    drawn = pa.DictionaryArray.from_arrays(places[rows], pa.array(wanted))
    return drawn.dictionary_decode()


def _uniform(person: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed} {person}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
