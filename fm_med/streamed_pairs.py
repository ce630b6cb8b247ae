"""ECG-report pairs whose training split is a stream: for a cohort too large or too far to copy."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import Accelerator

from fm_med.cohort import Cohort, CohortCard, open_cohort
from fm_med.cohort.card import CARD_FILE, read_card
from fm_med.cohort.checking import first_of, quick_problems
from fm_med.cohort.pieces import Piece, Pieces, open_pieces
from fm_med.cohort.reading import read_checked_card
from fm_med.cohort.summaries import summary
from fm_med.cohort.tables import DATA_FOLDER, open_shards
from fm_med.errors import InputError
from fm_med.pairs import (
    SIGNAL_COLUMNS,
    SOURCE_COLUMN,
    Batch,
    Pairs,
    TextSource,
    has_text,
    read_pairs,
)
from fm_med.sampling import refuse_batch
from fm_med.sources.embedded import embedded_cohort
from fm_med.streaming import StreamedBatch, StreamedRows
from fm_med.text.store import ReportStore

TRAIN = "train"
AT_HAND = 2048  # training pairs that are kept for probes of the finished encoder
ROWS_PER_LOOK_UP = 16_384  # texts that are looked up in the store at a time


class StreamedCohort(Cohort):
    """A cohort of which the training split is read piece by piece; the others are here as ever."""

    def __init__(
        self, path: Path, card: CohortCard, splits: dict[str, pa.Table], pieces: Pieces
    ) -> None:
        """Hold the other splits, and where the training split can be read."""
        super().__init__(path, card, splits)
        self.pieces = pieces

    def column(self, split: str, name: str) -> np.ndarray | list:
        """Return one whole column; that of the training split is read from the stream."""
        if split in self.splits:
            return super().column(split, name)
        tables = (_require(piece.read(), name, self.pieces) for piece in self.pieces.walk(None))
        return [value for table in tables for value in table[name].to_pylist()]


def open_source(cohort: str, subjects: int, streaming: bool) -> Cohort:
    """Open the cohort of a pretraining run.

    Args:
        cohort: A folder; "simulated" is the embedded one; with `streaming` also the Hub id of a
            data set that was pushed as a cohort folder.
        subjects: Persons in the simulated cohort.
        streaming: Read the training split as a stream. Of a cohort on the Hub the other splits are
            downloaded, the training split is not.

    Raises:
        InputError: As `open_cohort`, or the Hub has no such cohort or cannot be asked.
    """
    folder = embedded_cohort(subjects) if cohort == "simulated" else Path(cohort)
    if not streaming:
        return open_cohort(folder)
    if folder.is_dir():
        pieces, card = open_pieces(folder, TRAIN), read_checked_card(folder)
        return StreamedCohort(folder, card, open_shards(folder, but=TRAIN), pieces)
    folder = _download_all_but_training(cohort)
    card, splits = read_card(folder), open_shards(folder)
    counted = {split: rows for split, rows in card.recordings.items() if split != TRAIN}
    summaries = {split: summary(table) for split, table in splits.items()}
    problems = quick_problems(replace(card, recordings=counted), summaries)
    if problems:
        raise InputError(f"{cohort}: {problems[0]}")
    pieces = open_pieces(cohort, TRAIN, revision=folder.name)  # the very commit of the others
    return StreamedCohort(folder, card, splits, pieces)


def read_split(
    cohort: Cohort, split: str, store: ReportStore, source: TextSource
) -> "TrainingPairs":
    """Read the pairs of a split, or prepare to stream them; see `read_pairs`."""
    if isinstance(cohort, StreamedCohort) and split == TRAIN:
        return StreamedPairs(cohort, store, source)
    return read_pairs(cohort, split, store, source)


class StreamedPairs:
    """The training pairs of a streamed cohort.

    One pass over the stream embeds each distinct text into the store, counts the pairs, and checks
    that no person is in another split. It keeps the first pairs. Recordings without a text are not
    part of the stream.

    Attributes:
        report_mean: (text_dim,) float32 mean report embedding.
        at_hand: The first pairs of the split, signals included, for probes.
    """

    def __init__(self, cohort: StreamedCohort, store: ReportStore, source: TextSource) -> None:
        """Pass over the stream once.

        Raises:
            InputError: It lacks a column, has no text, or shares a person with another split.
        """
        self._cohort, self._store, self._source = cohort, store, source
        self._pieces = PiecesWithText(cohort.pieces, source)
        elsewhere = {
            subject
            for split in cohort.splits
            if split != TRAIN
            for subject in cohort.column(split, "subject_id")
        }
        self._count, total = 0, np.zeros(store.encoder.dim)
        for part in self._parts(["subject_id", SOURCE_COLUMN[source]], ROWS_PER_LOOK_UP):
            pairs = self._pairs(part)
            total += pairs.report_embedding.sum(0, dtype=np.float64)
            self._count += len(pairs)
            shared = sorted(elsewhere & set(pairs.subject_id.tolist()))
            if shared:
                raise InputError(
                    f"{cohort.path}: {len(shared)} subject(s) are in {TRAIN} and in another split:"
                    f" {first_of(shared)}"
                )
        self._pieces.rows = self._count
        if not self._count:
            name, column = self._pieces.name, SOURCE_COLUMN[source]
            raise InputError(f"no recording of {name} has a {column}")
        self.report_mean = (total / self._count).astype(np.float32)
        self.at_hand = self._pairs(next(self._parts(None, AT_HAND)))

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self._count

    def batches(
        self, per_process: int, accelerator: Accelerator, *, seed: int
    ) -> "StreamedBatches":
        """Return the global batches of all epochs, and this process's shares of them.

        Raises:
            InputError: A global batch has fewer pairs than there are processes.
        """
        world_size, batch_size = accelerator.num_processes, per_process * accelerator.num_processes
        refuse_batch(min(batch_size, len(self)), world_size, None)
        columns = [*SIGNAL_COLUMNS, "subject_id", "record_id", SOURCE_COLUMN[self._source]]
        process = {"rank": accelerator.process_index, "world_size": world_size}
        stream = StreamedRows(
            self._pieces, batch_size=batch_size, seed=seed, columns=columns, **process
        )
        return StreamedBatches(self, stream, batch_size)

    def batch(self, epoch: int, share: StreamedBatch) -> Batch:
        """Look up the texts of some rows of the stream."""
        rows = np.arange(len(share.position))
        return Batch(epoch, share.size, self._pairs(share.rows), rows, share.position)

    def _pairs(self, table: pa.Table) -> Pairs:
        """Return the pairs of some rows of the training split."""
        some = Cohort(self._cohort.path, self._cohort.card, {TRAIN: table})
        return read_pairs(some, TRAIN, self._store, self._source)

    def _parts(self, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
        """Yield tables of at least `rows` rows with a text, the last of fewer, as stored."""
        waiting: list[pa.Table] = []
        for piece in self._pieces.walk(None):
            table = piece.read()
            waiting.append(table if columns is None else table.select(columns))
            if sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)


TrainingPairs = Pairs | StreamedPairs


class StreamedBatches:
    """Global batches of a stream; every pair is in exactly one of an epoch.

    Attributes:
        batch_size: Pairs of a global batch; the last ones of an epoch may have a little fewer.
        steps_per_epoch: Global batches of an epoch.
    """

    def __init__(self, pairs: StreamedPairs, stream: StreamedRows, batch_size: int) -> None:
        """Begin before the first pair."""
        self.batch_size = min(batch_size, len(pairs))
        self.steps_per_epoch = -(-len(pairs) // batch_size)
        self._pairs, self._stream = pairs, stream
        self._shares: Iterator[StreamedBatch] = iter(())
        self._next = 0

    def at(self, step: int) -> Batch:
        """Return this process's share of the batch of a step, counted from 0 over all epochs.

        Asked for in order; another step than the next one is sought by passing over the epoch.
        """
        if step != self._next:
            self._stream.seek(step)
            self._shares = iter(())
        share = next(self._shares, None)
        if share is None:  # the beginning, or the end of an epoch
            self._shares = iter(self._stream)
            share = next(self._shares)
        self._next = step + 1
        return self._pairs.batch(step // self.steps_per_epoch, share)


class PiecesWithText:
    """The rows of a split that have a text, in pieces.

    Attributes:
        name: For messages.
        rows: How many there are; whoever counted them sets it.
        content: Equal for equal rows.
    """

    def __init__(self, pieces: Pieces, source: TextSource) -> None:
        """Read nothing yet."""
        self.name = pieces.name
        self.rows: int | None = None
        self.content = f"{pieces.content} with {SOURCE_COLUMN[source]}"
        self._pieces, self._source = pieces, source

    def walk(self, generator: np.random.Generator | None) -> Iterator[Piece]:
        """Yield the runs of rows with a text of each piece; signals on disk are not touched."""
        column = SOURCE_COLUMN[self._source]
        for piece in self._pieces.walk(generator):
            values = _require(piece.read(), column, self._pieces)[column].to_pylist()
            has = np.array([False, *(has_text(v, self._source) for v in values), False])
            for first, end in np.flatnonzero(has[1:] != has[:-1]).reshape(-1, 2).tolist():
                yield piece.cut(first, end - first)


def _require(table: pa.Table, column: str, pieces: Pieces) -> pa.Table:
    if column not in table.column_names:
        there = ", ".join(table.column_names)
        raise InputError(f"{pieces.name} has no column {column!r}; it has {there}")
    return table


def _download_all_but_training(cohort: str) -> Path:
    """Return the folder of the newest commit of a data set on the Hub, without its large part."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [CARD_FILE, f"{DATA_FOLDER}/*.arrow"]
    try:
        found = snapshot_download(
            cohort,
            repo_type="dataset",
            allow_patterns=patterns,
            ignore_patterns=[f"{DATA_FOLDER}/{TRAIN}-*"],
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"no cohort at {cohort}: there is no such folder, and the Hub cannot give a data set"
            f" of that name ({reason})"
        ) from None
    return Path(found)
