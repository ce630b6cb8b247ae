"""Open a cohort and read its rows fast, memory-mapped."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from fm_med.cohort.card import CohortCard, read_card
from fm_med.cohort.checking import equal_recordings, first_of, quick_problems
from fm_med.cohort.summaries import read_summaries
from fm_med.cohort.tables import TableRows, open_shards
from fm_med.errors import InputError

SKIPPED_FILE = "skipped.csv"


class Cohort:
    """A cohort on disk. Made by `open_cohort`.

    Attributes:
        path: Its folder.
        card: What its numbers mean.
        splits: One memory-mapped table per split.
    """

    def __init__(self, path: Path, card: CohortCard, splits: dict[str, pa.Table]) -> None:
        """Hold the tables; nothing is read yet."""
        self.path = path
        self.card = card
        self.splits = splits
        self._rows = {split: TableRows(table) for split, table in splits.items()}

    @property
    def fingerprint(self) -> str:
        """Hash over the content of all rows, as stored on the card."""
        return self.card.fingerprint

    def rows(self, split: str, indices: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Return rows of a split in the order of `indices`.

        Bytes (signals) are gathered from the memory-mapped file; every other column that is asked
        for is joined once and kept in memory (about 1 kB per row for all of them).

        Args:
            split: Name of the split.
            indices: (n,) row numbers within the split; repeats are allowed.
            columns: Names of the columns; all of them when None.

        Raises:
            InputError: There is no such split or column.
        """
        table = self._split(split)
        rows = np.asarray(indices, np.int64)
        names = table.column_names if columns is None else columns
        for name in names:
            self._require(split, name)
        return self._rows[split].take(rows, names)

    def views(self, split: str, indices: np.ndarray, name: str) -> list[np.ndarray]:
        """Return the bytes of rows of a column such as `signal` where they lie: nothing is copied.

        Args:
            split: Name of the split.
            indices: (n,) row numbers within the split; repeats are allowed.
            name: A column of bytes.

        Returns:
            n arrays uint8 that can only be read.

        Raises:
            InputError: There is no such split or column.
        """
        self._require(split, name)
        return self._rows[split].views(np.asarray(indices, np.int64), name)

    def column(self, split: str, name: str) -> np.ndarray | list:
        """Return one whole column of a split.

        Returns:
            (rows,) array for numbers and bools (null becomes NaN, and a bool column with nulls
            float32 of 0, 1 and NaN); a list with None for null for everything else.

        Raises:
            InputError: There is no such split or column; the message names those there are.
        """
        self._require(split, name)
        column = self._split(split).column(name)
        if pa.types.is_boolean(column.type):
            if column.null_count == 0:
                return column.to_numpy()
            return column.cast(pa.uint8()).cast(pa.float32()).to_numpy()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return column.to_numpy()
        return column.to_pylist()

    def _split(self, split: str) -> pa.Table:
        if split not in self.splits:
            raise InputError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def _require(self, split: str, name: str) -> None:
        schema = self._split(split).schema
        if schema.get_field_index(name) < 0:  # or there are two of it
            raise InputError(
                f"{self.path} has no column {name!r}; it has {', '.join(schema.names)}"
            )


def open_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Open a cohort for reading; signals stay on disk.

    Raises:
        InputError: The folder is missing or not a cohort, the card is missing, of an unknown
            schema version or without units, shards are missing, empty or torn, or a subject is in
            two splits.
    """
    card = read_checked_card(path)
    return Cohort(Path(path), card, open_shards(Path(path)))


def read_checked_card(path: str | os.PathLike[str]) -> CohortCard:
    """Return a cohort's card after checking that its shards are what it says.

    Memory does not grow with the number of recordings.

    Raises:
        InputError: As `open_cohort`.
    """
    folder = Path(path)
    card = read_card(folder)
    problems = quick_problems(card, read_summaries(folder))
    if problems:
        raise InputError(f"{folder}: {problems[0]}")
    return card


def describe_cohort(path: str | os.PathLike[str]) -> str:
    """Return a short text on a cohort: rows and people per split, what was skipped, warnings.

    Raises:
        InputError: As `open_cohort`.
    """
    cohort = open_cohort(path)
    card = cohort.card
    what = [card.modality, card.units]
    if card.modality == "ecg":
        what.append(f"{card.sampling_rate:g} Hz" if card.sampling_rate else "mixed rates")
    lines = [f"{card.name}: {', '.join([*what, str(cohort.path)])}"]
    for split, table in cohort.splits.items():
        lines.append(
            f"  {split:<11}{table.num_rows:>8} recordings {card.subjects[split]:>8} subjects"
        )
        if card.event:
            event = cohort.column(split, card.event)
            lines[-1] += f" {int(np.nansum(event)):>7} events"
            if np.isnan(event).any():
                lines[-1] += f", {int(np.isnan(event).sum())} without follow-up"
    skipped = read_skipped(cohort.path)
    if skipped:
        lines.append(
            f"  skipped {len(skipped)} (see {SKIPPED_FILE}), first: {': '.join(skipped[0])}"
        )
    shared = [
        " = ".join(row.record_id for row in group)
        for group in equal_recordings(cohort.splits)
        if len({row.subject_id for row in group}) > 1
    ]
    if shared:
        lines.append(f"  warning: equal recordings of different subjects: {first_of(shared)}")
    lines.append(f"  fingerprint {card.fingerprint[:16]}")
    return "\n".join(lines)


def read_skipped(folder: Path) -> list[tuple[str, str]]:
    """Return (record id, reason) of every recording that was left out when writing."""
    path = folder / SKIPPED_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["record_id"], row["reason"]) for row in csv.DictReader(file)]
