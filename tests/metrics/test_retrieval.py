"""Retrieval over distinct reports."""

import numpy as np
import pytest

from fm_med.metrics import recall_at_k, retrieval_rank, retrieval_scores


def rank_by_definition(query, key, query_group, key_group):
    ranks = []
    for q, group in zip(query, query_group, strict=True):
        cosine = key @ q / np.linalg.norm(key, axis=1) / np.linalg.norm(q)
        order = np.argsort(-cosine)
        ranks.append(next(i for i, k in enumerate(order) if key_group[k] == group))
    return np.array(ranks)


@pytest.mark.parametrize("chunk_size", [3, 512])
def test_rank_is_its_definition(chunk_size):
    generator = np.random.default_rng(0)
    query, key = generator.normal(size=(20, 4)), generator.normal(size=(35, 4))
    query_group, key_group = np.arange(20) % 7, np.arange(35) % 7
    rank = retrieval_rank(query, key, query_group, key_group, chunk_size=chunk_size)
    expected = rank_by_definition(query, key, query_group, key_group)
    np.testing.assert_array_equal(rank, expected)
    recall = recall_at_k(query, key, query_group, key_group, 3)
    assert recall == (expected < 3).mean()


def test_identical_reports_are_one_entry_of_the_gallery():
    """Ten normal ECGs share one report; each is found at rank 1 although nine others match."""
    report = np.eye(3)[[0] * 10 + [1, 2]]
    report_id = np.array([0] * 10 + [1, 2])
    scores = retrieval_scores(report, report, report_id, [f"p{i}" for i in range(12)], ks=(1,))
    assert scores["recall_at_1"].value == 1.0
    assert scores["recall_at_1"].n == 12
    assert scores["signal_from_report_recall_at_1"].value == 1.0
    assert scores["signal_from_report_recall_at_1"].n == 3


def test_collapsed_space_finds_nothing():
    generator = np.random.default_rng(1)
    point = np.ones((50, 16)) + 1e-9 * generator.normal(size=(50, 16))
    assert recall_at_k(point, point, np.arange(50), np.arange(50), 10) == 0.0


def test_query_without_own_key_is_refused():
    with pytest.raises(ValueError, match="1 of 2 queries"):
        retrieval_rank(np.eye(2), np.eye(2), np.array([0, 5]), np.array([0, 1]))
