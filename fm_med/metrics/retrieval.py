"""Finding the report of a recording, and the recording of a report, in the shared space."""

from collections.abc import Sequence

import numpy as np

from fm_med.metrics.classification import mean
from fm_med.metrics.interval import Interval, bootstrap


def retrieval_rank(
    query: np.ndarray,
    key: np.ndarray,
    query_group: np.ndarray,
    key_group: np.ndarray,
    *,
    chunk_size: int = 512,
) -> np.ndarray:
    """Return how many foreign keys come before the best own key of each query.

    A key is own when its group is the query's. A foreign key of equal similarity comes before:
    a collapsed space, in which all similarities are equal, thus finds nothing.

    Args:
        query: (queries, dim) embeddings, of any length (cosine similarity is used).
        key: (keys, dim) embeddings of the gallery.
        query_group: (queries,) ids.
        key_group: (keys,) ids.
        chunk_size: Queries compared at once; memory is `chunk_size` x keys.

    Returns:
        (queries,) int64, 0 where an own key is nearest.

    Raises:
        ValueError: A query has no own key in the gallery.
    """
    query, key = _unit(query), _unit(key)
    query_group, key_group = np.asarray(query_group), np.asarray(key_group)
    missing = ~np.isin(query_group, key_group)
    if missing.any():
        raise ValueError(f"{int(missing.sum())} of {len(query)} queries have no own key")
    rank = np.empty(len(query), dtype=np.int64)
    for start in range(0, len(query), chunk_size):
        part = slice(start, start + chunk_size)
        similarity = query[part] @ key.T
        own = query_group[part, None] == key_group
        best = np.where(own, similarity, -np.inf).max(1, keepdims=True)
        # Products of equal rows may differ in their last bits: count those as equal.
        rank[part] = ((similarity >= best - 1e-6) & ~own).sum(1)
    return rank


def recall_at_k(
    query: np.ndarray,
    key: np.ndarray,
    query_group: np.ndarray,
    key_group: np.ndarray,
    k: int,
) -> float:
    """Share of queries that have an own key among their `k` nearest keys.

    Arguments and errors as in `retrieval_rank`. Report from recording: the queries are the
    recordings, the gallery holds each DISTINCT report of the split once (identical reports cannot
    be told apart, and counting them as misses would punish the most common finding, a normal
    ECG). Recording from report: the queries are the distinct reports, the gallery all recordings,
    any recording with that report is a hit.
    """
    return float((retrieval_rank(query, key, query_group, key_group) < k).mean())


def retrieval_scores(
    signal_embedding: np.ndarray,
    report_embedding: np.ndarray,
    report_id: np.ndarray,
    subject_id: Sequence[str] | np.ndarray,
    *,
    ks: tuple[int, ...] = (1, 10),
) -> dict[str, Interval]:
    """Return recall at k in both directions over the distinct reports, with intervals.

    Args:
        signal_embedding: (rows, dim) of the recordings.
        report_embedding: (rows, dim) of each recording's report.
        report_id: (rows,) equal for equal report texts.
        subject_id: (rows,) patients.
        ks: Numbers of nearest keys looked at.

    Returns:
        ``recall_at_k``, the report found from the recording (patients resampled, gallery fixed),
        and ``signal_from_report_recall_at_k``, the reverse (distinct reports resampled).
    """
    distinct, first = np.unique(np.asarray(report_id), return_index=True)
    report = np.asarray(report_embedding)[first]
    forward = retrieval_rank(signal_embedding, report, report_id, distinct)
    reverse = retrieval_rank(report, signal_embedding, distinct, report_id)
    scores = {f"recall_at_{k}": bootstrap(mean, subject_id, forward < k) for k in ks}
    return scores | {
        f"signal_from_report_recall_at_{k}": bootstrap(mean, distinct, reverse < k) for k in ks
    }


def _unit(embedding: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length one, float32; a zero row stays zero."""
    embedding = np.asarray(embedding, dtype=np.float32)
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.maximum(length, np.finfo(np.float32).tiny)
