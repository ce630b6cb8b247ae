"""The mean of several models' calibrated probabilities, and the weights that fit truth best."""

from typing import Literal

import numpy as np
from scipy.optimize import minimize, minimize_scalar

Method = Literal["average", "stacked"]
LEAST = 1e-12


def mix(probability: np.ndarray, weights: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Return what an ensemble predicts, (rows, classes).

    Args:
        probability: (members, rows, classes).
        weights: As of `Ensemble`.
        temperatures: As of `Ensemble`.
    """
    if weights.ndim == 1:
        return combine(probability, weights, temperatures)
    labels = zip(weights, temperatures)
    mixed = [combine(_or_not(probability[..., k]), w, t)[:, 1] for k, (w, t) in enumerate(labels)]
    return np.stack(mixed, 1)


def _or_not(probability: np.ndarray) -> np.ndarray:
    """Return (..., 2) probabilities of two classes: the label is absent, or present."""
    return np.stack([1 - probability, probability], -1)


def combine(
    probability: np.ndarray, weights: np.ndarray, temperatures: np.ndarray | None = None
) -> np.ndarray:
    """Return the weighed mean of calibrated probabilities, (rows, classes).

    Args:
        probability: (members, rows, classes).
        weights: (members,) summing to 1.
        temperatures: (members,); None where they are calibrated.
    """
    if temperatures is not None:
        powered = np.log(np.maximum(probability, LEAST)) / temperatures[:, None, None]
        shifted = np.exp(powered - powered.max(-1, keepdims=True))
        probability = shifted / shifted.sum(-1, keepdims=True)
    return np.einsum("m,mrc->rc", weights, probability)


def fit_weights(
    probability: np.ndarray, label: np.ndarray, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and temperatures that fit out-of-fold predictions.

    Args:
        probability: (members, rows, classes) out-of-fold.
        label: (rows,) class numbers.
        method: "average" weighs all alike; "stacked" takes the weights, none below 0, with the
            smallest cross-entropy of the mixture.
    """
    everyone, count = np.arange(len(label)), len(probability)
    one = np.ones(1)

    def cost(temperature: float, own: np.ndarray) -> float:
        mixed = combine(own[None], one, np.array([temperature]))
        return -np.log(np.maximum(mixed[everyone, label], LEAST)).mean()

    temperatures = np.array(
        [
            minimize_scalar(cost, (0.1, 10.0), (0.1, 10.0), (own,), "bounded").x
            for own in probability
        ]
    )
    weights = np.full(count, 1 / count)
    if method == "stacked" and count > 1:
        hit = np.stack([combine(p[None], one, t[None]) for p, t in zip(probability, temperatures)])
        right = hit[:, everyone, label]
        found = minimize(
            lambda w: -np.log(np.maximum(w @ right, LEAST)).mean(),
            weights,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        )
        weights = np.clip(found.x, 0, 1) / np.clip(found.x, 0, 1).sum()
    return weights, temperatures


def fit_label_weights(
    probability: np.ndarray, label: np.ndarray, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and temperatures of labels, each fitted as a classification of its own.

    Args:
        probability: (members, rows, labels) out-of-fold.
        label: (rows, labels) of 0, 1 and NaN where not known. A label that is never or always
            present teaches nothing: all members weigh alike and stay as they are.
        method: As in `fit_weights`.

    Returns:
        Both (labels, members).
    """
    weights = np.full((label.shape[1], len(probability)), 1 / len(probability))
    temperatures = np.ones(weights.shape)
    for k, column in enumerate(label.T):
        known = ~np.isnan(column)
        if len(np.unique(column[known])) == 2:
            own = _or_not(probability[:, known, k])
            weights[k], temperatures[k] = fit_weights(own, column[known].astype(int), method)
    return weights, temperatures
