"""How strong a ridge: cross-validated partial likelihood on the training rows only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.follow_up import FollowUp
from fm_med.survival.newton import Maximum, maximise
from fm_med.survival.partial_likelihood import PartialLikelihood
from fm_med.survival.risk_sets import Ties

# 10 folds where events are rare and each one is missed in training; half of them otherwise.
FOLDS = 10
MANY_EVENTS = 500
PATIENCE = 3
# Within a fold a covariate may separate the few events; its prior of 10 log-hazards per standard
# deviation changes nothing else.
LOOSE = 0.01
# Enough for comparing penalties: 1e-4 standard errors from the maximum.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Problem:
    """A ridge fit before its penalty is known.

    Attributes:
        clinical: (rows, q) standardised columns that are not penalised.
        features: (rows, p) standardised columns that are.
        follow_up: The outcome.
        offset: (rows,) known part of the log-hazard.
        ties: As in `RiskSets`.
    """

    clinical: np.ndarray
    features: np.ndarray
    follow_up: FollowUp
    offset: np.ndarray
    ties: Ties

    def likelihood(self) -> PartialLikelihood:
        """Return the likelihood of coefficients of [clinical, features]."""
        design = np.concatenate([self.clinical, self.features], axis=1)
        return PartialLikelihood.build(design, self.follow_up, ties=self.ties, offset=self.offset)


def default_penalties(columns: int, events: int) -> tuple[float, ...]:
    r"""Return ridge strengths from weak to almost infinite in half decades, and infinity.

    A ridge :math:`\lambda` says that a column's coefficient has prior variance
    :math:`1/\lambda`, hence all p together explain a variance of :math:`p/\lambda` of the
    log-hazard: down to 1/1000 of it, and up to 100. With fewer events than columns the upper limit
    is 1: more was never seen in medicine, and few events select it by chance.
    """
    if not columns:
        return (math.inf,)
    weakest = 0 if events < columns else -4
    return (*(columns * 10 ** (power / 2) for power in range(weakest, 7)), math.inf)


def folds_of(subject_id: np.ndarray, event: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Return (rows,) fold of each row: subjects stay together, those with events are spread."""
    subjects, number = np.unique(subject_id, return_inverse=True)
    has_event = np.bincount(number, weights=event) > 0
    order = np.random.default_rng(seed).permutation(len(subjects))
    order = order[np.argsort(~has_event[order], kind="stable")]
    fold = np.empty(len(subjects), dtype=np.int64)
    fold[order] = np.arange(len(subjects)) % folds
    return fold[number]


def score_penalties(
    problem: Problem, penalties: Sequence[float], subject_id: np.ndarray
) -> dict[float, float]:
    r"""Return the cross-validated log partial likelihood of penalties, strongest first.

    A fold's score is what its rows add, :math:`\ell(\beta_{-k}) - \ell_{-k}(\beta_{-k})`: rows
    alone have no likelihood of their own. Weak penalties are the slow ones; they are left out once
    the score has fallen `PATIENCE` times in a row.

    References:
        Verweij and van Houwelingen, Statistics in Medicine 12 (1993) 2305-2314.

    Raises:
        InputError: Fewer than 2 subjects have an event.
    """
    event = problem.follow_up.event
    events = len(np.unique(subject_id[event]))
    if events < 2:
        raise InputError(
            f"choosing among {len(penalties)} penalties needs events in 2 subjects, there are "
            f"in {events}; give one penalty"
        )
    number = min(FOLDS if events < MANY_EVENTS else FOLDS // 2, events)
    fold = folds_of(subject_id, event, number)
    whole = problem.likelihood()
    rest = [_without(whole, fold == k, problem.ties) for k in range(number)]
    at: list[Maximum | None] = [None] * number
    scores: dict[float, float] = {}
    fallen = 0
    for penalty in sorted(set(penalties), reverse=True):
        score = 0.0
        for k in range(number):
            coefficients, at[k] = _fit(rest[k], problem, penalty, at[k])
            gain = whole.log_likelihood(coefficients) - rest[k].log_likelihood(coefficients)
            score += gain
        fallen = fallen + 1 if scores and score < list(scores.values())[-1] else 0
        scores[penalty] = score
        if fallen == PATIENCE:
            break
    return scores


def _without(whole: PartialLikelihood, held_out: np.ndarray, ties: Ties) -> PartialLikelihood:
    """Return the likelihood of the other rows; the design is shared, held-out rows weigh 0."""
    follow_up = replace(
        whole.follow_up,
        event=whole.follow_up.event & ~held_out,
        weight=np.where(held_out, 0.0, whole.follow_up.weight),
    )
    return PartialLikelihood.build(whole.design, follow_up, ties=ties, offset=whole.offset)


def _fit(
    likelihood: PartialLikelihood, problem: Problem, penalty: float, start: Maximum | None
) -> tuple[np.ndarray, Maximum | None]:
    """Return coefficients, and the maximum from which the next weaker penalty starts."""
    free, columns = problem.clinical.shape[1], likelihood.design.shape[1]
    ridge = np.full(columns, LOOSE)
    if math.isinf(penalty):
        alone = replace(likelihood, design=problem.clinical)
        clinical = maximise(alone, ridge[:free], tolerance=TOLERANCE).coefficients
        return np.concatenate([clinical, np.zeros(columns - free)]), start
    ridge[free:] = max(penalty, LOOSE)
    best = maximise(likelihood, ridge, start=start, tolerance=TOLERANCE)
    return best.coefficients, best
