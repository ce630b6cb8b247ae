"""Read matrices of gene expression; the only importer of scanpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from fm_med.errors import InputError
from fm_med.rna.genes import clean_genes, ensembl_share

Orientation = Literal["auto", "samples_by_genes", "genes_by_samples"]


@dataclass(frozen=True)
class ExpressionMatrix:
    """Expression of some samples.

    Attributes:
        values: (samples, genes) float32, in the file's unit.
        samples: (samples,) ids.
        genes: (genes,) names without Ensembl versions, each once.
        described: Columns that describe the samples (`obs` of an `.h5ad`), one row per sample.
    """

    values: np.ndarray
    samples: list[str]
    genes: list[str]
    described: pa.Table


def read_matrix(
    path: str | Path, *, layer: str | None = None, orientation: Orientation = "auto"
) -> ExpressionMatrix:
    """Read an `.h5ad`, or a CSV, TSV or Parquet table whose first column holds the names.

    Args:
        path: The file.
        layer: Of an `.h5ad`: a layer's name, or "raw"; None takes `X`.
        orientation: Of a table. "auto" goes by the Ensembl ids on one of its sides; a table of
            gene symbols must be declared. An `.h5ad` always has its samples in rows.

    Raises:
        InputError: The file cannot be read, lies on its side, or repeats a sample or a gene.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no matrix at {file}")
    if file.suffix.lower() == ".h5ad":
        values, samples, genes, described = _read_h5ad(file, layer)
        _refuse_transposed(samples, genes, file)
    else:
        if layer is not None:
            raise InputError(f"{file} has no layers; only an .h5ad has")
        values, rows, columns = _read_table(file)
        values, samples, genes = _oriented(values, rows, columns, orientation, file)
        described = pa.table({})
    repeated = len(samples) - len(set(samples))
    if repeated:
        first = next(name for name in samples if samples.count(name) > 1)
        raise InputError(f"{file}: {repeated} samples have the id of another one, such as {first}")
    return ExpressionMatrix(values, samples, clean_genes(genes, str(file)), described)


def marker_genes(
    expression: np.ndarray, classes: Sequence[str], genes: Sequence[str], *, top: int = 10
) -> dict[str, list[str]]:
    """Rank the genes of each class against all others by Wilcoxon's rank sum (scanpy).

    Args:
        expression: (samples, genes), logarithmic.
        classes: (samples,) the class of each sample.
        genes: Names of the columns.
        top: Genes per class.

    Returns:
        The best genes of each class, best first.
    """
    scanpy = _scanpy()
    data = scanpy.AnnData(np.asarray(expression, np.float32))
    data.var_names = list(genes)
    data.obs["class"] = [str(name) for name in classes]
    data.obs["class"] = data.obs["class"].astype("category")
    scanpy.tl.rank_genes_groups(data, "class", method="wilcoxon", n_genes=top)
    names = data.uns["rank_genes_groups"]["names"]
    return {name: [str(gene) for gene in names[name]] for name in names.dtype.names}


def neighbour_map(features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Place rows in two dimensions so that neighbours stay neighbours (UMAP, by scanpy).

    The first call of a process compiles: 11 s of one free core.

    Args:
        features: (rows, dim), four rows or more.
        seed: Of the layout.

    Returns:
        (rows, 2) float32.

    References:
        McInnes et al., "UMAP", 2018.
    """
    scanpy = _scanpy()
    data = scanpy.AnnData(np.asarray(features, np.float32))
    scanpy.pp.neighbors(
        data, n_neighbors=min(15, len(features) - 1), use_rep="X", random_state=seed
    )
    scanpy.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"], np.float32)


def _scanpy() -> Any:
    import scanpy

    return scanpy


def _read_h5ad(file: Path, layer: str | None) -> tuple[np.ndarray, list[str], list[str], pa.Table]:
    try:
        data = _scanpy().read_h5ad(file)
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} cannot be read as .h5ad: {reason}") from None
    if layer == "raw":
        if data.raw is None:
            raise InputError(f"{file} has no raw values")
        values, genes = data.raw.X, list(data.raw.var_names)
    elif layer is None or layer in data.layers:
        values, genes = (data.X if layer is None else data.layers[layer]), list(data.var_names)
    else:
        there = ", ".join(data.layers) or "none"
        raise InputError(f"{file} has no layer {layer!r}; it has {there}")
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    described = pa.Table.from_pandas(data.obs, preserve_index=False)
    return dense.astype(np.float32), [str(name) for name in data.obs_names], genes, described


def _read_table(file: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Return values, names of the rows (first column) and names of the other columns."""
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            table = pq.read_table(file)
        else:
            with file.open(encoding="utf-8") as lines:
                header = lines.readline()
            delimiter = "\t" if "\t" in header else ";" if header.count(";") > 1 else ","
            table = pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(delimiter=delimiter))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as a table: {reason}") from None
    if table.num_columns < 2 or not table.num_rows:
        raise InputError(
            f"{file} holds no matrix: {table.num_rows} rows, {table.num_columns} columns"
        )
    columns = table.column_names[1:]
    numbers = []
    for name, column in zip(columns, table.columns[1:]):  # by place: a name may come twice
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            example = pc.drop_null(column)[:1].to_pylist()
            raise InputError(f"{file}: column {name!r} is not numeric, it holds {example}")
        numbers.append(column.cast(pa.float32()).to_numpy())
    rows = [str(name) for name in table.column(0).to_pylist()]
    return np.stack(numbers, axis=1), rows, columns


def _oriented(
    values: np.ndarray,
    rows: list[str],
    columns: list[str],
    orientation: Orientation,
    file: Path,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return values with samples in rows, the samples' and the genes' names."""
    in_rows, in_columns = ensembl_share(rows), ensembl_share(columns)
    found = {(True, False): "genes_by_samples", (False, True): "samples_by_genes"}.get(
        (in_rows > 0.5, in_columns > 0.5)
    )
    if orientation == "auto":
        if found is None:
            raise InputError(
                f"{file}: neither rows ({rows[0]}, ...) nor columns ({columns[0]}, ...) are "
                "Ensembl ids; state orientation: samples_by_genes or genes_by_samples"
            )
        orientation = found  # type: ignore[assignment]
    elif found is not None and found != orientation:
        raise InputError(f"{file} is declared as {orientation}, but it is {found} by its ids")
    if orientation == "genes_by_samples":
        return np.ascontiguousarray(values.T), columns, rows
    return values, rows, columns


def _refuse_transposed(samples: list[str], genes: list[str], file: Path) -> None:
    """Refuse an `.h5ad` with genes where samples belong."""
    if ensembl_share(samples) > 0.5 > ensembl_share(genes):
        raise InputError(
            f"{file} lies on its side: its rows ({samples[0]}, ...) are genes, but an .h5ad has "
            "samples in rows"
        )
