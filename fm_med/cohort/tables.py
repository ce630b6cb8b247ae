"""The shards of a cohort as memory-mapped tables: open them, gather rows, hash their content."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.errors import InputError

DATA_FOLDER = "data"
SPLIT_ORDER = ("train", "validation", "test")


def in_split_order(splits: Iterable[str]) -> list[str]:
    """Return split names in the usual order, others after them by name."""
    return sorted(
        splits, key=lambda s: (SPLIT_ORDER.index(s) if s in SPLIT_ORDER else len(SPLIT_ORDER), s)
    )


def open_shards(folder: Path, but: str | None = None) -> dict[str, pa.Table]:
    """Memory-map every shard under ``folder/data`` and return one table per split.

    Args:
        folder: Of a cohort.
        but: A split to leave out.

    Raises:
        InputError: There is no shard, one is missing from the numbered series, or one is torn.
    """
    shards = whole_series(folder)
    return {split: _open_split(paths) for split, paths in shards.items() if split != but}


def shard_files(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of each split in their order."""
    shards = defaultdict(list)
    for path in sorted((folder / DATA_FOLDER).glob("*.arrow")):
        shards[path.name.split("-")[0]].append(path)
    return {split: shards[split] for split in in_split_order(shards)}


def whole_series(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of each split after checking that none of a numbered series is missing."""
    shards = shard_files(folder)
    if not shards:
        raise InputError(f"{folder} is not a cohort: no *.arrow file under {DATA_FOLDER}/")
    for paths in shards.values():
        stem, _, total = paths[0].stem.partition("-of-")
        if total and len(paths) != int(total):
            raise InputError(
                f"{paths[0].parent} holds {len(paths)} of {int(total)} shards of {stem}"
            )
    return shards


def _open_split(paths: list[Path]) -> pa.Table:
    tables = []
    for path in paths:
        with naming_torn(path):
            tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        refuse_other_columns(path, tables[-1].schema, paths[0], tables[0].schema)
    return pa.concat_tables(tables)


@contextmanager
def naming_torn(path: Path) -> Iterator[None]:
    """Name the file that turns out to be torn."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a complete Arrow file") from error


def refuse_other_columns(path: Path, schema: pa.Schema, first: Path, its: pa.Schema) -> None:
    """Refuse a shard whose columns are not those of the first one."""
    if schema != its:
        raise InputError(f"{path} has other columns than {first.name}")


class BytesColumn:
    """A large_binary column of many chunks, gathered row by row without joining the chunks.

    ``pyarrow.Table.take`` first joins all chunks of the column, so a batch of 64 rows would read
    the whole cohort. Here only the bytes of the wanted rows are touched.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Note where each row lies: 16 bytes per row in memory, the data stay on disk."""
        self._chunks: list[np.ndarray] = []
        ends = []
        begins = []
        for chunk in column.chunks:
            offsets, data = _offsets(chunk)
            begins.append(offsets[:-1])
            ends.append(offsets[1:])
            self._chunks.append(data)
        self._begin = np.concatenate(begins)
        self._end = np.concatenate(ends)
        self._first_row = np.cumsum([0] + [len(chunk) for chunk in column.chunks])
        self._valid = column.is_valid().to_numpy() if column.null_count else None

    def views(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the bytes of `rows` (n,) where they lie, n arrays uint8 that are not copied."""
        chunk_of_row = np.searchsorted(self._first_row, rows, side="right") - 1
        places = zip(chunk_of_row.tolist(), self._begin[rows].tolist(), self._end[rows].tolist())
        return [self._chunks[chunk][first:last] for chunk, first, last in places]

    def take(self, rows: np.ndarray) -> pa.Array:
        """Return the values of `rows` (n,) as one array of n values."""
        chunk_of_row = np.searchsorted(self._first_row, rows, side="right") - 1
        begin, end = self._begin[rows], self._end[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(end - begin, out=offsets[1:])
        data = np.empty(offsets[-1], np.uint8)
        places = zip(chunk_of_row.tolist(), begin.tolist(), end.tolist(), offsets.tolist())
        for chunk, first, last, place in places:
            data[place : place + last - first] = self._chunks[chunk][first:last]
        validity = None if self._valid is None else pa.array(self._valid[rows]).buffers()[1]
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


class TableRows:
    """The rows of a table by their numbers.

    Bytes (signals) are gathered from where they lie, for example a memory-mapped file; every other
    column that is asked for is joined once and kept in memory (about 1 kB per row for all of them).
    """

    def __init__(self, table: pa.Table) -> None:
        """Hold the table; nothing is read yet."""
        self.table = table
        self._bytes: dict[str, BytesColumn] = {}
        self._joined: dict[str, pa.Array] = {}

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        """Return `rows` (n,), in this order and with repeats, of the columns `names`."""
        # With the stored fields, because their metadata may tell what the values mean.
        schema = pa.schema([self.table.schema.field(name) for name in names])
        return pa.table([self._take(name, rows) for name in names], schema=schema)

    def _take(self, name: str, rows: np.ndarray) -> pa.Array:
        column = self.table.column(name)
        if pa.types.is_large_binary(column.type):
            return self._bytes_column(name).take(rows)
        if name not in self._joined:
            self._joined[name] = column.combine_chunks()
        return self._joined[name].take(pa.array(rows))

    def views(self, rows: np.ndarray, name: str) -> list[np.ndarray]:
        """Return the bytes of `rows` (n,) of a large_binary column where they lie, not copied."""
        return self._bytes_column(name).views(rows)

    def _bytes_column(self, name: str) -> BytesColumn:
        if name not in self._bytes:
            self._bytes[name] = BytesColumn(self.table.column(name))
        return self._bytes[name]


def _offsets(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets (n + 1,) and the bytes of an array of bytes or strings, without a copy."""
    if len(chunk) == 0:
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    wide = pa.types.is_large_binary(chunk.type) or pa.types.is_large_string(chunk.type)
    _, offsets, data = chunk.buffers()
    first = chunk.offset
    found = np.frombuffer(offsets, np.int64 if wide else np.int32)[first : first + len(chunk) + 1]
    return found, np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)


