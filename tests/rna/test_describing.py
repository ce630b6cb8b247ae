"""Aggregates of expression, and whether genes and unit are those of the model."""

import numpy as np
import pyarrow as pa
import pytest

from fm_med.rna.describing import fits, row_facts, steps
from fm_med.rna.processor import ExpressionProcessor
from fm_med.rna.storage import encode, expression_fields

GENES = [f"G{k}" for k in range(10)]
VALUES = np.array([[0.0] * 5 + [2.0] * 5, [1.0] * 10], np.float32)


def table(genes=GENES, unit="log1p_tpm"):
    columns = encode(VALUES[:, : len(genes)])
    return pa.table(list(columns.values()), schema=pa.schema(expression_fields(genes, unit)))


def processor(genes=GENES):
    return ExpressionProcessor(
        genes=genes, units="log1p_tpm", mean=[0.0] * len(genes), scale=[1.0] * len(genes)
    )


def test_depth_of_each_sample():
    numbers = row_facts(table()).numbers
    assert numbers["expressed genes (%)"].tolist() == [50.0, 100.0]
    assert numbers["mean of expressed genes"].tolist() == [2.0, 1.0]
    assert numbers["largest value"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("found", "topic", "words"),
    [
        (table(GENES[:7]), "genes", "below 80% the model refuses"),
        (table([*GENES[:9], "other"]), "genes", "translate the gene names"),
        (table(unit="log1p_cp10k"), "units", "its unit becomes log1p_tpm"),
    ],
)
def test_missing_genes_and_another_unit_are_told(found, topic, words):
    lines = {line.topic: line for line in fits(processor(), None, found)}
    assert [line.topic for line in lines.values() if line.state == "attention"] == [topic]
    assert words in lines[topic].advice


def test_what_can_be_converted_is_no_difference():
    assert {line.state for line in fits(processor(), None, table())} == {"ok"}
    assert fits(processor(), None, table(unit="log2_tpm1"))[0].state == "ok"
    assert "log1p_tpm" in " ".join(steps(processor()))
