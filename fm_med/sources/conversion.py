"""Turn a table and the recordings that it names into a cohort: streaming, parallel, resumable.

The rows are cut into pieces of consecutive recordings of one split. A piece becomes one shard and
a note (what was skipped); each is written to a temporary name and renamed, so that a run that is
killed at any moment continues with the pieces that are missing. Processes read and write their
own pieces: no signal passes between processes, and each holds one batch of 256 rows. On several
machines each converts one shard of the recordings (`fm_med.sources.shards`).
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import ROWS_PER_SHARD, CohortCard
from fm_med.cohort.checking import subject_problems
from fm_med.cohort.tables import DATA_FOLDER, content_hash, in_split_order
from fm_med.cohort.writing import ROWS_PER_BATCH, free_destination, hidden_folder, shard_path
from fm_med.ecg.storage import SIGNAL_SCHEMA
from fm_med.errors import InputError
from fm_med.sources.pieces import (
    FILE_COLUMN,
    MIDDLE_HASH,
    Piece,
    Reader,
    convert_piece,
    read_files,
)
from fm_med.sources.shards import (
    ConversionNote,
    PartNote,
    Shard,
    finish_conversion,
    finish_part,
    is_done,
    source_key,
)
from fm_med.sources.workers import cores, each_done

__all__ = ["FILE_COLUMN", "convert_recordings"]

PIECES = 16  # at least, unless they would have less than a batch
FEW_ROWS = 1000  # which are read in the time that another process takes to start


def convert_recordings(
    rows: pa.Table,
    destination: str | os.PathLike[str],
    card: CohortCard,
    *,
    options: str,
    workers: int | None = None,
    rows_per_shard: int | None = None,
    shard: str | None = None,
    read: Reader = read_files,
    drop_duplicates: bool = False,
) -> Path:
    """Read the recording of every row and write the cohort.

    The rows are held in memory (their text and about 0.4 kB each at the peak), signals are not:
    each process holds at most 256 recordings. A record that cannot be read is left out and listed
    in ``skipped.csv``.

    A killed run is continued if `rows` and `options` are the same. It does not look into the
    recordings: if one was edited in between, remove the hidden folder beside the destination.

    Args:
        rows: One row per recording: subject_id, record_id, split, `FILE_COLUMN` (path of the
            recording) and further columns to keep.
        destination: The new cohort's folder; it must not exist yet, or be empty.
        card: The card; a sampling rate of 0 is replaced by the one that all recordings share.
        options: Everything that decides the result besides `rows`; a killed run is continued only
            if both are the same.
        workers: Processes, this one included; None for one per core, or fewer for few recordings.
        rows_per_shard: Recordings in one piece; None for 4096, or fewer where that would leave
            some processes without a piece.
        shard: "2/8" converts the second of eight equal shares of the recordings, to be merged by
            `fm_med.sources.shards.merge_parts`.
        read: Reads recordings where `FILE_COLUMN` does not name files; it is given at most 256
            places of consecutive rows. What decides its result belongs into `options`.
        drop_duplicates: Of equal recordings in different splits, keep those of one split only. Not
            done to a part, because the others are not known: say it when merging.

    Returns:
        The cohort's folder; for a shard, the folder of this part, which is left as it is if it
        is there already.

    Raises:
        InputError: The destination is taken, there is no such shard, a subject is in two splits,
            equal recordings are in two splits (unless the card allows it), or no recording could
            be read.
    """
    target = free_destination(destination)
    pa.default_memory_pool().release_unused()  # what reading the table took
    splits = {
        name: rows.filter(pc.equal(rows.column("split"), name))
        for name in in_split_order(pc.unique(rows.column("split")).to_pylist())
    }
    subjects = {name: split.column("subject_id") for name, split in splits.items()}
    for problem in subject_problems(subjects):
        raise InputError(problem)
    if shard is not None:
        return _convert_part(
            Shard.parse(shard),
            rows,
            target,
            splits=splits,
            card=card,
            options=options,
            workers=workers,
            rows_per_shard=rows_per_shard,
            read=read,
        )
    rows_per_shard = rows_per_shard or _rows_per_shard(splits)
    work = _work_folder(target, rows, f"{options} {rows_per_shard}")
    note = _convert_splits(splits, work, workers, rows_per_shard, read)
    try:
        finish_conversion(work / "cohort", target, card, [note], drop_duplicates)
    except InputError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    return target


def _convert_part(
    shard: Shard,
    rows: pa.Table,
    target: Path,
    *,
    splits: dict[str, pa.Table],
    card: CohortCard,
    options: str,
    workers: int | None,
    rows_per_shard: int | None,
    read: Reader,
) -> Path:
    """Convert one share of the rows to a part beside the target."""
    mine = shard.share(splits)
    source = source_key(rows.drop_columns([FILE_COLUMN]), card, options)
    folder = shard.folder(target)
    if is_done(folder, source):
        return folder
    rows_per_shard = rows_per_shard or _rows_per_shard(mine)
    work = _work_folder(free_destination(folder), rows, f"{options} {rows_per_shard}")
    note = _convert_splits(mine, work, workers, rows_per_shard, read)
    finish_part(work / "cohort", folder, PartNote(str(shard), source, card, note))
    shutil.rmtree(work)
    return folder


def _rows_per_shard(splits: dict[str, pa.Table]) -> int:
    """Return how many recordings a piece has: of few recordings, so few that all cores have some.

    Not a matter of the cores, because a run may be continued on another machine.
    """
    total = sum(rows.num_rows for rows in splits.values())
    batches = math.ceil(total / (PIECES * ROWS_PER_BATCH))
    return min(ROWS_PER_SHARD, max(1, batches) * ROWS_PER_BATCH)


def _convert_splits(
    splits: dict[str, pa.Table],
    work: Path,
    workers: int | None,
    rows_per_shard: int,
    read: Reader,
) -> ConversionNote:
    """Convert all rows of the splits and return what came of them besides the rows."""
    pieces = list(_cut(splits, work, rows_per_shard, read))
    _convert_pieces(pieces, workers)
    notes = [json.loads(piece.note.read_text(encoding="utf-8")) for piece in pieces]
    return ConversionNote(
        skipped=[record for note in notes for record in note["skipped"]],
        sampling_rates=sorted({rate for note in notes for rate in note["sampling_rates"]}),
    )


def _work_folder(target: Path, rows: pa.Table, options: str) -> Path:
    """Return the hidden folder of this conversion, with what an interrupted run has finished."""
    # Paths may be relative to the working directory, so the first one is made absolute.
    first = [str(Path(file).absolute()) for file in rows.column(FILE_COLUMN)[:1].to_pylist()]
    content = content_hash({"rows": rows.to_batches()})
    key = hashlib.sha256(f"{options} {first} {content}".encode())
    work = hidden_folder(target, f"rows-{key.hexdigest()[:16]}")
    for other in work.parent.glob(hidden_folder(target, "rows-*").name):
        renaming_begun = any((other / "cohort" / DATA_FOLDER).glob("*-of-*"))
        if other != work or renaming_begun:
            shutil.rmtree(other)
    for temporary in work.rglob(".*.tmp"):
        temporary.unlink()
    (work / "cohort" / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
    (work / "notes").mkdir(exist_ok=True)
    return work


def _cut(
    splits: dict[str, pa.Table], work: Path, rows_per_shard: int, read: Reader
) -> Iterator[Piece]:
    for split, rows in splits.items():
        kept = [field for field in rows.schema if field.name != FILE_COLUMN]
        schema = pa.schema([*kept, *SIGNAL_SCHEMA, MIDDLE_HASH])
        for index, start in enumerate(range(0, rows.num_rows, rows_per_shard)):
            shard = shard_path(work / "cohort", split, index)
            note = work / "notes" / f"{shard.stem}.json"
            yield Piece(rows.slice(start, rows_per_shard), schema, shard, note, read)


def _convert_pieces(pieces: list[Piece], workers: int | None) -> None:
    """Convert the pieces that are not done, with a progress bar when there is a terminal."""
    from tqdm import tqdm  # not needed by a process that imports this module to read recordings

    missing = [piece for piece in pieces if not piece.note.exists()]
    total = sum(piece.rows.num_rows for piece in pieces)
    left = sum(piece.rows.num_rows for piece in missing)
    if workers is None:
        workers = min(cores(), 1 + left // FEW_ROWS)
    # disable=None: silent when standard error is not a terminal
    with tqdm(total=total, initial=total - left, unit="rec", disable=None) as bar:
        for done in each_done(convert_piece, missing, workers):
            bar.update(done)
