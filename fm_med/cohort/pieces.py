"""Rows that lie together, one handful after the other: of a cohort on disk or of a stream."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from fm_med.cohort.card import CARD_FILE, CARD_KEY
from fm_med.cohort.reading import read_checked_card
from fm_med.cohort.tables import shard_files
from fm_med.errors import InputError

ROWS_PER_READ = 256  # of a data set that is not a cohort on disk


class Piece(NamedTuple):
    """Consecutive rows that lie together, or a slice of them."""

    rows: int
    read: Callable[[], pa.Table]

    def cut(self, first: int, rows: int) -> "Piece":
        """Return some of its rows."""
        return Piece(rows, lambda: self.read().slice(first, rows))


class Pieces(Protocol):
    """All rows of a split.

    Attributes:
        name: For messages.
        rows: How many there are, if that is known without reading them.
        content: Equal for equal rows.
    """

    name: str
    rows: int | None
    content: str

    def walk(self, generator: np.random.Generator | None) -> Iterator[Piece]:
        """Yield all pieces, in an order drawn from `generator` or as stored."""


def open_pieces(source: str | Path, split: str, *, revision: str | None = None) -> Pieces:
    """Find the rows of a split; none is read yet.

    Args:
        source: Folder of a cohort; or any other folder of shards, Hub id or ``hf://`` path that
            `datasets.load_dataset` can stream.
        split: Name of the split.
        revision: Of a data set on the Hub.

    Raises:
        InputError: The source cannot be read or has no such split.
    """
    if _is_cohort(Path(source)):
        return CohortPieces(Path(source), split)
    return StreamPieces(str(source), split, revision)


class CohortPieces:
    """The record batches of a cohort on disk, each memory-mapped while it is in use only.

    Pages of a file that stays mapped would count as memory of the process, until there is a whole
    cohort of them.
    """

    def __init__(self, folder: Path, split: str) -> None:
        """Note where the record batches are."""
        card = read_checked_card(folder)
        shards = shard_files(folder)
        if split not in shards:
            raise InputError(f"{folder} has no split {split!r}; it has {', '.join(shards)}")
        self.name = f"the split {split!r} of {folder}"
        self.content = card.fingerprint
        self.rows: int | None = card.recordings[split]
        self._pieces = [piece for path in shards[split] for piece in _record_batches(path)]

    def walk(self, generator: np.random.Generator | None) -> Iterator[Piece]:
        """Yield one piece per record batch."""
        for index in _order(len(self._pieces), generator):
            yield self._pieces[index]


def _record_batches(path: Path) -> Iterator[Piece]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as shard:
        for index in range(shard.num_record_batches):
            yield Piece(shard.get_batch(index).num_rows, partial(_read_batch, path, index))


def _read_batch(path: Path, index: int) -> pa.Table:
    shard = pa.ipc.open_file(pa.memory_map(str(path)))
    return pa.Table.from_batches([shard.get_batch(index)])


class StreamPieces:
    """Anything that `datasets` can stream, shard by shard."""

    def __init__(self, source: str, split: str, revision: str | None) -> None:
        """Find the shards."""
        import datasets

        try:
            found = datasets.load_dataset(source, split=split, streaming=True, revision=revision)
        except (ConnectionError, FileNotFoundError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{source} cannot be streamed: {reason}") from error
        self.name = f"the split {split!r} of {source}"
        self.content = f"{source} {revision or ''}".strip()
        self.rows: int | None = None
        self._shards = [found.shard(found.num_shards, index) for index in range(found.num_shards)]

    def walk(self, generator: np.random.Generator | None) -> Iterator[Piece]:
        """Yield pieces of 256 rows, shard after shard."""
        for index in _order(len(self._shards), generator):
            for table in self._shards[index].with_format("arrow").iter(batch_size=ROWS_PER_READ):
                yield Piece(table.num_rows, partial(_same, table))


def _same(table: pa.Table) -> pa.Table:
    return table


def _order(count: int, generator: np.random.Generator | None) -> list[int]:
    return list(range(count)) if generator is None else generator.permutation(count).tolist()


def _is_cohort(folder: Path) -> bool:
    """Tell whether a folder has the card of a cohort."""
    card = folder / CARD_FILE
    return card.is_file() and f"\n{CARD_KEY}:" in card.read_text(encoding="utf-8")
