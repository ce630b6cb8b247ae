"""Whether an embedding space is used or has collapsed."""

from collections.abc import Sequence

import numpy as np

from fm_med.metrics.interval import Interval, bootstrap

# Above this mean cosine, or below this effective rank, rows can hardly be told apart. A run that
# aligns positives only reaches a cosine of 1.000, contrastive runs stay at 0.3 to 0.6.
COLLAPSED_COSINE = 0.9
COLLAPSED_RANK = 2.0


def mean_pairwise_cosine(
    embedding: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Mean cosine over all pairs of different rows; 1 means collapsed to a point.

    In O(rows dim), from the sum of the unit vectors:
    :math:`(\lVert \sum_i u_i \rVert^2 - n) / (n (n - 1))`.

    Args:
        embedding: (rows, dim), rows of any length.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.
            Pairs of a row with its own copy are left out.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for fewer than two rows.
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    counts = np.ones((len(unit), 1)) if multiplicity is None else multiplicity
    own = ((unit**2).sum(1)[:, None] * counts**2).sum(0)
    together = ((unit.T @ counts) ** 2).sum(0) - own
    pairs = counts.sum(0) ** 2 - (counts**2).sum(0)
    value = np.divide(together, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return float(value[0]) if multiplicity is None else value


def effective_rank(
    embedding: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Number of dimensions in use: :math:`\exp H(p)`, :math:`p_i = \sigma_i / \sum_j \sigma_j`.

    Args:
        embedding: (rows, dim); its singular values are :math:`\sigma` (not centred, so that a
            space collapsed to one direction has rank 1).
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float between 1 and min(rows, dim), or (resamples,) for given multiplicities.

    References:
        Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    if multiplicity is None:
        return _effective_rank(embedding)
    scale = np.sqrt(multiplicity)
    return np.array([_effective_rank(embedding * column[:, None]) for column in scale.T])


def embedding_scores(
    embedding: np.ndarray, subject_id: Sequence[str] | np.ndarray
) -> dict[str, Interval]:
    """Return ``mean_pairwise_cosine`` and ``effective_rank`` of (rows, dim) with intervals.

    A resample repeats rows, which lowers the effective rank of all resamples alike: its interval
    is centred on the value.
    """
    return {
        "mean_pairwise_cosine": bootstrap(mean_pairwise_cosine, subject_id, embedding),
        "effective_rank": bootstrap(
            effective_rank, subject_id, embedding, resamples=200, centred=True
        ),
    }


def collapse_warning(mean_cosine: float, rank: float) -> str | None:
    """Return one sentence when the embeddings have collapsed, else None.

    Args:
        mean_cosine: From `mean_pairwise_cosine`.
        rank: From `effective_rank`.
    """
    if mean_cosine <= COLLAPSED_COSINE and rank >= COLLAPSED_RANK:
        return None
    return (
        f"embeddings have collapsed: mean pairwise cosine {mean_cosine:.3f} (alarm above "
        f"{COLLAPSED_COSINE}), effective rank {rank:.1f} (alarm below {COLLAPSED_RANK}); use a "
        "loss with negatives, a larger batch or a lower learning rate"
    )


def _effective_rank(embedding: np.ndarray) -> float:
    """Return the effective rank of one matrix, from the smaller of its two Gram matrices."""
    rows, dim = embedding.shape
    gram = embedding @ embedding.T if rows < dim else embedding.T @ embedding
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None))
    if singular.sum() == 0:
        return float("nan")
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
