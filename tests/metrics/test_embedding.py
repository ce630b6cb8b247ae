"""Indicators of collapse against their definitions."""

import math

import numpy as np
import pytest

from fm_med.metrics import (
    collapse_warning,
    effective_rank,
    embedding_scores,
    mean_pairwise_cosine,
)


def random_embedding(rows=30, dim=8):
    return np.random.default_rng(0).normal(loc=0.3, size=(rows, dim))


def cosine_by_definition(embedding):
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine = unit @ unit.T
    return cosine[~np.eye(len(unit), dtype=bool)].mean()


def test_mean_pairwise_cosine():
    embedding = random_embedding()
    assert mean_pairwise_cosine(embedding) == pytest.approx(cosine_by_definition(embedding))
    assert mean_pairwise_cosine(np.ones((5, 3))) == pytest.approx(1.0)
    assert math.isnan(mean_pairwise_cosine(np.ones((1, 3))))


def test_copies_of_a_row_are_no_pairs():
    embedding = random_embedding(4)
    counts = np.array([[2.0], [1.0], [0.0], [1.0]])
    rows = [0, 0, 1, 3]
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    pairs = [unit[a] @ unit[b] for i, a in enumerate(rows) for b in rows[i + 1 :] if a != b]
    assert mean_pairwise_cosine(embedding, multiplicity=counts)[0] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_effective_rank(shape):
    embedding = random_embedding(*shape)
    share = np.linalg.svd(embedding, compute_uv=False)
    share = share / share.sum()
    assert effective_rank(embedding) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_effective_rank_of_known_spaces():
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    assert effective_rank(np.ones((6, 4))) == pytest.approx(1.0, abs=1e-5)
    assert math.isnan(effective_rank(np.zeros((3, 2))))


def test_scores_hold_the_value_inside_the_interval():
    embedding = random_embedding(100)
    for score in embedding_scores(embedding, np.arange(100)).values():
        assert score.low < score.value < score.high
        assert score.n == 100


def test_collapse_warning():
    assert collapse_warning(0.4, 40.0) is None
    assert "cosine 0.980" in collapse_warning(0.98, 40.0)
    assert "rank 1.2" in collapse_warning(0.4, 1.2)
    assert collapse_warning(math.nan, math.nan) is not None
