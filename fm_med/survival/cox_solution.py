"""The final fit at one penalty: separation found and tamed, covariance, convergence told."""

import math
from dataclasses import dataclass, replace

import numpy as np

from fm_med.survival.design import independent, rotate
from fm_med.survival.newton import Maximum, maximise
from fm_med.survival.partial_likelihood import PartialLikelihood
from fm_med.survival.penalty_choice import Problem

# A covariate separates the events when its variance exceeds that at coefficient 0 by this factor;
# it then gets a prior of 3 log-hazards per standard deviation instead of an infinite coefficient.
SEPARATED = 1e4
SEPARATION_PENALTY = 0.1


@dataclass(frozen=True)
class Solution:
    """Coefficients of [clinical, features] on the standardised scale.

    Attributes:
        coefficients: (q + p,); 0 where a column was left out.
        log_likelihood: Log partial likelihood without the penalty.
        covariance: (q + p, q + p), NaN where a column was left out; None where penalised.
        converged: Whether the maximum was reached.
        notes: One sentence per trouble.
    """

    coefficients: np.ndarray
    log_likelihood: float
    covariance: np.ndarray | None
    converged: bool
    notes: tuple[str, ...]


def solve(problem: Problem, penalty: float) -> Solution:
    """Fit at one penalty: 0 (all columns free), infinite (clinical ones alone) or between."""
    names = [f"clinical column {number}" for number in range(problem.clinical.shape[1])]
    size = len(names) + problem.features.shape[1]
    if penalty == 0:
        names += [f"feature {number}" for number in range(problem.features.shape[1])]
        both = np.concatenate([problem.clinical, problem.features], axis=1)
        problem = replace(problem, clinical=both, features=both[:, :0])
    kept = independent(problem.clinical, problem.follow_up.weight)
    notes = [f"{names[c]} depends on earlier columns and was left out" for c in np.where(~kept)[0]]
    features, back = problem.features, None
    if math.isinf(penalty):
        features = features[:, :0]
    elif features.shape[1]:
        features, back = rotate(features)
    free = int(kept.sum())
    ridge = np.concatenate([np.zeros(free), np.full(features.shape[1], penalty)])
    reduced = replace(problem, clinical=problem.clinical[:, kept], features=features)
    likelihood = reduced.likelihood()
    best, separated = _tamed(likelihood, ridge, free)
    kept_names = [name for name, keep in zip(names, kept) if keep]
    notes += [
        f"{kept_names[c]} separates the events: its coefficient is held back by a weak penalty"
        for c in np.where(separated)[0]
    ]
    if not best.converged:
        distance = math.sqrt(max(best.decrement, 0))
        notes.append(f"the fit stopped {distance:.1e} standard errors before the maximum")
    coefficients = np.zeros(size)
    coefficients[: len(names)][kept] = best.coefficients[:free]
    slopes = best.coefficients[free:]
    if len(slopes):
        coefficients[len(names) :] = slopes if back is None else back @ slopes
    covariance = None
    if not len(slopes) and not separated.any():
        covariance = np.full((len(names), len(names)), np.nan)
        covariance[np.ix_(kept, kept)] = _inverse(likelihood.information(best.coefficients))
    return Solution(coefficients, best.log_likelihood, covariance, best.converged, tuple(notes))


def _tamed(
    likelihood: PartialLikelihood, ridge: np.ndarray, free: int
) -> tuple[Maximum, np.ndarray]:
    """Return the maximum and which free columns needed a weak penalty to have a finite one."""
    best = maximise(likelihood, ridge)
    separated = np.zeros(free, dtype=bool)
    if not free:
        return best, separated
    at_null = likelihood.information(np.zeros(len(ridge)))
    before, after = (
        np.diag(_inverse(information + np.diag(ridge)))[:free]
        for information in (at_null, likelihood.information(best.coefficients))
    )
    separated = after > SEPARATED * before
    if separated.any():
        ridge = ridge.copy()
        ridge[:free][separated] = SEPARATION_PENALTY
        best = maximise(likelihood, ridge)
    return best, separated


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a symmetric matrix; a direction without information gets a huge one."""
    size, directions = np.linalg.eigh(matrix)
    floor = 1e-30 * max(float(size.max(initial=0)), 1e-300)
    return directions / np.maximum(size, floor) @ directions.T
