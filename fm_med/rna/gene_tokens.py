"""The tokens and medians of genes beside a foreign checkpoint, as JSON or as a list of names."""

import json
from pathlib import Path
from typing import Any

from fm_med.errors import InputError
from fm_med.rna.genes import clean_genes

TOKEN_FILES = ("token_dictionary.json", "tokens.json", "vocab.txt")
MEDIAN_FILES = ("gene_median_dictionary.json", "gene_medians.json", "medians.json")
PADS, STARTS, ENDS = ("<pad>", "[PAD]"), ("<cls>", "[CLS]"), ("<eos>", "[SEP]")
# A transcriptome says nothing of these.
OTHERS = ("<mask>", "[MASK]", "<unk>", "[UNK]")
NO_MEDIANS = "none"


def read_gene_tokens(folder: Path, tokens: str | None, medians: str | None) -> dict[str, Any]:
    """Read what a `RankValueProcessor` needs to write sentences for a checkpoint.

    Args:
        folder: Of the checkpoint.
        tokens: File from genes to tokens: JSON, or text with one name per line whose token is the
            number of its line, from zero. None takes one of `TOKEN_FILES` in the folder. A path is
            looked for in the folder first.
        medians: JSON from genes to their medians where they are expressed, in samples of sum ten
            thousand; None takes one of `MEDIAN_FILES`; "none" ranks genes by their expression as it
            is. Genes without a median are not read.

    Returns:
        `genes`, `tokens`, `medians`, `pad_token`, `first_token` and `last_token`.

    Raises:
        InputError: A file is missing or is no such table. Pickles are never read.
    """
    path = _find(folder, tokens, TOKEN_FILES, "tokens")
    token_of = _tokens(path)
    special = {
        place: next((token_of[name] for name in names if name in token_of), None)
        for place, names in (("pad", PADS), ("first", STARTS), ("last", ENDS))
    }
    named = [name for name in token_of if name not in (*PADS, *STARTS, *ENDS, *OTHERS)]
    gene_of = dict(zip(clean_genes(named, path.name), named, strict=True))
    if medians == NO_MEDIANS:
        median_of = dict.fromkeys(gene_of, 1.0)
    else:
        file = _find(folder, medians, MEDIAN_FILES, "medians")
        stated = _numbers(file)
        median_of = dict(zip(clean_genes(list(stated), file.name), stated.values(), strict=True))
    genes = [gene for gene in gene_of if gene in median_of]
    if not genes:
        raise InputError(
            f"{path}: none of its genes, such as {next(iter(gene_of), '')}, has a median"
        )
    return {
        "genes": genes,
        "tokens": [token_of[gene_of[gene]] for gene in genes],
        "medians": [float(median_of[gene]) for gene in genes],
        "pad_token": special["pad"] or 0,
        "first_token": special["first"],
        "last_token": special["last"],
    }


def _find(folder: Path, stated: str | None, usual: tuple[str, ...], what: str) -> Path:
    """Return the file that is stated, or the usual one of a folder."""
    names = usual if stated is None else (stated,)
    for name in names:
        for path in (folder / name, Path(name)):
            if path.suffix in (".pkl", ".pickle"):
                raise InputError(
                    f"{what}: {name} is a pickle, which could run any program and is not read; "
                    "write it as JSON where you trust it"
                )
            if path.is_file() and (stated is not None or path.parent == folder):
                return path
    there = ", ".join(sorted(path.name for path in folder.glob("*.pkl")))
    hint = f"; its {there} could run any program and is not read, write it as JSON" if there else ""
    kind = "its model type is 'bert', which is taken for genes, but " if stated is None else ""
    raise InputError(
        f"{folder}: {kind}it has no {' or '.join(names)}; name a file of its genes' {what} with "
        f"--processor_settings '{{\"{what}\": ...}}'{hint}"
    )


def _tokens(path: Path) -> dict[str, int]:
    """Return the token of every name."""
    if path.suffix != ".json":
        names = path.read_text(encoding="utf-8").split()
        if len(set(names)) < len(names):
            raise InputError(f"{path} lists a name twice")
        return {name: number for number, name in enumerate(names)}
    found = _numbers(path)
    wrong = [name for name, token in found.items() if token != int(token) or token < 0]
    if wrong:
        raise InputError(f"{path}: the token of {wrong[0]!r} is {found[wrong[0]]}, no whole number")
    return {name: int(token) for name, token in found.items()}


def _numbers(path: Path) -> dict[str, float]:
    """Read a JSON object from names to numbers."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in found.values()
    ):
        raise InputError(f"{path} is no JSON object from genes to numbers")
    return found
