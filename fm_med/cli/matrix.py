"""`fm-med cohort matrix`: make a cohort from a matrix of gene expression."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fm_med.cli.command import Command
from fm_med.cli.made import MADE_JSON, tell_made
from fm_med.errors import InputError
from fm_med.settings import argument, required, setting


@dataclass
class Matrix:
    """Settings of `fm-med cohort matrix`."""

    destination: str = argument("folder of the new cohort")
    matrix: str = required(".h5ad, CSV, TSV or Parquet; one sample per row or per column")
    unit: Literal[
        "counts", "tpm", "fpkm", "log1p_tpm", "log2_tpm1", "log1p_cp10k", "log2_normalised"
    ] = required("of the values; checked against them")
    table: str | None = setting(None, "CSV or Parquet that describes the samples; default: obs")
    sample: str | None = setting(None, "its column with the samples' ids")
    subject: str | None = setting(None, "column with the person's id; default: one per sample")
    class_column: list[str] | None = setting(None, "one or more columns of one class per sample")
    label: list[str] | None = setting(None, "one or more columns of truth values")
    time: str | None = setting(None, "column with the follow-up time")
    event: str | None = setting(None, "column that is true where the event was observed")
    follow_up_unit: str | None = setting(None, "unit of --time: days, months or years")
    age: str | None = setting(None, "column with the age in years")
    sex: str | None = setting(None, "column with the sex")
    layer: str | None = setting(None, "layer of an .h5ad, or raw")
    orientation: Literal["auto", "samples_by_genes", "genes_by_samples"] = setting(
        "auto", "of a CSV or Parquet; found by itself from Ensembl ids"
    )
    gene_map: str | None = setting(None, "table from the matrix's gene names to those to store")
    gene_lengths: str | None = setting(None, "table of gene and length in bases, for counts")
    seed: int = setting(0, "seed of the split by person")
    json: bool = setting(False, MADE_JSON)


def matrix(settings: Matrix) -> None:
    """Convert a matrix."""
    from fm_med.sources.matrix import SampleColumns, make_matrix

    if settings.time and not settings.follow_up_unit:
        raise InputError(f"state the unit of {settings.time!r} with --follow_up_unit")
    folder = make_matrix(
        settings.matrix,
        Path(settings.destination),
        unit=settings.unit,
        columns=SampleColumns(
            sample=settings.sample,
            subject=settings.subject,
            classes=tuple(settings.class_column or ()),
            labels=tuple(settings.label or ()),
            time=settings.time,
            event=settings.event,
            age=settings.age,
            sex=settings.sex,
        ),
        table=settings.table,
        layer=settings.layer,
        orientation=settings.orientation,
        gene_map=settings.gene_map,
        gene_lengths=settings.gene_lengths,
        follow_up_unit=settings.follow_up_unit,
        seed=settings.seed,
    )
    tell_made(folder, as_json=settings.json)


MATRIX_COMMANDS = {
    "cohort matrix": Command(Matrix, matrix, "make a cohort from a matrix of gene expression")
}
