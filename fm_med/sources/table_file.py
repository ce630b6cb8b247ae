"""Read columns of a CSV or Parquet table as text, and turn text into numbers and truth values."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from fm_med.cohort.causes import cause_names
from fm_med.errors import InputError

DELIMITERS = (",", ";", "\t", "|")
BLANK = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    *,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> pa.Table:
    """Read some columns of a table as text; blank cells are null.

    Args:
        path: ``*.parquet``, or any other name for a delimited text file with a header.
        columns: Names of the columns to read.
        delimiter: Of a text file; None to take the most frequent of , ; tab | in its header.
        encoding: Of a text file.

    Returns:
        A table with the columns in this order, all of them strings.

    Raises:
        InputError: The file is missing or cannot be parsed, or a column is missing.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no table at {file}")
    wanted = list(dict.fromkeys(columns))
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            require(wanted, pq.read_schema(file).names, file)
            table = pq.read_table(file, columns=wanted)
        else:
            table = _read_text(file, wanted, delimiter, encoding)
        return pa.table({name: _as_text(table.column(name)) for name in wanted})
    except (pa.ArrowException, UnicodeDecodeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as a table ({encoding}): {reason}") from error


def column_names(
    path: str | os.PathLike[str], *, delimiter: str | None = None, encoding: str = "utf-8"
) -> list[str]:
    """Return the names of all columns of a table; arguments as of `read_table`.

    Raises:
        InputError: The file is missing or cannot be read, or two columns have the same name.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no table at {file}")
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            names = pq.read_schema(file).names
        else:
            with file.open(encoding=encoding, newline="") as lines:
                header = lines.readline()
            parse = pa_csv.ParseOptions(delimiter=delimiter or max(DELIMITERS, key=header.count))
            names = pa_csv.read_csv(pa.py_buffer(header.encode()), parse_options=parse).column_names
    except (pa.ArrowException, UnicodeDecodeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as a table ({encoding}): {reason}") from error
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{file} has two columns {name!r}")
    return list(names)


def _read_text(file: Path, wanted: list[str], delimiter: str | None, encoding: str) -> pa.Table:
    with file.open(encoding=encoding, newline="") as lines:
        header = lines.readline()
    delimiter = delimiter or max(DELIMITERS, key=header.count)
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = pa_csv.ReadOptions(encoding=encoding)
    # all names first: a missing column is told with those there are
    with pa_csv.open_csv(file, read_options=read, parse_options=parse) as reader:
        require(wanted, reader.schema.names, file)
    convert = pa_csv.ConvertOptions(
        include_columns=wanted,
        column_types={name: pa.string() for name in wanted},
        strings_can_be_null=True,
        null_values=BLANK,
    )
    return pa_csv.read_csv(file, read_options=read, parse_options=parse, convert_options=convert)


def require(wanted: Iterable[str], there: Sequence[str], file: Path) -> None:
    """Stop when a column is missing.

    Raises:
        InputError: Names the first missing column and those there are.
    """
    for name in wanted:
        if name not in there:
            raise InputError(f"{file} has no column {name!r}; it has {', '.join(there)}")


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    blank = pc.is_in(text, value_set=pa.array(BLANK))
    return pc.if_else(blank, None, text)


def identifiers(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of ids; ids that a program wrote as floats ("7.0") become whole ("7").

    Raises:
        InputError: An id is blank.
    """
    column = table.column(name)
    refuse_rows(column.is_null().to_numpy(), f"column {name!r} is blank")
    if pc.all(pc.match_substring_regex(column, r"^\d+\.0$")).as_py():
        return pc.replace_substring_regex(column, r"\.0$", "")
    return column


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as (rows,) float64, NaN where blank.

    A decimal comma is understood, except before exactly three digits: "1,234" may mean 1234.

    Raises:
        InputError: A cell is not a number.
    """
    column = table.column(name)
    point = pc.replace_substring_regex(column, r"^([+-]?\d+),(\d{1,2}|\d{4,})$", r"\1.\2")
    number = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(point, number)), False).to_numpy()
    refuse_rows(wrong, f"column {name!r} is not a number", column)
    return point.cast(pa.float64()).to_numpy().copy()  # Arrow's own memory is read-only


def booleans(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column as nullable bools; 1/0, true/false and yes/no are understood.

    Raises:
        InputError: A cell is something else.
    """
    column = table.column(name)
    word = pc.utf8_lower(column)
    true, false = (pc.is_in(word, value_set=pa.array(words)) for words in (TRUE, FALSE))
    wrong = pc.and_(column.is_valid(), pc.invert(pc.or_(true, false))).to_numpy()
    refuse_rows(wrong, f"column {name!r} is neither true nor false", column)
    return pc.if_else(column.is_null(), None, true)


def refuse_rows(wrong: np.ndarray, problem: str, values: pa.ChunkedArray | None = None) -> None:
    """Stop when any row is wrong.

    Args:
        wrong: (rows,) bool.
        problem: What is wrong, a clause that the row numbers complete.
        values: The column, to show what was seen.

    Raises:
        InputError: Names the first five rows, counted from 1 below the header.
    """
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    named = [
        str(row + 1) if values is None else f"{row + 1} ({values[int(row)].as_py()!r})"
        for row in rows[:5]
    ]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    raise InputError(f"{problem} in row {', '.join(named)}{more} (the first below the header is 1)")


def endings(
    table: pa.Table, time: np.ndarray, event: str | None, cause: str | None
) -> dict[str, Any]:
    """Return what ended each follow-up: `event`, and where it is told `cause`.

    Args:
        table: As of `read_table`.
        time: (rows,) follow-up, NaN where blank; without a cause such a row has no follow-up.
        event: Column of truth values; None: whoever has a cause has had an event.
        cause: Column that names the event; blank, 0 and "censored" are none. None for one kind.

    Raises:
        InputError: A cell is no truth value, or an event and its cause contradict each other.
    """
    if cause is None:
        return {} if event is None else {"event": booleans(table, event)}
    names = cause_names(table.column(cause).to_pylist())
    causes = pa.chunked_array([pa.array(names, pa.string())])
    if event is None:
        unknown = pa.array(np.isnan(time) & causes.is_null().to_numpy())
        return {"event": pc.if_else(unknown, None, causes.is_valid()), "cause": causes}
    happened = booleans(table, event)
    told = pc.fill_null(happened, False).to_numpy()
    refuse_rows(told & ~causes.is_valid().to_numpy(), f"{event!r} is true, but no {cause!r}")
    refuse_rows(~told & causes.is_valid().to_numpy(), f"{event!r} is not true, but {cause!r}")
    return {"event": happened, "cause": causes}
