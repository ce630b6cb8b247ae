"""A cohort from a clinical table: one row per person, or one row per visit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import COLUMN_MEANINGS, CohortCard, CohortWriter
from fm_med.cohort.tables import in_split_order
from fm_med.cohort.writing import free_destination
from fm_med.errors import InputError
from fm_med.sources.ecg_table import SPLIT_NAMES
from fm_med.sources.table_cells import (
    CellRules,
    Kind,
    blanked,
    kind_of,
    numeric_cells,
    text_cells,
)
from fm_med.sources.table_file import column_names, identifiers, read_table, refuse_rows, require
from fm_med.sources.table_outcomes import OutcomeColumns, divide, outcome_columns, strata_of
from fm_med.sources.table_visits import VISIT_TIME, Visits, visit_times

FREE_NAMES = ("age", "sex")  # inputs that may keep a name that every cohort knows
LEVELS_NAMED = 8


@dataclass(frozen=True)
class TableColumns:
    """Which column of the table is what.

    Attributes:
        subject: The person's id; None when every row is another person.
        visit_time: Number or ISO date of a visit; None for one row per person.
        numeric: Inputs that are numbers.
        categorical: Inputs that are levels, also if they are written as numbers.
        inputs: Inputs whose kind is found. If `inputs`, `numeric` and `categorical` are all
            empty, every column without another role is an input.
        drop: Columns to leave out.
        split: Column with train, validation or test.
        outcomes: What is predicted.
    """

    subject: str | None = None
    visit_time: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    split: str | None = None
    outcomes: OutcomeColumns = field(default_factory=OutcomeColumns)

    def other_roles(self) -> list[str]:
        """Return the columns that are read but no inputs."""
        single = (self.subject, self.visit_time, self.split)
        return [*(name for name in single if name is not None), *self.outcomes.names()]

    def input_names(self, there: list[str], source: str) -> list[str]:
        """Return the inputs in the table's order.

        Raises:
            InputError: A column is missing, has two roles, or no input is left.
        """
        named = (*self.inputs, *self.numeric, *self.categorical)
        require([*named, *self.drop, *self.other_roles()], there, Path(source))
        for name in named:
            roles = (self.numeric, self.categorical, self.drop, self.other_roles())
            if sum(name in role for role in roles) > 1:
                raise InputError(f"column {name!r} of {source} is declared for two roles")
        taken = {*self.drop, *self.other_roles()}
        chosen = [name for name in there if (name in named if named else name not in taken)]
        if not chosen:
            raise InputError(f"{source} has no column left to predict from")
        return chosen


def make_table(
    table: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    columns: TableColumns,
    rules: CellRules | None = None,
    units: Mapping[str, str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    stratify: bool = False,
    seed: int = 0,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Path:
    """Convert a table to a cohort with one row per person; missing cells stay null.

    Numbers become float64 columns, levels text; of a table of visits, columns that ever differ
    within a person become lists in the order of time. The metadata of an input's column say so.

    Args:
        table: CSV (any usual delimiter) or Parquet.
        destination: The new cohort's folder.
        columns: Roles of the columns.
        rules: How cells are read; default: a decimal point, and no tokens for missing values.
        units: Units of numeric columns, by name, for the card.
        fractions: Shares of people in train, validation and test, unless there is a split column.
        stratify: Give every split its share of each outcome.
        seed: Of the draw of people.
        delimiter: Of a CSV; None to find it.
        encoding: Of a CSV.

    Returns:
        The cohort's folder.

    Raises:
        InputError: A file, column or cell is missing or not as declared; see `fm_med.sources.
            table_cells`. It names the column, and the values and rows that were seen.
    """
    free_destination(destination)
    columns.outcomes.check()
    names = columns.input_names(
        column_names(table, delimiter=delimiter, encoding=encoding), str(table)
    )
    wanted = [*names, *columns.other_roles()]
    source = read_table(table, wanted, delimiter=delimiter, encoding=encoding)
    rows = _rows(source, columns, names, rules or CellRules())
    splits = _splits(source, columns, rows, (fractions, seed, stratify))
    stated = dict(units or {})
    for name in stated:
        if name not in names:
            raise InputError(f"a unit is given for {name!r}, which is no input of {table}")
    inputs = {name: stated.get(name, "") for name in names}
    card = _card(Path(table), columns, rows, inputs)
    return _write(destination, card, _table(rows, inputs), splits)


def _rows(
    source: pa.Table, columns: TableColumns, names: list[str], rules: CellRules
) -> dict[str, pa.Array]:
    """Return the cohort's columns with one row per person."""
    if columns.subject is None:
        people = pa.chunked_array([pa.array([f"row-{k + 1}" for k in range(source.num_rows)])])
    else:
        people = identifiers(source, columns.subject)
    time = visit_times(source, columns.visit_time) if columns.visit_time else None
    visits = Visits.of(people, time)
    ids = people.take(pa.array(visits.order[visits.first])).combine_chunks()
    rows: dict[str, pa.Array] = {"subject_id": ids, "record_id": ids}
    outcomes = outcome_columns(source, columns.outcomes, rules)
    rows |= {name: visits.once(column, name, people) for name, column in outcomes.items()}
    for name in names:
        if (
            name in rows
            or name == VISIT_TIME
            or (name in COLUMN_MEANINGS and name not in FREE_NAMES)
        ):
            raise InputError(f"an input cannot be named {name!r}: the cohort uses that name")
        rows[name] = visits.per_person(_cells(source, columns, name, rules))
    if time is not None:
        rows[VISIT_TIME] = visits.lists(pa.array(time))
    return rows


