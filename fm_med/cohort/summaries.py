"""What a cohort's splits are, without their signals: columns, rows, subjects."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from fm_med.cohort.tables import naming_torn, refuse_other_columns, whole_series

SUBJECT = "subject_id"


class Summary(NamedTuple):
    """What a split is, without its signals.

    Attributes:
        columns: Their names.
        rows: How many.
        subjects: Their ids, one possibly several times; empty without such a column.
    """

    columns: list[str]
    rows: int
    subjects: pa.ChunkedArray


def summary(table: pa.Table) -> Summary:
    """Summarise a table."""
    known = SUBJECT in table.column_names
    subjects = table.column(SUBJECT) if known else pa.chunked_array([], pa.string())
    return Summary(table.column_names, table.num_rows, subjects)


def read_summaries(folder: Path) -> dict[str, Summary]:
    """Summarise every split under ``folder/data``, in little memory for any number of rows.

    Without memory map: a map reads whole pages around every value, and they count as memory of the
    process as long as the file is open.

    Raises:
        InputError: As `open_shards`.
    """
    return {split: _summarise(paths) for split, paths in whole_series(folder).items()}


def read_columns(folder: Path, names: Collection[str]) -> dict[str, pa.Table]:
    """Return those of the columns `names` that there are of every split, without memory map.

    Raises:
        InputError: As `open_shards`.
    """
    return {
        split: pa.concat_tables(pa.table(_copied(batch)) for batch in _each_batch(paths, names))
        for split, paths in whole_series(folder).items()
    }


def _summarise(paths: list[Path]) -> Summary:
    rows, subjects = 0, []
    for batch in _each_batch(paths, [SUBJECT]):
        rows += batch.num_rows
        if batch.schema.get_field_index(SUBJECT) >= 0:  # there, and not twice
            subjects.append(batch.column(SUBJECT).unique())
    with pa.OSFile(str(paths[0])) as file:
        names = pa.ipc.open_file(file).schema.names
    return Summary(names, rows, pa.chunked_array(subjects, pa.string()))


def _each_batch(paths: list[Path], names: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Yield every batch with the columns `names`, or with any one if it has none of them.

    Of a batch only these bytes are read, but the memory of all of it is held.
    """
    first = None
    for path in paths:
        with naming_torn(path), pa.OSFile(str(path)) as file:
            schema = pa.ipc.open_file(file).schema
            first = first or schema
            refuse_other_columns(path, schema, paths[0], first)
            places = [place for place, name in enumerate(schema.names) if name in names] or [0]
            only = pa.ipc.IpcReadOptions(included_fields=places)
            shard = pa.ipc.open_file(file, options=only)
            for index in range(shard.num_record_batches):
                yield shard.get_batch(index)


def _copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [pa.concat_arrays([column]) for column in batch.columns]
    return pa.record_batch(columns, schema=batch.schema)
