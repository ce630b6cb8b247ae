"""Cells of a clinical table: what is a number, what a word, what a code for "missing".

Nothing is repaired by guessing. A token such as ``?``, a decimal comma or a sentinel such as
1000000 is refused with its column, value and row, or read as it is declared.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.errors import InputError
from fm_med.sources.table_file import refuse_rows

Kind = Literal["numeric", "categorical"]
Decimal = Literal[".", ",", "either"]

EXPONENT = r"([eE][+-]?\d+)?$"
NUMBER: dict[str, str] = {
    ".": r"^[+-]?(\d+\.?\d*|\.\d+)" + EXPONENT,
    ",": r"^[+-]?(\d+,?\d*|,\d+)" + EXPONENT,
    # a comma before exactly three digits may separate thousands
    "either": r"^[+-]?(\d+\.?\d*|\.\d+|\d+,(\d{1,2}|\d{4,}))" + EXPONENT,
}
HIGH_CODES = (*(10.0**k - 1 for k in range(2, 10)), *(10.0**k for k in range(5, 10)))
LOW_CODES = (-9.0, *(1 - 10.0**k for k in range(2, 6)), *(-(10.0**k) for k in range(5, 10)))
FAR = 3.0  # a code stands at more than this multiple of all other values
MANY_LEVELS = 20


@dataclass(frozen=True)
class CellRules:
    """What the user declares about cells.

    Attributes:
        missing: Tokens that mean "missing" in every column, or ``COLUMN=TOKEN`` for one column.
            Numbers are compared as numbers: ``1000000`` is also ``1000000.0``.
        accept: Values that look like codes for "missing" but are real; written like `missing`.
        decimal: Sign before the decimals; "either" where a table mixes them.
    """

    missing: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    decimal: Decimal = "."


def blanked(column: pa.ChunkedArray, name: str, rules: CellRules) -> pa.ChunkedArray:
    """Return a column of text with the declared tokens null."""
    tokens = _tokens(rules.missing, name)
    if not tokens:
        return column
    codes = [value for token in tokens if (value := _as_number(token)) is not None]
    found = pc.is_in(column, value_set=pa.array(tokens, pa.string()))
    if codes:
        values = _parsed(column, rules.decimal)
        found = pc.or_(found, pc.is_in(values, value_set=pa.array(codes, pa.float64())))
    return pc.if_else(found, pa.scalar(None, pa.string()), column)


def kind_of(column: pa.ChunkedArray, name: str, rules: CellRules) -> Kind:
    """Tell numbers from words.

    Args:
        column: Text, declared tokens already null.
        name: Of the column.
        rules: As declared.

    Raises:
        InputError: Blank in every row, a mixture of numbers and words, or nearly as many different
            words as rows (an id or free text).
    """
    if column.null_count == len(column):
        raise InputError(f"column {name!r} is blank in every row; leave it out with --drop {name}")
    number = _is_number(column, rules.decimal)
    present = column.is_valid().to_numpy()
    if number[present].all():
        return "numeric"
    hint = "numbers and other text are mixed (declare tokens with --missing, decimal commas with"
    problem = f"column {name!r}: {hint} --decimal, or the column --categorical)"
    if number.any():
        refuse_rows(present & ~number, problem, column)
    levels = pc.count_distinct(column).as_py()
    if levels > max(MANY_LEVELS, 0.5 * present.sum()):
        raise InputError(
            f"column {name!r} holds {levels} different texts in {present.sum()} rows, an id or "
            f"free text; leave it out with --drop {name}, or declare it --categorical"
        )
    return "categorical"


def numeric_cells(column: pa.ChunkedArray, name: str, rules: CellRules) -> pa.Array:
    """Return a column as nullable float64.

    Args:
        column: Text, declared tokens already null.
        name: Of the column.
        rules: As declared.

    Raises:
        InputError: A cell is no number, or looks like a code for "missing".
    """
    wrong = column.is_valid().to_numpy() & ~_is_number(column, rules.decimal)
    hint = "--missing declares tokens for missing values, --decimal the decimal sign"
    refuse_rows(wrong, f"column {name!r} holds what is no number ({hint})", column)
    values = _parsed(column, rules.decimal).to_numpy()
    accepted = [_as_number(token) for token in _tokens(rules.accept, name)]
    codes = _looks_like_code(values) & ~np.isin(values, [v for v in accepted if v is not None])
    hint = f"declare it with --missing {name}=VALUE or, if it is real, --accept {name}=VALUE"
    refuse_rows(codes, f"column {name!r} holds what looks like a code for missing ({hint})", column)
    return pa.array(values, pa.float64(), from_pandas=True)


def text_cells(column: pa.ChunkedArray, name: str, rules: CellRules) -> pa.Array:
    """Return a column as nullable text; whole numbers that a program wrote as floats lose ".0".

    Args:
        column: Text, declared tokens already null.
        name: Of the column.
        rules: As declared.

    Raises:
        InputError: A cell has neither letter nor digit, such as "?" or "-".
    """
    mark = pc.fill_null(pc.invert(pc.match_substring_regex(column, r"[\pL\pN]")), False)
    accepted = pc.is_in(column, value_set=pa.array(_tokens(rules.accept, name), pa.string()))
    wrong = pc.and_(mark, pc.invert(accepted)).to_numpy()
    hint = "declare it with --missing or, if it is a level, --accept"
    refuse_rows(wrong, f"column {name!r} holds a mark instead of a level ({hint})", column)
    if pc.all(pc.match_substring_regex(column, r"^-?\d+\.0$")).as_py():
        column = pc.replace_substring_regex(column, r"\.0$", "")
    return column.combine_chunks()


def _tokens(declared: tuple[str, ...], name: str) -> list[str]:
    """Return the tokens that hold for a column; the rest of `COLUMN=TOKEN` is of other columns."""
    own = [token.removeprefix(f"{name}=") for token in declared]
    return [t for t, whole in zip(own, declared) if t != whole or "=" not in whole]


def _as_number(token: str) -> float | None:
    try:
        return float(token)
    except ValueError:
        return None


def _is_number(column: pa.ChunkedArray, decimal: Decimal) -> np.ndarray:
    return pc.fill_null(pc.match_substring_regex(column, NUMBER[decimal]), False).to_numpy()


def _parsed(column: pa.ChunkedArray, decimal: Decimal) -> pa.ChunkedArray:
    """Return the numbers among the cells as float64, everything else null."""
    number = pa.chunked_array([pa.array(_is_number(column, decimal))])
    text = pc.if_else(number, column.combine_chunks(), pa.scalar(None, pa.string()))
    return pc.replace_substring(text, ",", ".").cast(pa.float64())


def _looks_like_code(values: np.ndarray) -> np.ndarray:
    """Return (rows,) True where a value is all nines or a large power of ten, far from the rest."""
    high, low = np.isin(values, HIGH_CODES), np.isin(values, LOW_CODES)
    rest = values[~(high | low) & ~np.isnan(values)]
    if not len(rest):
        return np.zeros(len(values), bool)
    return (high & (values > FAR * rest.max())) | (low & bool(rest.min() >= 0))
