"""Columns of a cohort as arrays (rows, visits): a plain column is a single visit, a list many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.errors import InputError


@dataclass(frozen=True)
class VisitLayout:
    """Where the visits of a batch stand.

    Attributes:
        count: (rows,) visits of each row.
        kept: Visits kept of each row, at most: the latest.
    """

    count: np.ndarray
    kept: int

    @classmethod
    def of(cls, table: pa.Table, columns: Sequence[str], kept: int) -> Self:
        """Find the visits of the columns that are lists; one each where there is none.

        Raises:
            InputError: A row's columns differ in their number of visits, or it has none.
        """
        count, first = np.ones(table.num_rows, np.int64), ""
        for name in columns:
            if not pa.types.is_list(table.schema.field(name).type):
                continue
            found = pc.fill_null(pc.list_value_length(table.column(name)), 0).to_numpy()
            if first and (found != count).any():
                row = int(np.argmax(found != count))
                raise InputError(
                    f"row {row + 1} has {count[row]} visits in column {first!r} and {found[row]} "
                    f"in column {name!r}"
                )
            count, first = found.astype(np.int64), name
        if (count == 0).any():
            raise InputError(f"row {int(np.argmax(count == 0)) + 1} has no visit")
        return cls(count, kept)

    @property
    def mask(self) -> np.ndarray:
        """(rows, visits) True where there is a visit; visits come first, padding after."""
        shown = np.minimum(self.count, self.kept)
        return np.arange(shown.max(initial=1)) < shown[:, None]

    def spread(self, column: pa.ChunkedArray, values: np.ndarray, fill: float) -> np.ndarray:
        """Put the values of a column into (rows, visits).

        Args:
            column: Plain, which holds for all visits, or lists.
            values: (rows,) or, of lists, (sum of visits,) what the cells were translated to.
            fill: For padding.
        """
        mask = self.mask
        placed = np.full(mask.shape, fill, values.dtype)
        if not pa.types.is_list(column.type):
            placed[mask] = np.repeat(values, mask.sum(1))
            return placed
        end = np.cumsum(self.count)
        place = np.arange(len(values)) - np.repeat(end, self.count)  # -1 is the latest visit
        placed[mask] = values[place >= -self.kept]
        return placed


def flat(column: pa.ChunkedArray) -> pa.Array:
    """Return the cells of a column, visit after visit where it holds lists."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):  # an empty column keeps its chunks
        joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array([], joined.type)
    return joined.flatten() if pa.types.is_list(joined.type) else joined


def numeric_cells(table: pa.Table, name: str) -> np.ndarray:
    """Return a column's cells as float64, NaN where missing.

    Raises:
        InputError: They are no numbers.
    """
    cells = flat(table.column(name))
    if not (pa.types.is_floating(cells.type) or pa.types.is_integer(cells.type)):
        raise InputError(f"column {name!r} holds {cells.type}, in training it was numeric")
    return cells.cast(pa.float64()).to_numpy(zero_copy_only=False)


def level_cells(table: pa.Table, name: str, codes: dict[str, int], other: int) -> np.ndarray:
    """Return a column's cells as int64 codes of its levels; -1 where missing.

    Args:
        table: Rows.
        name: Of the column.
        codes: Of the known levels.
        other: Code of all other levels.

    Raises:
        InputError: The cells are no levels.
    """
    cells = flat(table.column(name))
    if pa.types.is_floating(cells.type):
        raise InputError(f"column {name!r} holds numbers, in training it was categorical")
    encoded = cells.cast(pa.string()).dictionary_encode()
    known = [codes.get(level, other) for level in encoded.dictionary.to_pylist()]
    return np.append(np.array(known, np.int64), -1)[pc.fill_null(encoded.indices, -1).to_numpy()]


def cell_persons(table: pa.Table, name: str) -> np.ndarray:
    """Return (cells,) numbers of whose a column's cells are; without ids each row is another's."""
    persons = np.arange(table.num_rows)
    if "subject_id" in table.column_names:
        persons = flat(table.column("subject_id")).dictionary_encode().indices.to_numpy()
    column = table.column(name)
    if not pa.types.is_list(column.type):
        return persons
    return np.repeat(persons, pc.fill_null(pc.list_value_length(column), 0).to_numpy())
