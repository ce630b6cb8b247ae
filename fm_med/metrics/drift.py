"""How far the embedding of new rows lies from that of others, of which only moments are known."""

from dataclasses import dataclass

import numpy as np

LARGE_SHIFT = 0.5  # standard deviations


@dataclass(frozen=True)
class Drift:
    """How two sets of features differ.

    Attributes:
        shift: Root of the diagonal Fréchet distance over the total variance of the reference: the
            shift of a feature in standard deviations, in quadratic mean.
        chance: The 95th percentile of `shift` for rows from one and the same population.
        p_value: Share of splits whose distance is as large.
        moved: Share of the features whose means differ by more than `LARGE_SHIFT` deviations.
        features: Number of features compared.
    """

    shift: float
    chance: float
    p_value: float
    moved: float
    features: int


def frechet_diagonal(
    mean: np.ndarray, variance: np.ndarray, other_mean: np.ndarray, other_variance: np.ndarray
) -> float:
    r"""Fréchet distance of two normal distributions with diagonal covariances.

    :math:`\sum_j (\mu_j - \nu_j)^2 + (\sigma_j - \tau_j)^2` (Dowson & Landau 1982).
    """
    deviations = np.sqrt(variance) - np.sqrt(other_variance)
    return float(np.sum((mean - other_mean) ** 2) + np.sum(deviations**2))


def embedding_drift(
    features: np.ndarray,
    *,
    mean: np.ndarray,
    variance: np.ndarray,
    rows: int,
    splits: int = 200,
    seed: int = 0,
) -> Drift:
    """Compare features with the moments of others.

    What chance alone gives is found by splitting the features at random into halves: the distance
    of two halves is that of sampling, in proportion to the sum of the inverse numbers of rows.

    Args:
        features: (rows, dim) of the new rows, one per person.
        mean: (dim,) of the reference.
        variance: (dim,) of the reference.
        rows: Of the reference, one per person.
        splits: Random halves.
        seed: Of the halves.
    """
    features = np.asarray(features, np.float64)
    total = max(float(variance.sum()), 1e-12)
    own_mean, own_variance = features.mean(0), features.var(0, ddof=1)
    found = frechet_diagonal(mean, variance, own_mean, own_variance)
    rng, half = np.random.default_rng(seed), len(features) // 2
    scale = (1 / rows + 1 / len(features)) / (1 / half + 1 / (len(features) - half))
    null = np.empty(splits)
    for k in range(splits):
        order = rng.permutation(len(features))
        first, second = features[order[:half]], features[order[half:]]
        null[k] = scale * frechet_diagonal(
            first.mean(0), first.var(0, ddof=1), second.mean(0), second.var(0, ddof=1)
        )
    pooled = np.sqrt((variance + own_variance) / 2)
    known = pooled > 1e-6
    standardised = np.abs(mean - own_mean)[known] / pooled[known]
    return Drift(
        shift=float(np.sqrt(found / total)),
        chance=float(np.sqrt(np.quantile(null, 0.95) / total)),
        p_value=float((1 + (null >= found).sum()) / (1 + splits)),
        moved=float((standardised > LARGE_SHIFT).mean()) if known.any() else 0.0,
        features=int(known.sum()),
    )
