"""Gene names: without versions, translated by a file, and put into a model's order."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_med.errors import InputError

ENSEMBL = re.compile(r"^(ENS[A-Z]{0,4}G\d{6,})(?:\.\d+)?(_PAR_Y)?$")
MINIMUM_SHARE = 0.8


def clean_genes(names: Sequence[str], source: str) -> list[str]:
    """Strip blanks and Ensembl versions (ENSG00000141510.17 becomes ENSG00000141510).

    Args:
        names: As in the file.
        source: The file's name, for the message.

    Raises:
        InputError: A name is blank or appears twice.
    """
    cleaned = []
    for name in names:
        text = str(name).strip()
        match = ENSEMBL.match(text)
        cleaned.append(match[1] + (match[2] or "") if match else text)
    if "" in cleaned:
        raise InputError(f"{source}: gene {cleaned.index('') + 1} has no name")
    blanks = [name for name in cleaned if len(name.split()) > 1]
    if blanks:
        raise InputError(f"{source}: the gene name {blanks[0]!r} holds a blank")
    repeated = [name for name, count in Counter(cleaned).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 1} more genes" if len(repeated) > 1 else ""
        raise InputError(
            f"{source}: the gene {repeated[0]} appears {cleaned.count(repeated[0])} times{more}; "
            "keep one column per gene, for example their sum"
        )
    return cleaned


def ensembl_share(names: Sequence[str]) -> float:
    """Return the share of names that are Ensembl gene ids."""
    return sum(bool(ENSEMBL.match(str(name).strip())) for name in names) / max(1, len(names))


def read_map(path: str | Path) -> dict[str, str]:
    """Read a table of two columns, from the names in the data to the names to use.

    Args:
        path: CSV or TSV with a header; further columns are ignored.

    Raises:
        InputError: The file is missing, has one column, or gives one name two meanings.
    """
    rows = _rows(Path(path))
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) < 2:
            raise InputError(f"{path}: line {number} has {len(row)} column, expected two")
        old, new = (clean_genes([cell], f"{path} line {number}")[0] for cell in row[:2])
        if found.setdefault(old, new) != new:
            raise InputError(f"{path}: {old} is mapped to {found[old]} and to {new}")
    return found


def translate(genes: Sequence[str], mapping: dict[str, str], source: str) -> list[str | None]:
    """Return each gene's new name; None where the map has none, or another gene has it already.

    Raises:
        InputError: The map knows none of the genes.
    """
    taken: set[str] = set()
    translated: list[str | None] = []
    for gene in genes:
        name = mapping.get(gene)
        name = None if name in taken else name
        if name is not None:
            taken.add(name)
        translated.append(name)
    if not taken:
        raise InputError(f"{source}: the gene map knows none of its genes, such as {genes[0]}")
    return translated


def read_lengths(path: str | Path, genes: Sequence[str]) -> np.ndarray:
    """Read gene lengths in bases from a table of two columns, in the order of `genes`.

    Raises:
        InputError: The file is missing, a length is not a positive number, or a gene has none.
    """
    lengths: dict[str, float] = {}
    for number, row in enumerate(_rows(Path(path)), start=2):
        try:
            value = float(row[1])
        except (ValueError, IndexError):
            value = 0.0
        if not value > 0:
            raise InputError(f"{path}: line {number} has no length above 0: {','.join(row)}")
        lengths[clean_genes([row[0]], str(path))[0]] = value
    missing = [gene for gene in genes if gene not in lengths]
    if missing:
        raise InputError(f"{path} has no length of {len(missing)} genes, first {missing[0]}")
    return np.array([lengths[gene] for gene in genes])


def align(genes: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return (wanted,) the place of each wanted gene among `genes`, -1 where it is missing."""
    place = {gene: index for index, gene in enumerate(genes)}
    return np.array([place.get(gene, -1) for gene in wanted], np.int64)


def _rows(path: Path) -> list[list[str]]:
    """Return the rows below the header."""
    if not path.is_file():
        raise InputError(f"no table at {path}")
    with path.open(newline="", encoding="utf-8") as file:
        delimiter = "\t" if "\t" in file.readline() else ","
        file.seek(0)
        return [row for row in csv.reader(file, delimiter=delimiter) if row][1:]
