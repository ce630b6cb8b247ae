"""Cox regression on a whole cohort: ridge on features, free clinical covariates, float64."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.metrics import Interval
from fm_med.survival.cox_solution import Solution, solve
from fm_med.survival.design import Block, matrix, rotate
from fm_med.survival.follow_up import FollowUp
from fm_med.survival.penalty_choice import Problem, default_penalties, score_penalties
from fm_med.survival.risk_sets import Ties


class ConvergenceWarning(UserWarning):
    """A fit whose numbers need a second look; the same sentence is in `CoxFit.notes`."""


@dataclass(frozen=True)
class CoxFit:
    r"""A fitted Cox model, :math:`f(x, z) = \beta (x - \text{mean})/\text{scale} + \gamma z`.

    Attributes:
        coefficients: (p,) log hazard ratios per standard deviation of each feature.
        clinical_coefficients: (q,) log hazard ratios per unit of each clinical covariate; 0 where
            a column is constant or a combination of earlier ones.
        mean: (p,) means of the features.
        scale: (p,) standard deviations of the features.
        penalty: Ridge of the features; infinite where they are left out.
        log_likelihood: Log partial likelihood without the penalty.
        null_log_likelihood: The same with all coefficients 0 (the offset alone).
        covariance: Of [clinical_coefficients, coefficients] where nothing is penalised (of the
            clinical ones alone at an infinite penalty), NaN in columns left out; else None.
        scores: Cross-validated log partial likelihood of each penalty tried; empty for a given one.
        converged: Whether the maximum was reached.
        notes: What a reader of the numbers must know.
        events: Number of events.
    """

    coefficients: np.ndarray
    clinical_coefficients: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    penalty: float
    log_likelihood: float
    null_log_likelihood: float
    covariance: np.ndarray | None
    scores: dict[float, float]
    converged: bool
    notes: tuple[str, ...]
    events: int

    def log_hazard(self, features: Any = None, clinical: Any = None) -> np.ndarray:
        """Return (rows,) log-hazards; not centred, without the offset of the fit.

        Raises:
            InputError: A block is missing, or has another number of columns than in the fit.
        """
        given = features if features is not None else clinical
        if given is None:
            raise InputError("log_hazard needs features or clinical covariates")
        x, z = (
            matrix(v, len(given), n) for v, n in ((features, "features"), (clinical, "clinical"))
        )
        for name, block, fitted in (
            ("features", x, self.coefficients),
            ("clinical", z, self.clinical_coefficients),
        ):
            if block.shape[1] != len(fitted):
                raise InputError(
                    f"{name} must have {len(fitted)} columns as in the fit, not {block.shape[1]}"
                )
        return (x - self.mean) / self.scale @ self.coefficients + z @ self.clinical_coefficients

    def clinical_effects(self, level: float = 0.95) -> list[Interval]:
        """Return the log hazard ratio of each clinical covariate with its Wald interval.

        The ends are NaN where the fit is penalised; `n` is the number of events.
        """
        q = len(self.clinical_coefficients)
        error = np.full(q, np.nan)
        if self.covariance is not None:
            error = np.sqrt(np.diag(self.covariance)[:q])
        reach = NormalDist().inv_cdf(0.5 + level / 2) * error
        return [
            Interval(float(b), float(b - r), float(b + r), self.events)
            for b, r in zip(self.clinical_coefficients, reach)
        ]


def fit_cox(  # noqa: PLR0913 - the outcome alone has six parts, as in R's coxph
    features: Any,
    *,
    time: Any,
    event: Any,
    clinical: Any = None,
    penalty: float | Sequence[float] | None = None,
    subject_id: Any = None,
    weight: Any = None,
    strata: Any = None,
    entry: Any = None,
    ties: Ties = "efron",
    offset: Any = None,
) -> CoxFit:
    r"""Maximise :math:`\ell(\beta, \gamma) - \tfrac{\lambda}{2} \lVert \beta \rVert^2`.

    :math:`\ell` is the log partial likelihood (a sum over events), :math:`\beta` belongs to
    standardised features and :math:`\gamma` to clinical covariates, which are never shrunk: age
    and sex are known to matter, and shrinking them for the sake of a thousand ECG features costs
    .03 of C. With no penalty the result is that of R's ``coxph``.

    Args:
        features: (rows, p), or None; p may exceed the number of rows.
        time: (rows,) end of follow-up, any unit.
        event: (rows,) True where the follow-up ended with the event.
        clinical: (rows, q) covariates that enter linearly, without a penalty.
        penalty: Ridge strength :math:`\lambda`, or several to choose from by cross-validated
            partial likelihood (10 folds of subjects, events spread); ``math.inf`` leaves the
            features out and is best kept among several. None: a wide range with infinity.
        subject_id: (rows,) patient of each row, kept together in folds; None: each row its own.
        weight: (rows,) case weights >= 0; rows of weight 0 are left out.
        strata: (rows,) any labels; risk sets never mix strata.
        entry: (rows,) start of being at risk (left truncation), before time.
        ties: How events at the same time are treated.
        offset: (rows,) known part of the log-hazard.

    Raises:
        InputError: There is no event; a shape or value does not fit.

    Warns:
        ConvergenceWarning: A covariate separates the events, or the maximum was not reached.
    """
    follow_up = FollowUp.checked(time, event, weight=weight, strata=strata, entry=entry)
    rows = len(follow_up.time)
    x, z = matrix(features, rows, "features"), matrix(clinical, rows, "clinical")
    known = _column(np.zeros(rows) if offset is None else offset, rows, "offset").astype(float)
    subjects = _column(np.arange(rows) if subject_id is None else subject_id, rows, "subject_id")
    counted = follow_up.weight > 0
    if not (follow_up.event & counted).any():
        raise InputError(f"a Cox fit needs events, but none of {rows} rows has one")
    if not counted.all():
        follow_up, x, z = follow_up.rows(counted), x[counted], z[counted]
        known, subjects = known[counted], subjects[counted]
    free, shrunk = Block.of(z, follow_up.weight), Block.of(x, follow_up.weight)
    problem = Problem(free.values, shrunk.values, follow_up, known, ties)
    strength, scores = _choose(
        problem, _candidates(penalty, x.shape[1], int(follow_up.event.sum())), subjects
    )
    solution = solve(problem, strength)
    for note in solution.notes:
        warnings.warn(note, ConvergenceWarning, stacklevel=2)
    return _on_raw_scale(problem, (free, shrunk), solution, (strength, scores))


def _column(values: Any, rows: int, name: str) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (rows,):
        raise InputError(f"{name} must be ({rows},) like time, not {column.shape}")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise InputError(f"{name} has {int((~np.isfinite(column)).sum())} values not finite")
    return column


def _candidates(
    penalty: float | Sequence[float] | None, columns: int, events: int
) -> tuple[float, ...]:
    if penalty is None:
        return default_penalties(columns, events)
    several = isinstance(penalty, (Sequence, np.ndarray))
    candidates = tuple(float(p) for p in penalty) if several else (float(penalty),)  # type: ignore
    if not candidates or not all(p >= 0 for p in candidates):
        raise InputError(f"penalty must be >= 0 (math.inf leaves the features out), not {penalty}")
    # Without features all penalties mean the same fit.
    return candidates if columns else (math.inf,)


def _choose(
    problem: Problem, candidates: tuple[float, ...], subjects: np.ndarray
) -> tuple[float, dict[float, float]]:
    """Return the best penalty, the stronger one of equals, and the score of each."""
    if len(candidates) == 1:
        return candidates[0], {}
    rotated = replace(problem, features=rotate(problem.features)[0])
    scores = score_penalties(rotated, candidates, subjects)
    return max(scores, key=lambda p: (scores[p], p)), scores


def _on_raw_scale(
    problem: Problem, blocks: tuple[Block, Block], solution: Solution, chosen: tuple[float, dict]
) -> CoxFit:
    """Give clinical coefficients per unit; features keep their standardisation beside them."""
    free, shrunk = blocks
    q = len(free.scale)
    covariance = solution.covariance
    if covariance is not None:
        unit = np.concatenate([free.scale, np.ones(len(covariance) - q)])
        covariance = covariance / np.outer(unit, unit)
    null = problem.likelihood().log_likelihood(np.zeros(q + len(shrunk.scale)))
    return CoxFit(
        coefficients=solution.coefficients[q:],
        clinical_coefficients=solution.coefficients[:q] / free.scale,
        mean=shrunk.mean,
        scale=shrunk.scale,
        penalty=chosen[0],
        log_likelihood=solution.log_likelihood,
        null_log_likelihood=null,
        covariance=covariance,
        scores=chosen[1],
        converged=solution.converged,
        notes=solution.notes,
        events=int(problem.follow_up.event.sum()),
    )
