"""AUROC and average precision against their definitions and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fm_med.metrics import auroc, average_precision, evaluable, macro_auroc

TIED_ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def auroc_by_definition(label, score):
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]]
    return float(np.mean(pairs))


@given(TIED_ROWS)
def test_auroc_is_its_definition(rows):
    label, score = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    assert auroc(label, score) == pytest.approx(auroc_by_definition(label, score), abs=1e-12)
    assert auroc(label, -score) == pytest.approx(1 - auroc(label, score), abs=1e-12)


@given(TIED_ROWS)
def test_average_precision_is_that_of_sklearn(rows):
    label, score = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    expected = average_precision_score(label, score)
    assert average_precision(label, score) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("statistic", [auroc, average_precision])
@given(rows=TIED_ROWS, seed=st.integers(0, 1000))
def test_multiplicity_equals_repeated_rows(statistic, rows, seed):
    label, score = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    counts = np.random.default_rng(seed).integers(0, 4, size=(len(rows), 3))
    fast = statistic(label, score, multiplicity=counts.astype(float))
    for value, count in zip(fast, counts.T, strict=True):
        drawn = np.repeat(np.arange(len(rows)), count)
        if len(drawn):
            slow = statistic(label[drawn], score[drawn])
            assert value == pytest.approx(slow, abs=1e-12, nan_ok=True)
        else:
            assert math.isnan(value)


def test_macro_auroc_is_that_of_sklearn_and_skips_labels_of_one_class():
    generator = np.random.default_rng(0)
    label = generator.random((300, 4)) < 0.2
    score = np.round(generator.normal(size=(300, 4)) + label, 1)
    assert macro_auroc(label, score) == pytest.approx(roc_auc_score(label, score, average="macro"))
    label[:, 2] = False
    assert evaluable(label).tolist() == [True, True, False, True]
    kept = [0, 1, 3]
    assert macro_auroc(label, score) == pytest.approx(roc_auc_score(label[:, kept], score[:, kept]))


def test_unknown_labels_are_left_out():
    label = np.array([1, 0, np.nan, 1, 0, np.nan])
    score = np.array([3.0, 1.0, 9.0, 2.0, 2.0, -9.0])
    assert auroc(label, score) == auroc(label[[0, 1, 3, 4]], score[[0, 1, 3, 4]]) == 0.875


def test_one_class_is_not_a_number_without_warning():
    assert math.isnan(auroc(np.ones(3), np.arange(3.0)))
    assert math.isnan(average_precision(np.zeros(3), np.arange(3.0)))
    assert math.isnan(macro_auroc(np.ones((3, 2)), np.zeros((3, 2))))


def test_broken_scores_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auroc(np.array([0, 1]), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="must match"):
        macro_auroc(np.zeros((3, 2)), np.zeros((3, 1)))
