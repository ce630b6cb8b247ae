"""What a cohort's splits are, without their signals: columns, rows, subjects."""

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


def _summarise(paths: list[Path]) -> Summary:
    schema, rows, subjects = None, 0, []
    for path in paths:
        with naming_torn(path), pa.OSFile(str(path)) as file:
            shard = pa.ipc.open_file(file)
            schema = schema or shard.schema
            refuse_other_columns(path, shard.schema, paths[0], schema)
            place = schema.get_field_index(SUBJECT)
            only = pa.ipc.IpcReadOptions(included_fields=[max(place, 0)])
            shard = pa.ipc.open_file(file, options=only)
            for index in range(shard.num_record_batches):
                # Of a batch only these bytes are read, but the memory of all of it is held.
                batch = shard.get_batch(index)
                rows += batch.num_rows
                if place >= 0:
                    subjects.append(batch.column(0).unique())
    names = [] if schema is None else schema.names
    return Summary(names, rows, pa.chunked_array(subjects, pa.string()))
