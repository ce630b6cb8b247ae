"""How often the predicted class is right, and how far its probability can be trusted."""

import numpy as np


def mean(value: np.ndarray, *, multiplicity: np.ndarray | None = None) -> float | np.ndarray:
    """Mean of (rows,) values; (resamples,) means for multiplicities (rows, resamples)."""
    value = np.asarray(value, dtype=np.float64)
    if multiplicity is None:
        return float(value.mean())
    return (value @ multiplicity) / multiplicity.sum(0)


def accuracy(
    label: np.ndarray, prediction: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Share of rows whose predicted class is right.

    Args:
        label: (rows,) class number, 0 .. classes - 1.
        prediction: (rows,) predicted class number.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities.

    Raises:
        ValueError: The two differ in shape.
    """
    label, prediction = _classes(label, prediction)
    return mean(label == prediction, multiplicity=multiplicity)


def balanced_accuracy(
    label: np.ndarray, prediction: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean recall over the classes that occur among the labels.

    Arguments, result and errors as in `accuracy`.
    """
    confusion = _confusion(label, prediction, multiplicity)
    right, actual = _diagonal(confusion), confusion.sum(1)
    recall = np.divide(right, actual, out=np.zeros_like(right), where=actual > 0)
    return _unwrap(recall.sum(0) / (actual > 0).sum(0), multiplicity)


def macro_f1(
    label: np.ndarray, prediction: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean F1 over the classes that occur among the labels or the predictions.

    Arguments, result and errors as in `accuracy`.
    """
    confusion = _confusion(label, prediction, multiplicity)
    right, seen = _diagonal(confusion), confusion.sum(1) + confusion.sum(0)
    f1 = np.divide(2 * right, seen, out=np.zeros_like(right), where=seen > 0)
    return _unwrap(f1.sum(0) / (seen > 0).sum(0), multiplicity)


def mcc(
    label: np.ndarray, prediction: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    """Matthews correlation coefficient for any number of classes; 0 where one side is constant.

    Arguments, result and errors as in `accuracy`.

    References:
        Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
        Computational Biology and Chemistry 28 (2004).
    """
    confusion = _confusion(label, prediction, multiplicity)
    actual, called = confusion.sum(1), confusion.sum(0)
    total = actual.sum(0)
    covariance = _diagonal(confusion).sum(0) * total - (actual * called).sum(0)
    spread = (total**2 - (actual**2).sum(0)) * (total**2 - (called**2).sum(0))
    scale = np.sqrt(spread)
    value = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    return _unwrap(value, multiplicity)


def brier(
    label: np.ndarray, probability: np.ndarray, *, multiplicity: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Mean squared error of probabilities.

    Args:
        label: (rows,) 0 or 1, or a class number when `probability` has a column per class.
        probability: (rows,) of the positive class, giving :math:`(p - y)^2`; or (rows, classes),
            giving :math:`\sum_c (p_c - [y = c])^2` (0 to 2, Brier's own form).
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities.

    References:
        Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    label, probability = np.asarray(label), np.asarray(probability, dtype=np.float64)
    if probability.ndim == 1:
        return mean((probability - label) ** 2, multiplicity=multiplicity)
    target = label[:, None] == np.arange(probability.shape[1])
    return mean(((probability - target) ** 2).sum(1), multiplicity=multiplicity)


def ece(
    label: np.ndarray,
    probability: np.ndarray,
    *,
    bins: int = 15,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    """Expected calibration error: mean gap between stated and observed frequency.

    Args:
        label: (rows,) 0 or 1, or a class number when `probability` has a column per class.
        probability: (rows,) of the positive class; or (rows, classes), of which the largest is
            taken as the confidence and compared with how often that class is right.
        bins: Number of bins of equal width over 0 .. 1.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities.

    References:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    outcome, confidence = np.asarray(label), np.asarray(probability, dtype=np.float64)
    if confidence.ndim == 2:
        outcome, confidence = outcome == confidence.argmax(1), confidence.max(1)
    counts = np.ones((len(outcome), 1)) if multiplicity is None else multiplicity
    member = np.minimum((confidence * bins).astype(np.int64), bins - 1) == np.arange(bins)[:, None]
    # |bin| * |observed - stated| = |sum of (outcome - confidence) in the bin|.
    gap = np.abs(member @ ((outcome - confidence)[:, None] * counts)).sum(0)
    return _unwrap(gap / counts.sum(0), multiplicity)


def _classes(label: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as class numbers of one shape (rows,)."""
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.shape != prediction.shape or label.ndim != 1:
        raise ValueError(
            f"label and prediction must be (rows,) of one length, however: {label.shape=}, "
            f"{prediction.shape=}"
        )
    return label.astype(np.int64), prediction.astype(np.int64)


def _confusion(
    label: np.ndarray, prediction: np.ndarray, multiplicity: np.ndarray | None
) -> np.ndarray:
    """Return (classes, classes, resamples) counts, the true class first."""
    label, prediction = _classes(label, prediction)
    classes = int(max(label.max(), prediction.max())) + 1
    counts = np.ones((len(label), 1)) if multiplicity is None else multiplicity
    cell = label * classes + prediction
    order = np.argsort(cell, kind="stable")
    present, start = np.unique(cell[order], return_index=True)
    confusion = np.zeros((classes * classes, counts.shape[1]))
    confusion[present] = np.add.reduceat(counts[order], start, axis=0)
    return confusion.reshape(classes, classes, -1)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    """Return (classes, resamples) how often each class was called rightly."""
    return np.einsum("ccr->cr", confusion)


def _unwrap(value: np.ndarray, multiplicity: np.ndarray | None) -> float | np.ndarray:
    """Return a float where no multiplicity was given."""
    return float(value[0]) if multiplicity is None else value
