"""Write a cohort: rows stream to shards in a hidden folder, which becomes the cohort at the end."""

import csv
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort.card import COLUMN_MEANINGS, CohortCard, write_card
from fm_med.cohort.checking import (
    REQUIRED_COLUMNS,
    checked_columns,
    duplicate_problems,
    quick_problems,
    row_problems,
)
from fm_med.cohort.reading import SKIPPED_FILE
from fm_med.cohort.summaries import Summary, read_columns, read_summaries
from fm_med.cohort.tables import (
    DATA_FOLDER,
    content_hash,
    read_batches,
)
from fm_med.errors import InputError

ROWS_PER_BATCH = 256
ROWS_PER_SHARD = 4096


class CohortWriter:
    """Stream rows of any split, in any order, to a cohort that appears whole or not at all.

    At most one batch of 256 rows per split is held in memory. Leaving the block closes the
    shards, checks the contract, computes the fingerprint and renames the folder; an exception
    leaves nothing behind.

    Example:
        with CohortWriter("cohorts/mine", card, schema) as writer:
            writer.write("train", table)
            writer.skip("record 7", "the signal file is truncated")
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        card: CohortCard,
        schema: pa.Schema,
        *,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        """Prepare to write.

        Args:
            destination: The cohort's folder; it must not exist yet, or be empty.
            card: The card without counts and fingerprint, which are filled in here.
            schema: Columns; must include subject_id, record_id and split.
            rows_per_shard: Rows after which a new file is begun.

        Raises:
            InputError: The destination holds something already.
        """
        self.destination = free_destination(destination)
        self.schema = with_required_columns(schema)
        self._card = card
        self._rows_per_shard = rows_per_shard
        self._folder = own_hidden_folder(self.destination)
        self._shards: dict[str, ShardWriter] = {}
        self._begun: dict[str, int] = defaultdict(int)
        self._skipped: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        """Make the hidden folder."""
        begin_hidden_folder(self.destination)
        return self

    def write(self, split: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Append rows to a split; the `split` column is filled in here.

        Args:
            split: "train", "validation" or "test".
            rows: A table or a list of dicts with the columns of the schema, in any order.
        """
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, self.schema)
        table = with_split(table, split, self.schema)
        while table.num_rows:
            shard = self._shards.get(split)
            if shard is None:
                path = shard_path(self._folder, split, self._begun[split])
                shard = self._shards[split] = ShardWriter(path, self.schema)
                self._begun[split] += 1
            room = self._rows_per_shard - shard.rows
            shard.write(table.slice(0, room))
            table = table.slice(room)
            if shard.rows == self._rows_per_shard:
                self._shards.pop(split).close()

    def skip(self, record_id: str, reason: str) -> None:
        """Note that a recording is left out, and why."""
        self._skipped.append((record_id, reason))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the cohort, or remove every trace of it."""
        try:
            for shard in self._shards.values():
                shard.close()
            if error is None:
                finish_cohort(self._folder, self.destination, self._card, self._skipped)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


class ShardWriter:
    """One Arrow file, uncompressed so that it can be memory-mapped, in batches of 256 rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Open the file `path` for rows of `schema`."""
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table that has the schema's columns."""
        self.rows += table.num_rows
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= ROWS_PER_BATCH:
            self._flush(self._waiting_rows // ROWS_PER_BATCH * ROWS_PER_BATCH)

    def close(self) -> None:
        """Write what waits and the footer."""
        if self._waiting_rows:
            self._flush(self._waiting_rows)
        self._writer.close()
        self._sink.close()

    def _flush(self, count: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        for start in range(0, count, ROWS_PER_BATCH):
            rows = min(ROWS_PER_BATCH, count - start)
            self._writer.write_batch(waiting.slice(start, rows).combine_chunks().to_batches()[0])
        self._waiting_rows -= count
        # a slice without rows would hold the memory of those that are written
        self._waiting = [waiting.slice(count)] if self._waiting_rows else []


def free_destination(destination: str | os.PathLike[str]) -> Path:
    """Return the destination as a path if a cohort can be written there.

    Raises:
        InputError: It is a file or a folder that is not empty.
    """
    path = Path(destination).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{destination} exists already and is not an empty folder")
    return path


def hidden_folder(destination: Path, key: str) -> Path:
    """Return the folder beside `destination` in which it is prepared."""
    return destination.with_name(f".{destination.name}.{key}.partial")


def own_hidden_folder(destination: Path) -> Path:
    """Return the hidden folder that belongs to this process."""
    return hidden_folder(destination, str(os.getpid()))


def begin_hidden_folder(destination: Path) -> Path:
    """Make this process's hidden folder; remove those of earlier writers that were killed."""
    for other in destination.parent.glob(hidden_folder(destination, "*").name):
        writer = other.name.split(".")[-2]
        if writer.isdigit() and (int(writer) == os.getpid() or not _is_alive(int(writer))):
            shutil.rmtree(other)
    folder = own_hidden_folder(destination)
    (folder / DATA_FOLDER).mkdir(parents=True)
    return folder


def shard_path(folder: Path, split: str, index: int) -> Path:
    """Return the name of a shard while the number of shards is not known yet."""
    return folder / DATA_FOLDER / f"{split}-{index:05d}.arrow"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def with_required_columns(schema: pa.Schema) -> pa.Schema:
    """Return the schema if it has the columns that every cohort has."""
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if missing:
        raise ValueError(f"the schema of a cohort needs {', '.join(missing)}")
    return schema


def with_split(table: pa.Table, split: str, schema: pa.Schema) -> pa.Table:
    """Return the table in the schema's columns and types, with `split` filled in."""
    if not split.isidentifier():
        raise ValueError(f"a split is named by letters and digits, not {split!r}")
    column = pa.repeat(pa.scalar(split, pa.string()), table.num_rows)
    if "split" in table.column_names:
        table = table.drop_columns(["split"])
    return table.append_column("split", column).select(schema.names).cast(schema)


def finish_cohort(
    folder: Path,
    destination: Path,
    card: CohortCard,
    skipped: Iterable[tuple[str, str]],
) -> None:
    """Check the shards in `folder`, add card and list of skipped records, and rename it.

    Args:
        folder: The hidden folder with shards ``data/{split}-{index}.arrow``.
        destination: Where the cohort shall be.
        card: The card without counts and fingerprint.
        skipped: (record id, reason) of each recording that was left out.

    Raises:
        InputError: No row was written, or the rows break the contract.
    """
    skipped = list(skipped)
    splits = _written_splits(folder, skipped)
    columns = next(iter(splits.values())).columns
    known = {name: COLUMN_MEANINGS[name] for name in columns if name in COLUMN_MEANINGS}
    for label_set, labels in card.label_sets.items():
        known |= {label: f"label of the set {label_set}; null when unknown" for label in labels}
    card = replace(
        card,
        columns=known | card.columns,
        recordings={split: found.rows for split, found in splits.items()},
        subjects={
            split: pc.count_distinct(found.subjects).as_py() for split, found in splits.items()
        },
    )
    for problem in quick_problems(card, splits) or _value_problems(folder, card):
        raise InputError(problem)
    card = replace(card, fingerprint=content_hash(read_batches(folder)))
    _number_shards(folder, list(splits))
    write_card(folder, card, columns)
    with (folder / SKIPPED_FILE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("record_id", "reason"), *skipped])
    flush_to_disk(folder)
    folder.replace(destination)


def _value_problems(folder: Path, card: CohortCard) -> list[str]:
    tables = read_columns(folder, checked_columns(card))
    problems = row_problems(card, tables)
    if not problems and not card.allow_duplicates:
        problems = duplicate_problems(tables)
    return problems


def _written_splits(folder: Path, skipped: list[tuple[str, str]]) -> dict[str, Summary]:
    if not any((folder / DATA_FOLDER).glob("*.arrow")):
        reason = f", first {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"none of {len(skipped)} recordings could be used{reason}")
    return read_summaries(folder)


def _number_shards(folder: Path, splits: list[str]) -> None:
    """Rename ``train-00007.arrow`` to ``train-00002-of-00003.arrow``: no gaps, total known."""
    for split in splits:
        paths = sorted((folder / DATA_FOLDER).glob(f"{split}-*.arrow"))
        for index, path in enumerate(paths):
            path.rename(path.with_name(f"{split}-{index:05d}-of-{len(paths):05d}.arrow"))


def flush_to_disk(folder: Path) -> None:
    """Wait until every file under a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