def _cells(source: pa.Table, columns: TableColumns, name: str, rules: CellRules) -> pa.Array:
    cells = blanked(source.column(name), name, rules)
    kind: Kind = "numeric" if name in columns.numeric else "categorical"
    if name not in (*columns.numeric, *columns.categorical):
        kind = kind_of(cells, name, rules)
    return (numeric_cells if kind == "numeric" else text_cells)(cells, name, rules)


def _splits(
    source: pa.Table,
    columns: TableColumns,
    rows: dict[str, pa.Array],
    draw: tuple[tuple[float, float, float], int, bool],
) -> np.ndarray:
    """Return the split of each person: as given, or drawn."""
    if columns.split is not None:
        given = source.column(columns.split)
        known = [SPLIT_NAMES.get((text or "").lower()) for text in given.to_pylist()]
        unknown = np.array([split is None for split in known], bool)
        refuse_rows(unknown, f"column {columns.split!r} is not train, validation or test", given)
        return _given_splits(source, columns, rows, known)
    fractions, seed, stratify = draw
    strata = strata_of(rows, columns.outcomes) if stratify else None
    return np.array(divide(rows["subject_id"].to_pylist(), fractions, seed, strata))


def _given_splits(
    source: pa.Table, columns: TableColumns, rows: dict[str, pa.Array], known: list[str | None]
) -> np.ndarray:
    people = identifiers(source, columns.subject).to_pylist() if columns.subject else None
    if people is None:
        return np.array(known)
    split_of: dict[str, str | None] = {}
    for person, split in zip(people, known):
        if split_of.setdefault(person, split) != split:
            raise InputError(f"person {person} is in the splits {split_of[person]} and {split}")
    return np.array([split_of[person] for person in rows["subject_id"].to_pylist()])


def _card(
    table: Path, columns: TableColumns, rows: dict[str, pa.Array], units: dict[str, str]
) -> CohortCard:
    outcomes = columns.outcomes
    meanings = {name: _meaning(rows[name], unit) for name, unit in units.items()}
    meanings |= {name: "class; null when unknown" for name in outcomes.classes}
    if outcomes.target:
        meanings[outcomes.target] = "number to predict; null when unknown"
    if VISIT_TIME in rows:
        meanings[VISIT_TIME] = f"time of each visit, from {columns.visit_time!r} (dates: in days)"
    return CohortCard(
        name=table.stem,
        modality="tabular",
        units="those of its columns",
        classes={name: _levels(rows[name]) for name in outcomes.classes},
        label_sets={"labels": list(outcomes.labels)} if outcomes.labels else {},
        time="time" if outcomes.time else None,
        event="event" if outcomes.time else None,
        follow_up_unit=outcomes.follow_up_unit if outcomes.time else None,
        columns=meanings,
        source=f"{table.name}, {'a person per row' if VISIT_TIME not in rows else 'visits'}",
    )


def _table(rows: dict[str, pa.Array], units: dict[str, str]) -> pa.Table:
    """Return the columns; the metadata of inputs tell their kind, for `TableProcessor`."""
    fields = []
    for name, column in rows.items():
        metadata = None
        if name in units:
            metadata = {"input": _kind(column)} | ({"unit": units[name]} if units[name] else {})
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.table(list(rows.values()), schema=pa.schema(fields))


def _kind(column: pa.Array) -> Kind:
    values = column.type.value_type if pa.types.is_list(column.type) else column.type
    return "numeric" if pa.types.is_floating(values) else "categorical"


def _meaning(column: pa.Array, unit: str) -> str:
    """Say of what kind an input is."""
    is_list = pa.types.is_list(column.type)
    values = column.flatten() if is_list else column
    where = ", one per visit" if is_list else ""
    if _kind(column) == "numeric":
        return f"numeric input{where}{f', {unit}' if unit else ''}"
    levels = _levels(values)
    more = ", ..." if len(levels) > LEVELS_NAMED else ""
    return f"categorical input{where}: {', '.join(levels[:LEVELS_NAMED])}{more}"


def _levels(column: pa.Array) -> list[str]:
    return sorted(pc.unique(column).drop_null().to_pylist())


def _write(
    destination: str | os.PathLike[str],
    card: CohortCard,
    people: pa.Table,
    splits: np.ndarray,
) -> Path:
    """Write the persons split by split; those without follow-up are skipped and listed."""
    known = np.ones(len(splits), bool)
    if card.time:
        valid = pc.and_(people.column("time").is_valid(), people.column("event").is_valid())
        known = valid.to_numpy()
    schema = pa.schema([*people.schema, pa.field("split", pa.string())])
    with CohortWriter(destination, card, schema) as writer:
        for person in people.column("record_id").filter(pa.array(~known)).to_pylist():
            writer.skip(person, "without follow-up")
        for split in in_split_order(np.unique(splits).tolist()):
            writer.write(split, people.filter(pa.array(known & (splits == split))))
    return Path(destination)
