"""Read rows once per epoch from beginning to end, on any number of processes, from disk or the Hub.

For what is too large or too far away to be read in random order. Rows that lie together form a
piece (a record batch of a cohort, a shard of a data set on the Hub). An epoch is one global order
of all rows: the pieces are shuffled, joined, cut into windows of `shuffle_buffer` rows, and each
window's rows are shuffled. Both orders are drawn from (seed, epoch), so that every process knows
the whole order and takes its share of each global batch: another number of processes sees the same
batches, and the position of a stopped run is two numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fm_med.cohort.pieces import Piece, Pieces
from fm_med.cohort.tables import TableRows
from fm_med.errors import InputError
from fm_med.sampling import share


class StreamedBatch(NamedTuple):
    """One process's share of a global batch.

    Attributes:
        rows: The rows, columns as asked for.
        position: (rows,) int64, each row's place in the epoch's global order: a row id that does
            not depend on the number of processes.
        size: Rows of the global batch.
    """

    rows: pa.Table
    position: np.ndarray
    size: int


class StreamedRows:
    """Global batches of a split; iterating gives this process's shares of the rest of an epoch.

    Every row is in exactly one share of an epoch, and every process gets the same number of
    shares, so that gathering never waits for a process that has ended. Shares of a batch differ by
    one row at most. No row is dropped: where the number of rows is not a multiple of the batch
    size, the batches of the last window are made a little smaller, all of them about equally.

    A share has been consumed once it is handed out; `state` then points behind it. Iterating again
    continues where the last iteration stopped, with the next epoch if that was its end.

    The rows are divided here. Do not divide them again (`datasets.split_dataset_by_node`,
    `accelerator.prepare` of a loader around this): each process would see a share of its share.

    Of a cohort on disk a process reads its own signals, and holds those of one batch and what is
    not signal of one window. Anything else is read whole by every process, which holds one window;
    resuming reads (and forgets) what had been consumed of the epoch.

    Example:
        pieces = open_pieces("cohorts/large", "train")
        stream = StreamedRows(pieces, batch_size=256, seed=0, rank=rank, world_size=4)
        while stream.epoch < 10:
            for batch in stream:
                train(decode(batch.rows))
    """

    def __init__(
        self,
        pieces: Pieces,
        *,
        batch_size: int,
        seed: int,
        columns: Sequence[str] | None = None,
        shuffle_buffer: int = 2048,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Begin before the first row.

        Args:
            pieces: The rows; see `fm_med.cohort.pieces.open_pieces`.
            batch_size: Rows of a global batch, over all processes together.
            seed: Of the order.
            columns: Columns to read; all of them when None.
            shuffle_buffer: Rows in a window, rounded up to whole batches; 0 keeps the stored order.
            rank: Number of this process.
            world_size: Number of processes.

        Raises:
            InputError: The batch is so small that a process could get no row of it.
        """
        smallest = max(1, 2 * world_size - 1)  # the last batches may have half as many rows
        if batch_size < smallest:
            raise InputError(
                f"a batch of {batch_size} rows is too small for {world_size} processes;"
                f" it needs at least {smallest}"
            )
        self.epoch = 0
        self._rows_seen = 0
        self._pieces = pieces
        self._columns = columns
        self._order = {"seed": seed, "batch_size": batch_size, "shuffle_buffer": shuffle_buffer}
        self._process = {"rank": rank, "world_size": world_size}
        self._window = batch_size * max(1, _ceil(shuffle_buffer, batch_size))

    @property
    def rows_per_epoch(self) -> int | None:
        """Number of rows, if it is known without reading them: that of a cohort on disk."""
        return self._pieces.rows

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of global batches of an epoch, if it is known before its end."""
        rows = self._pieces.rows
        return None if rows is None else _ceil(rows, self._order["batch_size"])

    def state(self) -> dict[str, Any]:
        """Return the position and what decides the order, for a checkpoint."""
        position = {"epoch": self.epoch, "rows_seen": self._rows_seen}
        return {**position, **self._order, "content": self._pieces.content}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue behind the last share that had been handed out, on any number of processes.

        Raises:
            InputError: The state is that of another order; names what differs.
        """
        for name, value in self.state().items():
            if name not in ("epoch", "rows_seen") and state[name] != value:
                raise InputError(
                    f"{name} of the stream was {state[name]!r} and is {value!r} now;"
                    " it cannot continue in the same order"
                )
        self.epoch, self._rows_seen = state["epoch"], state["rows_seen"]

    def seek(self, step: int) -> None:
        """Continue before a global batch, counted from 0 over all epochs.

        Args:
            step: Which one; the number of rows must be known.
        """
        steps = self.steps_per_epoch
        assert steps is not None, "the number of rows is not known"
        self.epoch, before = divmod(step, steps)
        self._rows_seen = sum(self._batch_sizes()[:before])

    def _batch_sizes(self) -> list[int]:
        """Return the rows of each global batch of an epoch, of a split of known length."""
        rows, size = self._pieces.rows or 0, self._order["batch_size"]
        windows = max(0, (rows - size) // self._window)
        last = np.arange(rows - windows * self._window)
        rest = [len(part) for part in np.array_split(last, _ceil(len(last), size))]
        return [size] * (windows * self._window // size) + rest

    def __iter__(self) -> Iterator[StreamedBatch]:
        """Yield the shares of the rest of the epoch.

        Raises:
            InputError: The split has fewer rows than there are processes, or not the columns.
        """
        end = 0
        for window in self._windows():
            yield from self._shares(window, end)
            end += len(window.order)
        if end == 0:
            raise InputError(f"{self._pieces.name} has no rows")
        self.epoch, self._rows_seen = self.epoch + 1, 0

    def _shares(self, window: "Window", end: int) -> Iterator[StreamedBatch]:
        """Yield the shares of a window that begins at `end`, but for those consumed already."""
        rows: TableRows | None = None
        batches = _ceil(len(window.order), self._order["batch_size"])
        for batch in np.array_split(window.order, batches):
            first, end = end, end + len(batch)
            if end <= self._rows_seen:
                continue
            rows = rows or TableRows(window.read())
            table = rows.take(share(batch, **self._process), self._names(rows.table))
            position = share(np.arange(first, end), **self._process)
            self._rows_seen = end
            yield StreamedBatch(table, position, len(batch))

    def _windows(self) -> Iterator["Window"]:
        """Yield the windows of the epoch in their order; the last is up to one batch longer."""
        seed, batch_size = self._order["seed"], self._order["batch_size"]
        shuffled = self._order["shuffle_buffer"] > 0
        generator = np.random.default_rng((seed, self.epoch)) if shuffled else None
        pieces = self._pieces.walk(generator)
        for number, window in enumerate(_cut(pieces, self._window, batch_size)):
            order = np.arange(sum(piece.rows for piece in window))
            if shuffled:  # number + 1: a trailing 0 would draw the same numbers as no number
                order = np.random.default_rng((seed, self.epoch, number + 1)).permutation(order)
            yield Window(window, order)

    def _names(self, table: pa.Table) -> list[str]:
        there = table.column_names
        for name in self._columns or ():
            if name not in there:
                raise InputError(
                    f"{self._pieces.name} has no column {name!r}; it has {', '.join(there)}"
                )
        return list(self._columns or there)


class Window(NamedTuple):
    """Pieces whose rows are shuffled together; `order` (rows,) counts through all of them."""

    pieces: list[Piece]
    order: np.ndarray

    def read(self) -> pa.Table:
        """Return the rows as stored; a memory-mapped signal is not touched."""
        return pa.concat_tables([piece.read() for piece in self.pieces])


def _cut(pieces: Iterable[Piece], size: int, spare: int) -> Iterator[list[Piece]]:
    """Join pieces and cut them into windows of `size` rows, the last of at least `spare` rows.

    That last one has fewer than `size + spare` rows (and fewer than `spare` if it is the only one).
    """
    waiting: list[Piece] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += piece.rows
        while rows >= size + spare:
            window, waiting = _first_rows(waiting, size)
            rows -= size
            yield window
    if rows:
        yield waiting


def _first_rows(pieces: list[Piece], rows: int) -> tuple[list[Piece], list[Piece]]:
    """Return pieces of the first `rows` rows, and pieces of the rest."""
    for index, piece in enumerate(pieces):
        if piece.rows > rows:
            begun = [piece.cut(0, rows)] if rows else []
            rest = piece.cut(rows, piece.rows - rows)
            return pieces[:index] + begun, [rest, *pieces[index + 1 :]]
        rows -= piece.rows
    return pieces, []


def _ceil(rows: int, size: int) -> int:
    return -(-rows // size)
