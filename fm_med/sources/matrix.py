"""A cohort from a matrix of gene expression and a table that describes its samples."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.cohort import COLUMN_MEANINGS, CohortCard, CohortWriter
from fm_med.cohort.writing import free_destination
from fm_med.errors import InputError
from fm_med.rna.counts import ExpressionMatrix, Orientation, read_matrix
from fm_med.rna.genes import read_lengths, read_map, translate
from fm_med.rna.storage import encode, expression_fields
from fm_med.rna.units import UNITS, check_units, to_logarithm
from fm_med.sources.ecg_table import draw_splits
from fm_med.sources.table_file import booleans, identifiers, numbers, read_table, refuse_rows

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class SampleColumns:
    """Which column of the description holds what; None where there is none.

    Attributes:
        sample: The sample's id, as in the matrix; None for an `.h5ad`, whose `obs` is in order.
        subject: The person; None when every sample is another person.
        classes: Columns of one class per sample.
        labels: Columns of truth values.
        time: Follow-up; samples where it is blank are left out.
        event: True where the event was observed.
        age: In years.
        sex: female or male.
    """

    sample: str | None = None
    subject: str | None = None
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    time: str | None = None
    event: str | None = None
    age: str | None = None
    sex: str | None = None

    def names(self) -> list[str]:
        """Return all columns to read."""
        single = (self.sample, self.subject, self.time, self.event, self.age, self.sex)
        return [name for name in (*single, *self.classes, *self.labels) if name is not None]


def make_matrix(  # noqa: PLR0913 (what a user may state about the files)
    matrix: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    unit: str,
    columns: SampleColumns,
    table: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    orientation: Orientation = "auto",
    gene_map: str | os.PathLike[str] | None = None,
    gene_lengths: str | os.PathLike[str] | None = None,
    follow_up_unit: str | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Path:
    """Convert a matrix and the description of its samples.

    Args:
        matrix: `.h5ad`, CSV, TSV or Parquet; see `fm_med.rna.counts.read_matrix`.
        destination: The new cohort's folder.
        unit: Of the values, one of `UNITS`; checked. Stored on a logarithmic scale.
        columns: Columns of the description.
        table: CSV or Parquet with one row per sample; None takes the `obs` of an `.h5ad`.
        layer: Of an `.h5ad`.
        orientation: Of a table.
        gene_map: Table of two columns, from the matrix's gene names to those to store.
        gene_lengths: Table of two columns, gene and bases, to make TPM of counts.
        follow_up_unit: Unit of the follow-up: days, months or years.
        fractions: Shares of people in train, validation and test.
        seed: Of the draw of people.

    Returns:
        The cohort's folder.

    Raises:
        InputError: A file, column, sample or gene is missing or not as declared.
    """
    free_destination(destination)
    read = read_matrix(Path(matrix), layer=layer, orientation=orientation)
    check_units(read.values, unit, str(matrix))
    genes, kept = _genes(read, gene_map, str(matrix))
    lengths = None
    if gene_lengths is not None:
        if unit != "counts":
            raise InputError(f"gene lengths are for counts, the matrix is declared as {unit}")
        lengths = read_lengths(Path(gene_lengths), genes)
    values, stored = to_logarithm(read.values[:, kept], unit, lengths=lengths)
    source = _description(read, table, columns)
    rows, label_sets = _rows(source, columns, read.samples)
    skipped = _without_follow_up(rows)
    card = CohortCard(
        name=Path(matrix).stem,
        modality="rna",
        units=stored,
        classes={name: _classes(rows[name]) for name in columns.classes},
        label_sets=label_sets,
        time="time" if columns.time else None,
        event="event" if columns.time else None,
        follow_up_unit=follow_up_unit if columns.time else None,
        columns={name: "class of the sample; null when unknown" for name in columns.classes},
        source=f"{Path(matrix).name} ({unit}: {UNITS[unit].meaning})",
    )
    people = np.array(rows["subject_id"].to_pylist())[~skipped]
    splits = np.array(draw_splits(people.tolist(), fractions, seed))
    described = pa.table(rows).filter(pa.array(~skipped))
    fields = [*described.schema, pa.field("split", pa.string())]
    schema = pa.schema([*fields, *expression_fields(genes, stored)])
    with CohortWriter(destination, card, schema) as writer:
        for sample in np.array(read.samples)[skipped]:
            writer.skip(str(sample), "without follow-up")
        _write(writer, described, values[~skipped], splits)
    return Path(destination)


def _write(
    writer: CohortWriter, described: pa.Table, values: np.ndarray, splits: np.ndarray
) -> None:
    """Write the samples split by split, some at a time."""
    for split in ("train", "validation", "test"):
        places = np.flatnonzero(splits == split)
        for first in range(0, len(places), ROWS_AT_ONCE):
            some = places[first : first + ROWS_AT_ONCE]
            part = described.take(pa.array(some))
            for name, column in encode(values[some]).items():
                part = part.append_column(name, column)
            writer.write(split, part)


def _genes(
    read: ExpressionMatrix, gene_map: str | os.PathLike[str] | None, source: str
) -> tuple[list[str], np.ndarray]:
    """Return the names to store and the columns they come from."""
    if gene_map is None:
        return read.genes, np.arange(len(read.genes))
    names = translate(read.genes, read_map(Path(gene_map)), source)
    kept = np.flatnonzero([name is not None for name in names])
    return [name for name in names if name is not None], kept


def _description(
    read: ExpressionMatrix, table: str | os.PathLike[str] | None, columns: SampleColumns
) -> pa.Table:
    """Return the description as text, one row per sample of the matrix, in its order."""
    if table is None:
        names = [name for name in columns.names() if name != columns.sample]
        there = read.described.column_names
        for name in names:
            if name not in there:
                has = ", ".join(there) or "none; give a table"
                raise InputError(f"the samples have no column {name!r}; there are {has}")
        text = {n: _text(read.described.column(n)) for n in names}
        return pa.table(text) if text else pa.table({"sample": read.samples})
    if columns.sample is None:
        raise InputError(f"state which column of {table} holds the samples' ids")
    source = read_table(table, columns.names())
    ids = identifiers(source, columns.sample).to_pylist()
    place = {sample: row for row, sample in enumerate(ids)}
    if len(place) < len(ids):
        raise InputError(f"{table}: column {columns.sample!r} holds a sample more than once")
    missing = [sample for sample in read.samples if sample not in place]
    if missing:
        raise InputError(
            f"{table} does not describe {len(missing)} of the {len(read.samples)} samples of the "
            f"matrix, first {missing[0]}; it has for example {ids[0]}"
        )
    return source.take(pa.array([place[sample] for sample in read.samples]))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of `obs` (often a dictionary) as text, as from a CSV."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts = [None if v is None or v != v or v == "" else str(v) for v in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _rows(
    source: pa.Table, columns: SampleColumns, samples: list[str]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the cohort's columns but for the expression, and its label sets."""
    for name in (*columns.classes, *columns.labels):
        if name in COLUMN_MEANINGS:
            raise InputError(f"a class or label cannot be named {name!r}: every cohort uses it")
    subjects = identifiers(source, columns.subject) if columns.subject else pa.array(samples)
    rows: dict[str, Any] = {"subject_id": subjects, "record_id": pa.array(samples)}
    if columns.age:
        rows["age"] = pa.array(numbers(source, columns.age), pa.float32(), from_pandas=True)
    if columns.sex:
        words = {"f": "female", "female": "female", "m": "male", "male": "male"}
        known = [words.get((text or "").lower()) for text in source.column(columns.sex).to_pylist()]
        rows["sex"] = pa.array(known, pa.string())
    rows |= {name: source.column(name) for name in columns.classes}
    rows |= {name: booleans(source, name) for name in columns.labels}
    if columns.time and columns.event:
        time = numbers(source, columns.time)
        refuse_rows(time < 0, f"follow-up time {columns.time!r} is negative")
        rows |= {"time": pa.array(time, from_pandas=True), "event": booleans(source, columns.event)}
    elif columns.time or columns.event:
        raise InputError("a follow-up needs both a time column and an event column")
    return rows, {"labels": list(columns.labels)} if columns.labels else {}


def _without_follow_up(rows: dict[str, Any]) -> np.ndarray:
    """Return (samples,) True where a follow-up is asked for and missing, or ends at time zero."""
    skipped = np.zeros(len(rows["subject_id"]), bool)
    if "time" in rows:
        time = rows["time"].to_numpy(zero_copy_only=False)
        known = ~np.isnan(time) & (time > 0) & rows["event"].is_valid().to_numpy()
        skipped = ~known
    return skipped


def _classes(column: pa.ChunkedArray) -> list[str]:
    return sorted({name for name in column.to_pylist() if name is not None})
