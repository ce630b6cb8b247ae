"""Expression in a cohort: one row of float32 bytes per sample."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fm_med.errors import InputError


def expression_fields(genes: Sequence[str], unit: str) -> list[pa.Field]:
    """Return the fields of `encode`; the metadata of the first names genes and unit."""
    metadata = {"genes": " ".join(genes), "unit": unit}
    return [
        pa.field("expression", pa.large_binary(), metadata=metadata),
        pa.field("input_hash", pa.string()),
    ]


def encode(values: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns of `expression_fields` for (samples, genes) values."""
    rows = [row.tobytes() for row in np.ascontiguousarray(values, "<f4")]
    hashes = [hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows]
    return {
        "expression": pa.array(rows, pa.large_binary()),
        "input_hash": pa.array(hashes, pa.string()),
    }


def decode(table: pa.Table) -> tuple[np.ndarray, list[str], str]:
    """Read the column `expression` of some rows of a cohort.

    Returns:
        (samples, genes) float32 in one copy, the genes' names, and the unit.

    Raises:
        InputError: The column does not name its genes, or rows differ in their number.
    """
    metadata = table.schema.field("expression").metadata or {}
    if b"genes" not in metadata or b"unit" not in metadata:
        raise InputError("the column 'expression' does not name its genes and unit")
    column = table.column("expression").combine_chunks()
    rows = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    _, offsets, data = rows.buffers()
    ends = np.frombuffer(offsets, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    lengths = np.diff(ends)
    if len(set(lengths.tolist())) > 1:
        genes = f"{lengths.min() // 4} to {lengths.max() // 4} genes"
        raise InputError(f"rows of expression differ in length: {genes}")
    values = np.frombuffer(data, "<f4")[ends[0] // 4 : ends[-1] // 4]
    genes = metadata[b"genes"].decode().split(" ")
    return values.reshape(-1, len(genes)).astype(np.float32), genes, metadata[b"unit"].decode()
