"""One piece of a conversion: some recordings of one split, read and written as one shard.

A process is given a piece and works on it alone: no signal passes between processes, and each holds
one batch of 256 rows.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.atomic import atomic_file
from fm_med.cohort.writing import ROWS_PER_BATCH, ShardWriter
from fm_med.ecg.records import Recording, read_recording
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.errors import InputError

FILE_COLUMN = "file"  # where the recording of a row is; not kept
MIDDLE_HASH = pa.field("middle_hash", pa.string())
# Reads the recordings at some places of `FILE_COLUMN`, or says why one cannot be read.
Reader = Callable[[Sequence[str]], Iterable[Recording | InputError]]


def read_files(places: Sequence[str]) -> Iterator[Recording | InputError]:
    """Read recordings that are files of their own."""
    for place in places:
        try:
            yield read_recording(place)
        except InputError as error:
            yield error


@dataclass(frozen=True)
class Piece:
    """Consecutive recordings of one split, and the files that they become."""

    rows: pa.Table
    schema: pa.Schema
    shard: Path
    note: Path
    read: Reader

    def __reduce__(self) -> tuple[Any, ...]:
        """Give a process these rows only: pickle sends all that a slice was cut from."""
        rows = self.rows.take(pa.array(range(self.rows.num_rows), pa.int64()))
        return Piece, (rows, self.schema, self.shard, self.note, self.read)


def convert_piece(piece: Piece) -> int:
    """Read the recordings of a piece, write its shard and then its note; return its rows."""
    skipped: list[tuple[str, str]] = []
    rates: set[float] = set()
    with atomic_file(piece.shard) as path:
        shard = ShardWriter(path, piece.schema)
        for start in range(0, piece.rows.num_rows, ROWS_PER_BATCH):
            rows = piece.rows.slice(start, ROWS_PER_BATCH)
            table = _read_batch(rows, piece.read, skipped)
            rates.update(pc.unique(table.column("sampling_rate")).to_pylist())
            shard.write(table.select(piece.schema.names).cast(piece.schema))
            del table  # or two batches would be held while the next one is read
        shard.close()
    if not shard.rows:
        piece.shard.unlink()
    with atomic_file(piece.note) as path:
        note = {"skipped": skipped, "sampling_rates": sorted(rates)}
        path.write_text(json.dumps(note), encoding="utf-8")
    return piece.rows.num_rows


def _read_batch(rows: pa.Table, read: Reader, skipped: list[tuple[str, str]]) -> pa.Table:
    """Return the rows whose recordings could be read, with the signal columns."""
    records = rows.column("record_id").to_pylist()
    found = read(rows.column(FILE_COLUMN).to_pylist())
    kept, encoded = [], []
    for position, (record, recording) in enumerate(zip(records, found, strict=True)):
        if isinstance(recording, InputError):
            skipped.append((record, str(recording)))
        else:
            encoded.append(encode(recording))
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
