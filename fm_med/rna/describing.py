"""What can be told of gene expression in aggregates: genes, units, depth."""

from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.differences import Difference, RowFacts, judged
from fm_med.errors import InputError
from fm_med.rna.storage import decode


def row_facts(table: pa.Table) -> RowFacts:
    """Return how many genes a sample expresses and how strongly."""
    values, _genes, _unit = decode(table)
    expressed = values > 0
    sums = np.where(expressed, values, 0).sum(1, dtype=np.float64)
    return RowFacts(
        numbers={
            "expressed genes (%)": 100 * expressed.mean(1),
            "mean of expressed genes": sums / np.maximum(1, expressed.sum(1)),
            "largest value": values.max(1).astype(np.float64),
        }
    )


def fits(processor: Any, card: Any, table: pa.Table) -> list[Difference]:
    """Compare genes and unit with those that the encoder reads."""
    del card
    _values, genes, unit = decode(table.slice(0, 1))
    share = processor.share_found(genes)
    try:
        processor.in_units(np.zeros((1, 1), np.float32), unit)
        unit_advice = ""
    except InputError:
        unit_advice = f"make the cohort again so that its unit becomes {processor.units}"
    few = share < processor.minimum_share
    advice = "translate the gene names, or take the same annotation" if share < 1 else ""
    if few:
        advice = f"below {processor.minimum_share:.0%} the model refuses; {advice}"
    return [
        judged("units", processor.units, unit, unit_advice),
        judged(
            "genes",
            f"{len(processor.genes):,}",
            f"{share:.1%} of them found",
            advice if share < 0.95 else "",
        ),
    ]


def steps(processor: Any) -> list[str]:
    """Return what an expression processor does."""
    return [
        "Take gene names without Ensembl versions, in the order of `genes`; a missing gene is zero "
        "after scaling.",
        f"Bring the values to {processor.units} (fm_med.rna.units.to_logarithm), computed over all "
        "genes of the sample.",
        f"Then as {type(processor).__name__} does with its settings; for ExpressionProcessor: "
        "subtract `mean` and divide by `scale`, gene by gene.",
    ]


def example(processor: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return what the processor makes of made-up samples of its own genes, half of them silent."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(1.0, 1.5, (rows, len(processor.genes)))
    values *= rng.random(values.shape) < 0.5
    values[:, 0] = 1.0  # at least one is expressed
    made = processor(values.astype(np.float32), processor.genes, unit=processor.units)
    return {name: value.numpy() for name, value in made.items()}
