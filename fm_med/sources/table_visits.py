"""Rows of visits to one row per person, with lists of visits in the order of time."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.errors import InputError
from fm_med.sources.table_file import numbers, refuse_rows

VISIT_TIME = "visit_time"
DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Visits:
    """Which rows of a table are whose visits.

    Attributes:
        order: (rows,) row numbers, person after person in the table's order, each by time.
        first: (persons,) place in `order` of each person's first visit.
        count: (persons,) visits.
    """

    order: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, people: pa.ChunkedArray, time: np.ndarray | None) -> Self:
        """Group rows by person.

        Args:
            people: Ids, one per row.
            time: (rows,) time of each visit; None for a table of one row per person.

        Raises:
            InputError: A person has two rows without or at the same time.
        """
        codes = people.combine_chunks().dictionary_encode().indices.to_numpy()
        count = np.bincount(codes)
        if time is None:
            hint = "a table of visits needs --visit_time"
            problem = f"the same person has more than one row ({hint})"
            refuse_rows(count[codes] > 1, problem, people)
            time = np.zeros(len(codes))
        order = np.lexsort((time, codes))
        same = (np.diff(codes[order]) == 0) & (np.diff(time[order]) == 0)
        repeated = np.zeros(len(codes), bool)
        repeated[order[1:][same]] = True
        refuse_rows(repeated, "the person has another visit at the same time", people)
        return cls(order, np.cumsum(count) - count, count)

    def once(self, column: pa.Array | pa.ChunkedArray, name: str, people: pa.ChunkedArray) -> Any:
        """Return a column of outcomes with one value per person; blank visits do not count.

        Raises:
            InputError: A person's visits disagree.
        """
        encoded, values = _codes(column)
        encoded = encoded[self.order]
        known = np.where(encoded < 0, -1, encoded)
        highest = np.maximum.reduceat(known, self.first)
        lowest = np.minimum.reduceat(np.where(known < 0, len(values), known), self.first)
        differs = (highest >= 0) & (highest != lowest)
        if differs.any():
            person = people[int(self.order[self.first[np.argmax(differs)]])].as_py()
            raise InputError(
                f"column {name!r} differs between the visits of {person} (and of "
                f"{differs.sum() - 1} more persons); an outcome has one value per person"
            )
        return values.take(pa.array(highest, mask=highest < 0))

    def per_person(self, column: pa.Array) -> pa.Array:
        """Return one value per person where visits never differ, else a list of visits."""
        encoded, _ = _codes(column)
        encoded = encoded[self.order]
        if (encoded == np.repeat(encoded[self.first], self.count)).all():
            return column.take(pa.array(self.order[self.first]))
        return self.lists(column)

    def lists(self, column: pa.Array) -> pa.Array:
        """Return a list of visits per person."""
        offsets = pa.array(np.append(self.first, len(self.order)).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, column.take(pa.array(self.order)))


def visit_times(source: pa.Table, name: str) -> np.ndarray:
    """Return (rows,) float64: numbers as they are, ISO dates in days.

    Raises:
        InputError: A cell is blank, or neither number nor date.
    """
    column = source.column(name)
    refuse_rows(column.is_null().to_numpy(), f"visit time {name!r} is blank")
    dated = pc.match_substring_regex(column, r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2})?)?$")
    if not pc.any(dated).as_py():
        return numbers(source, name)
    wrong = pc.invert(dated).to_numpy()
    refuse_rows(wrong, f"visit time {name!r} is no date, unlike other rows", column)
    try:
        moments = pc.cast(column, pa.timestamp("us")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"visit time {name!r}: {str(error).splitlines()[0]}") from error
    return moments / DAY


def _codes(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return (rows,) numbers of the different values, -1 for null, and the values."""
    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = joined.dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy(), encoded.dictionary
