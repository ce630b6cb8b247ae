"""Newton's method for a concave log-likelihood with a ridge penalty."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import linalg

# The information matrix is the expensive part: it is kept while steps with the old one still
# reduce the squared Newton decrement to this share (a chord method).
KEEP_INFORMATION = 1e-2
# Squared distance to the maximum, in standard errors, that counts as there.
CONVERGED = 1e-8
MAX_STEPS = 100
MAX_HALVINGS = 40


class Likelihood(Protocol):
    """A concave function of coefficients."""

    def value_and_gradient(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and its gradient (columns,)."""

    def information(self, coefficients: np.ndarray) -> np.ndarray:
        """Return minus the second derivative (columns, columns)."""


@dataclass(frozen=True)
class Maximum:
    """Where Newton's method ended.

    Attributes:
        coefficients: (columns,).
        log_likelihood: Value there, without the penalty.
        information: (columns, columns) of the likelihood alone, at the last place it was computed.
        converged: Whether the squared Newton decrement fell below `CONVERGED`.
        decrement: Its square; its root is the distance to the maximum in standard errors.
    """

    coefficients: np.ndarray
    log_likelihood: float
    information: np.ndarray
    converged: bool
    decrement: float


def maximise(
    likelihood: Likelihood,
    ridge: np.ndarray,
    *,
    start: Maximum | None = None,
    tolerance: float = 1e-22,
) -> Maximum:
    r"""Maximise :math:`\ell(\beta) - \tfrac12 \sum_j \lambda_j \beta_j^2`.

    Args:
        likelihood: The log-likelihood.
        ridge: (columns,) penalty of each coefficient, >= 0.
        start: Another penalty's maximum; its coefficients and information are taken over.
        tolerance: Squared Newton decrement at which to stop; rounding may stop it earlier.
    """
    beta = np.zeros(len(ridge)) if start is None else start.coefficients
    value, gradient = likelihood.value_and_gradient(beta)
    if not math.isfinite(value):
        beta, start = np.zeros(len(ridge)), None
        value, gradient = likelihood.value_and_gradient(beta)
    information = likelihood.information(beta) if start is None else start.information
    factor = _factor(information, ridge)
    fresh, before, decrement = start is None, math.inf, math.inf
    for _ in range(MAX_STEPS):
        slope = gradient - ridge * beta
        step = linalg.cho_solve(factor, slope)
        decrement = float(slope @ step)
        if not fresh and decrement > KEEP_INFORMATION * before:
            information, fresh = likelihood.information(beta), True
            factor = _factor(information, ridge)
            step = linalg.cho_solve(factor, slope)
            decrement = float(slope @ step)
        at_rounding = decrement <= CONVERGED and fresh and decrement > before / 4
        if decrement <= tolerance or at_rounding:
            break
        moved = _line_search(likelihood, ridge, (beta, value), step)
        if moved is None and fresh:
            break
        if moved is None:
            before = 0.0  # Asks for a new information matrix.
            continue
        beta, value, gradient = moved
        before, fresh = decrement, False
    return Maximum(beta, value, information, decrement <= CONVERGED, decrement)


def _line_search(
    likelihood: Likelihood, ridge: np.ndarray, at: tuple[np.ndarray, float], step: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Halve the step until the penalised value does not fall; None where it always does."""
    beta, value = at
    height = value - 0.5 * float(ridge @ beta**2)
    slack = 1e-12 * (1 + abs(height))  # Rounding of the sums: the last steps gain less than it.
    for halving in range(MAX_HALVINGS):
        tried = beta + step / 2**halving
        new, gradient = likelihood.value_and_gradient(tried)
        # Underflow of a whole risk set would look like an infinite gain.
        finite = math.isfinite(new) and np.isfinite(gradient).all()
        if finite and new - 0.5 * float(ridge @ tried**2) >= height - slack:
            return tried, new, gradient
    return None


def _factor(information: np.ndarray, ridge: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the Cholesky factor of the penalised information, lifted until there is one."""
    if not len(ridge):
        return np.empty((0, 0)), False
    matrix = information + np.diag(ridge)
    lift = 1e-14 * max(float(np.trace(matrix)) / len(ridge), 1e-300)
    while True:
        try:
            return linalg.cho_factor(matrix)
        except linalg.LinAlgError:
            matrix[np.diag_indices_from(matrix)] += lift
            lift *= 100