def read_batches(folder: Path) -> dict[str, Iterator[pa.RecordBatch]]:
    """Return the record batches of each split, read one at a time into memory of their own.

    Unlike pages of a memory map, a batch that has been used is gone: reading a whole cohort this
    way takes the memory of one batch.
    """
    return {split: _each_batch(paths) for split, paths in shard_files(folder).items()}


def _each_batch(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as shard:
            for index in range(shard.num_record_batches):
                yield shard.get_batch(index)


def content_hash(batches: Mapping[str, Iterable[pa.RecordBatch]]) -> str:
    """Return a SHA-256 over every value of every column, in row order, split by split.

    It does not depend on how the rows are cut into shards and batches, on shard names, or on
    bytes that Arrow keeps under a null. About 1 GB/s.

    Args:
        batches: The record batches of each split.
    """
    total = hashlib.sha256()
    for split in in_split_order(batches):
        streams: dict[str, Any] = defaultdict(hashlib.sha256)
        rows = 0
        for batch in batches[split]:
            rows += batch.num_rows
            for field, column in zip(batch.schema, batch.columns):
                if field.metadata and rows == batch.num_rows:  # once, with the first batch
                    streams[f"{field.name} metadata"].update(
                        repr(sorted(field.metadata.items())).encode()
                    )
                _feed(streams, f"{field.name} {field.type} ", column)
            del batch, column  # or two batches would be held while the next one is read
        total.update(f"{split} {rows}\n".encode())
        for part in sorted(streams):
            total.update(f"{part} {streams[part].hexdigest()}\n".encode())
    return total.hexdigest()


def _feed(streams: dict[str, Any], part: str, array: pa.Array) -> None:
    """Feed validity, lengths and values of an array to hashes of their own, nested ones below."""
    streams[f"{part}?"].update(_bytes_of(array.is_valid()))
    kind = array.type
    if pa.types.is_struct(kind):
        for child, values in zip(kind, array.flatten()):
            _feed(streams, f"{part}.{child.name}", values)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        streams[f"{part}#"].update(_bytes_of(lengths.cast(pa.int64())))
        _feed(streams, f"{part}[]", array.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _feed(streams, f"{part}[]", array.flatten())
    elif pa.types.is_primitive(kind):
        streams[part].update(_bytes_of(array))
    else:
        present = array.drop_null()
        offsets, data = _offsets(present)
        streams[f"{part}#"].update(np.diff(offsets).astype(np.int64))
        streams[part].update(data[offsets[0] : offsets[-1]])


def _bytes_of(array: pa.Array) -> bytes:
    """Return the values of a primitive array as bytes, zero under a null."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, 0)
    return array.to_numpy(zero_copy_only=False).tobytes()
