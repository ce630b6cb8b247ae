"""Classification metrics against scikit-learn and their definitions."""

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given
from hypothesis import strategies as st

from fm_med.metrics import accuracy, balanced_accuracy, brier, ece, macro_f1, mcc, mean

PREDICTED = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40
).filter(
    lambda rows: len({number for row in rows for number in row}) > 1  # sklearn warns of one class
)
METRICS = [
    (accuracy, oracle.accuracy_score),
    (macro_f1, lambda y, p: oracle.f1_score(y, p, average="macro", zero_division=0)),
    (mcc, oracle.matthews_corrcoef),
    # Written out: sklearn warns for predicted classes that no row has.
    (balanced_accuracy, lambda y, p: np.mean([(p[y == c] == c).mean() for c in np.unique(y)])),
]


@pytest.mark.parametrize(("ours", "theirs"), METRICS)
@given(rows=PREDICTED)
def test_equals_sklearn(ours, theirs, rows):
    label, prediction = np.array(rows).T
    assert ours(label, prediction) == pytest.approx(theirs(label, prediction), abs=1e-12)


@pytest.mark.parametrize("ours", [metric for metric, _ in METRICS])
@given(rows=PREDICTED, seed=st.integers(0, 1000))
def test_multiplicity_equals_repeated_rows(ours, rows, seed):
    label, prediction = np.array(rows).T
    counts = np.random.default_rng(seed).integers(0, 3, size=(len(rows), 4))
    counts[0] += 1  # no empty resample
    fast = ours(label, prediction, multiplicity=counts.astype(float))
    slow = [ours(np.repeat(label, count), np.repeat(prediction, count)) for count in counts.T]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def probabilities(rows=200, classes=3):
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, rows)
    probability = generator.dirichlet(np.ones(classes), rows)
    return label, probability


def test_brier():
    label, probability = probabilities(classes=2)
    expected = oracle.brier_score_loss(label, probability[:, 1])
    assert brier(label, probability[:, 1]) == pytest.approx(expected)
    assert brier(label, probability) == pytest.approx(2 * expected)


def ece_by_definition(correct, confidence, bins=15):
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def test_ece():
    label, probability = probabilities()
    confidence, correct = probability.max(1), probability.argmax(1) == label
    assert ece(label, probability) == pytest.approx(ece_by_definition(correct, confidence))
    binary = (label == 1).astype(float)
    expected = ece_by_definition(binary, probability[:, 1])
    assert ece(binary, probability[:, 1]) == pytest.approx(expected)
    assert ece(np.ones(4), np.ones(4)) == 0.0


@pytest.mark.parametrize("metric", [brier, ece])
def test_probability_metrics_take_multiplicity(metric):
    label, probability = probabilities(rows=50)
    counts = np.random.default_rng(1).integers(0, 3, size=(50, 4))
    fast = metric(label, probability, multiplicity=counts.astype(float))
    slow = [
        metric(np.repeat(label, count), np.repeat(probability, count, axis=0)) for count in counts.T
    ]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_mean_and_refusal():
    assert mean(np.array([True, False])) == 0.5
    with pytest.raises(ValueError, match="one length"):
        accuracy(np.zeros(3), np.zeros(2))
