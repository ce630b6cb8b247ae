"""How well a score orders the rows: AUROC and average precision, ties counted exactly."""

import numpy as np


def auroc(
    label: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Area under the ROC curve: the chance that a positive scores above a negative.

    .. math::
        \frac{1}{P N} \sum_{i: y_i = 1} \sum_{j: y_j = 0}
        \big( [s_i > s_j] + \tfrac12 [s_i = s_j] \big)

    Computed from ranks in O(rows log rows), sorted once for all resamples.

    Args:
        label: (rows,) 1 or True for positive, 0 or False for negative; NaN = unknown, left out.
        score: (rows,) any score, higher meaning more likely positive.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN where one class is empty.

    Raises:
        ValueError: Shapes differ or a score is not a number.

    References:
        Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982).
    """
    label, score = _checked(label, score)
    value = _auroc_of_label(label, score, _counts(label, multiplicity))
    return float(value[0]) if multiplicity is None else value


def macro_auroc(
    label: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean AUROC over the labels that have both classes (`evaluable` names them).

    A label that loses one class in a bootstrap resample is left out of the mean of that resample.

    Args:
        label: (rows, labels) 1 or True for positive, 0 or False for negative; NaN = unknown.
        score: (rows, labels).
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN where no label has both classes.

    Raises:
        ValueError: Shapes differ or a score is not a number.
    """
    label, score = _checked(label, score)
    counts = _counts(label, multiplicity)
    each = np.stack(
        [_auroc_of_label(label[:, k], score[:, k], counts) for k in range(label.shape[1])]
    )
    value = _mean_of_defined(each)
    return float(value[0]) if multiplicity is None else value


def evaluable(label: np.ndarray) -> np.ndarray:
    """Return (labels,) True where a label of (rows, labels) has both positives and negatives."""
    label = np.asarray(label)
    return (label == 1).any(0) & (label == 0).any(0)


def average_precision(
    label: np.ndarray, score: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Area under the precision-recall steps, :math:`\sum_k (R_k - R_{k-1}) P_k`.

    Equal scores share one threshold, so their order does not matter.

    Args:
        label: (rows,) 1 or True for positive, 0 or False for negative.
        score: (rows,) any score, higher meaning more likely positive.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN without positives.

    Raises:
        ValueError: Shapes differ or a score is not a number.
    """
    label, score = _checked(label, score)
    order = np.argsort(-score, kind="stable")
    counts = _counts(label, multiplicity)[order]
    threshold = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(counts * (label[order] == 1)[:, None], axis=0)[threshold]
    called = np.cumsum(counts, axis=0)[threshold]
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    new_hits = np.diff(hits, axis=0, prepend=0.0)
    value = _ratio((new_hits * precision).sum(0), hits[-1])
    return float(value[0]) if multiplicity is None else value


def _checked(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of one shape, the score finite or infinite but a number."""
    label, score = np.asarray(label), np.asarray(score)
    if label.shape != score.shape or len(label) == 0:
        raise ValueError(f"label and score must match, however: {label.shape=}, {score.shape=}")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} of {score.size} scores are NaN")
    return label, score


def _counts(label: np.ndarray, multiplicity: np.ndarray | None) -> np.ndarray:
    """Return (rows, resamples) multiplicities; all ones in one column for None."""
    return np.ones((len(label), 1)) if multiplicity is None else multiplicity


def _auroc_of_label(label: np.ndarray, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (resamples,) AUROC: negatives below each positive, by one cumulative sum."""
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.zeros((len(negative) + 1, counts.shape[1]))
    np.cumsum(counts[negative], axis=0, out=below[1:])
    first = np.searchsorted(score[negative], score[positive], side="left")
    last = np.searchsorted(score[negative], score[positive], side="right")
    weight = counts[positive]
    wins = (weight * (below[first] + below[last])).sum(0) / 2
    return _ratio(wins, weight.sum(0) * below[-1])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, NaN where below is zero."""
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first dimension of what is not NaN; NaN where all are."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(0), defined.sum(0).astype(np.float64))
