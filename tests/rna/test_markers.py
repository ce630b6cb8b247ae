"""Marker genes: found where they were planted, and the attributions by their definitions."""

import numpy as np
import pytest
import torch

from fm_med.rna.gene_attention import GeneAttentionConfig, GeneAttentionModel
from fm_med.rna.markers import (
    attention_times_input,
    find_markers,
    gradient_times_input,
    places,
)

GENES = [f"g{number}" for number in range(24)]
CLASSES = ("x", "y", "z", "alone")


def planted(rows=60):
    """Class k has more of genes 3k to 3k + 2; the last class has one row."""
    generator = np.random.default_rng(0)
    label = np.arange(rows) % 3
    values = generator.normal(0, 0.3, (rows, 24))
    for number in range(3):
        values[label == number, 3 * number : 3 * number + 3] += 2
    label[0] = 3
    values -= values.mean(0)
    return torch.from_numpy(values.astype(np.float32)), label


def encoder():
    torch.manual_seed(0)
    sizes = {"num_genes": 24, "num_tokens": 4, "hidden_size": 8, "num_heads": 2}
    return GeneAttentionModel(GeneAttentionConfig(**sizes, dropout=0.0)).eval()


def linear(weight):
    return lambda x: x @ torch.from_numpy(weight.T).to(x)


def test_planted_genes_come_first_by_every_method():
    expression, label = planted()
    weight = np.zeros((4, 24))
    for number in range(3):
        weight[number, 3 * number : 3 * number + 3] = 1
    found = find_markers(encoder(), linear(weight), expression, label, genes=GENES, classes=CLASSES)
    assert dict(found.rows) == {"x": 19, "y": 20, "z": 20}
    assert found.methods == ("gradient", "attention") and found.top == 6
    for number, name in enumerate("xyz"):
        own = {f"g{3 * number + k}" for k in range(3)}
        for method in ("gradient", "attention", "wilcoxon"):
            assert set(found.first(method, name, 3)) == own, method
        assert found.overlap("gradient", name) >= 0.5
        assert 0.3 < found.spearman("gradient", name) <= 1
    table = found.table()
    assert len({len(column) for column in table.values()}) == 1
    first = (table["class"] == "y") & (table["rank_wilcoxon"] == 1)
    assert table["gene"][first].tolist() == found.first("wilcoxon", "y", 1)
    kept = np.min([table[f"rank_{m}"] for m in ("gradient", "attention", "wilcoxon")], axis=0)
    assert kept.max() <= 6


def test_a_gene_that_is_low_in_a_class_comes_last():
    expression, label = planted()
    weight = np.zeros((4, 24))
    weight[0, 3] = -5.0  # y's gene: its lack speaks for x
    found = find_markers(encoder(), linear(weight), expression, label, genes=GENES, classes=CLASSES)
    assert found.first("gradient", "x", 24)[-1] == "g3"


def test_gradient_times_input_of_a_linear_model():
    """There it is x times the class's weight less the mean weight."""
    expression, label = planted()
    weight = np.random.default_rng(1).normal(size=(4, 24)).astype(np.float32)
    found = gradient_times_input(linear(weight), expression, label, 4)
    x = expression.numpy().astype(np.float64)
    for number in range(4):
        expected = x[label == number].mean(0) * (weight[number] - weight.mean(0))
        np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-6)


def test_attention_is_followed_back_through_the_blocks():
    """The naive definition: one matrix product per block, row by row."""
    expression, label = planted(9)
    model = encoder()
    found = attention_times_input(model, expression, label, 4)
    weight = model.tokens.weight.detach().reshape(4, 8, 24)
    expected = np.zeros((4, 24))
    for row, number in zip(expression, label):
        with torch.no_grad():
            *blocks, pooling = model(row[None], output_attentions=True).attentions
        flow = torch.eye(4)
        for weights in blocks:
            flow = (0.5 * torch.eye(4) + 0.5 * weights[0].mean(0)) @ flow
        share = pooling[0, 0] @ flow
        assert float(share.sum()) == pytest.approx(1, abs=1e-5)
        expected[number] += ((share @ weight.norm(dim=1)) * row.abs())[0].numpy()
    expected /= np.maximum(np.bincount(label, minlength=4), 1)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_places_undo_an_order():
    assert places(np.array([2, 0, 1])).tolist() == [1, 2, 0]
