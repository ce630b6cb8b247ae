"""Turn a table and the recordings that it names into a cohort: streaming, parallel, resumable.

The rows are cut into pieces of consecutive recordings of one split. A piece becomes one shard and
a note (what was skipped); each is written to a temporary name and renamed, so that a run that is
killed at any moment continues with the pieces that are missing. Processes read and write their
own pieces: no signal passes between processes, and each holds one batch of 256 rows.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from fm_med.atomic import atomic_file
from fm_med.cohort import ROWS_PER_SHARD, CohortCard
from fm_med.cohort.checking import subject_problems
from fm_med.cohort.tables import DATA_FOLDER, in_split_order
from fm_med.cohort.writing import (
    ROWS_PER_BATCH,
    ShardWriter,
    finish_cohort,
    free_destination,
    hidden_folder,
    shard_path,
)
from fm_med.ecg.records import read_recording
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.errors import InputError

FILE_COLUMN = "file"  # where the recording of a row is; not kept
MIDDLE_HASH = pa.field("middle_hash", pa.string())
FEW_ROWS = 2000  # below this, starting processes takes longer than reading


@dataclass(frozen=True)
class Piece:
    """Consecutive recordings of one split, and the files that they become."""

    rows: pa.Table
    schema: pa.Schema
    shard: Path
    note: Path


def convert_recordings(
    rows: pa.Table,
    destination: str | os.PathLike[str],
    card: CohortCard,
    *,
    options: str,
    workers: int | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Path:
    """Read the recording of every row and write the cohort.

    The rows are held in memory (about 1 kB each), signals are not: each process holds at most 256
    recordings. A record that cannot be read is left out and listed in ``skipped.csv``.

    Args:
        rows: One row per recording: subject_id, record_id, split, `FILE_COLUMN` (path of the
            recording) and further columns to keep.
        destination: The new cohort's folder; it must not exist yet, or be empty.
        card: The card; a sampling rate of 0 is replaced by the one that all recordings share.
        options: Everything that decides the result besides `rows`; a killed run is continued only
            if both are the same.
        workers: Processes; None for one per core.
        rows_per_shard: Recordings in one piece.

    Returns:
        The cohort's folder.

    Raises:
        InputError: The destination is taken, a subject is in two splits, equal recordings are in
            two splits (unless the card allows it), or no recording could be read.
    """
    target = free_destination(destination)
    splits = {
        name: rows.filter(pc.equal(rows.column("split"), name))
        for name in in_split_order(pc.unique(rows.column("split")).to_pylist())
    }
    for problem in subject_problems(splits):
        raise InputError(problem)
    work = _work_folder(target, rows, f"{options} {rows_per_shard}")
    pieces = list(_cut(splits, work, rows_per_shard))
    _convert_pieces(pieces, workers)
    notes = [json.loads(piece.note.read_text(encoding="utf-8")) for piece in pieces]
    rates = {rate for note in notes for rate in note["sampling_rates"]}
    if not card.sampling_rate and len(rates) == 1:
        card = replace(card, sampling_rate=rates.pop())
    try:
        finish_cohort(work / "cohort", target, card, [s for n in notes for s in n["skipped"]])
    except InputError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    return target


def _work_folder(target: Path, rows: pa.Table, options: str) -> Path:
    """Return the hidden folder of this conversion, with what an interrupted run has finished."""
    key = hashlib.sha256(options.encode())
    with pa.ipc.new_stream(sink := pa.BufferOutputStream(), rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    key.update(sink.getvalue())
    work = hidden_folder(target, f"rows-{key.hexdigest()[:16]}")
    for other in work.parent.glob(hidden_folder(target, "*").name):
        renaming_begun = any((other / "cohort" / DATA_FOLDER).glob("*-of-*"))
        if other != work or renaming_begun:
            shutil.rmtree(other)
    for temporary in work.rglob(".*.tmp"):
        temporary.unlink()
    (work / "cohort" / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
    (work / "notes").mkdir(exist_ok=True)
    return work


def _cut(splits: dict[str, pa.Table], work: Path, rows_per_shard: int) -> Iterator[Piece]:
    for split, rows in splits.items():
        kept = [field for field in rows.schema if field.name != FILE_COLUMN]
        schema = pa.schema([*kept, *SIGNAL_SCHEMA, MIDDLE_HASH])
        for index, start in enumerate(range(0, rows.num_rows, rows_per_shard)):
            shard = shard_path(work / "cohort", split, index)
            note = work / "notes" / f"{shard.stem}.json"
            yield Piece(rows.slice(start, rows_per_shard), schema, shard, note)


def _convert_pieces(pieces: list[Piece], workers: int | None) -> None:
    """Convert the pieces that are not done, with a progress bar when there is a terminal."""
    missing = [piece for piece in pieces if not piece.note.exists()]
    total = sum(piece.rows.num_rows for piece in pieces)
    left = sum(piece.rows.num_rows for piece in missing)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if left >= FEW_ROWS else 1
    workers = min(workers, len(missing))
    # disable=None: silent when standard error is not a terminal
    with tqdm(total=total, initial=total - left, unit="rec", disable=None) as bar:
        for done in _each_done(missing, workers):
            bar.update(done)


def _each_done(pieces: list[Piece], workers: int) -> Iterator[int]:
    """Convert pieces, in this process or in several, and yield the rows of each when it is done."""
    if workers <= 1:
        yield from map(convert_piece, pieces)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        for future in as_completed([pool.submit(convert_piece, piece) for piece in pieces]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def convert_piece(piece: Piece) -> int:
    """Read the recordings of a piece, write its shard and then its note; return its rows."""
    skipped: list[tuple[str, str]] = []
    rates: set[float] = set()
    with atomic_file(piece.shard) as path:
        shard = ShardWriter(path, piece.schema)
        for start in range(0, piece.rows.num_rows, ROWS_PER_BATCH):
            table = _read_batch(piece.rows.slice(start, ROWS_PER_BATCH), skipped)
            rates.update(pc.unique(table.column("sampling_rate")).to_pylist())
            shard.write(table.select(piece.schema.names).cast(piece.schema))
        shard.close()
    if not shard.rows:
        piece.shard.unlink()
    with atomic_file(piece.note) as path:
        note = {"skipped": skipped, "sampling_rates": sorted(rates)}
        path.write_text(json.dumps(note), encoding="utf-8")
    return piece.rows.num_rows


def _read_batch(rows: pa.Table, skipped: list[tuple[str, str]]) -> pa.Table:
    """Return the rows whose recordings could be read, with the signal columns."""
    records = rows.column("record_id").to_pylist()
    files = rows.column(FILE_COLUMN).to_pylist()
    kept, encoded = [], []
    for position, (record, file) in enumerate(zip(records, files)):
        try:
            encoded.append(encode(read_recording(file)))
        except InputError as error:
            skipped.append((record, str(error)))
        else:
            kept.append(position)
    table = rows.take(pa.array(kept, pa.int64()))
    for field in SIGNAL_SCHEMA:
        table = table.append_column(field, _signal_column(field.type, field.name, encoded))
    return table.append_column(MIDDLE_HASH, pa.array(map(_middle_hash, encoded), pa.string()))


def _middle_hash(row: dict) -> str:
    """Return a hash of the middle half of all leads, with gains and rate.

    Copies of one ECG are often resampled anew: of the five pairs of equal recordings known among
    the first 500 of PTB-XL, three differ at 100 Hz, in at most 14 samples at the end.
    """
    samples = row["samples"]
    codes = np.frombuffer(row["signal"], "<i2").reshape(-1, samples)
    digest = hashlib.blake2b(
        codes[:, samples // 4 : samples - samples // 4].tobytes(), digest_size=16
    )
    digest.update(np.array([*row["gain"], row["sampling_rate"]], "<f4").tobytes())
    return digest.hexdigest()


def _signal_column(kind: pa.DataType, name: str, encoded: list[dict]) -> pa.Array:
    values = [row[name] for row in encoded]
    if pa.types.is_fixed_size_list(kind) and values:
        flat = pa.array(np.concatenate(values), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    return pa.array(values, kind)
