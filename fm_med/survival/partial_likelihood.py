"""Cox's log partial likelihood as a function of coefficients: value, gradient, information."""

from dataclasses import dataclass

import numpy as np

from fm_med.survival.follow_up import FollowUp
from fm_med.survival.risk_sets import RiskSets, Ties, scaled


@dataclass(frozen=True)
class RiskTerms:
    r"""What one log-hazard makes of the risk sets.

    Attributes:
        hazard: (rows,) :math:`w_j e^{f_j}`, scaled to at most the weight within each stratum.
        denominator: (terms,) the sum over those at risk less Efron's share of the tied events.
        expected: (rows,) expected number of events on the fitted model (weighted).
        log_likelihood: Log partial likelihood.
    """

    hazard: np.ndarray
    denominator: np.ndarray
    expected: np.ndarray
    log_likelihood: float


@dataclass(frozen=True)
class PartialLikelihood:
    """Log partial likelihood of ``design @ coefficients + offset``.

    Attributes:
        design: (rows, columns) float64.
        follow_up: The outcome.
        sets: Its risk sets.
        offset: (rows,) known part of the log-hazard.
    """

    design: np.ndarray
    follow_up: FollowUp
    sets: RiskSets
    offset: np.ndarray

    @classmethod
    def build(
        cls, design: np.ndarray, follow_up: FollowUp, *, ties: Ties, offset: np.ndarray
    ) -> "PartialLikelihood":
        """Sort the follow-up once."""
        return cls(design, follow_up, RiskSets.build(follow_up, ties), offset)

    def log_likelihood(self, coefficients: np.ndarray) -> float:
        """Return the log partial likelihood (a sum over events, not a mean)."""
        return self._terms(coefficients).log_likelihood

    def value_and_gradient(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the log partial likelihood and its gradient (columns,)."""
        terms = self._terms(coefficients)
        residual = self.follow_up.event * self.follow_up.weight - terms.expected
        if not np.isfinite(residual).all():
            return -np.inf, np.zeros_like(coefficients)  # Underflow: too far to be told how far.
        return terms.log_likelihood, self.design.T @ residual

    def information(self, coefficients: np.ndarray) -> np.ndarray:
        """Return minus the second derivative, (columns, columns)."""
        terms, sets = self._terms(coefficients), self.sets
        # Expected values are positive up to rounding; the root makes the product symmetric.
        rooted = np.sqrt(np.maximum(terms.expected, 0))[:, None] * self.design
        total = sets.at_risk.sums(terms.hazard, self.design)
        tied = scaled(sets.dead, terms.hazard) @ self.design
        mean = total[sets.term_group] - sets.term_share[:, None] * tied[sets.term_group]
        mean *= (np.sqrt(sets.term_weight) / terms.denominator)[:, None]
        return rooted.T @ rooted - mean.T @ mean

    def _terms(self, coefficients: np.ndarray) -> RiskTerms:
        return risk_terms(self.design @ coefficients + self.offset, self.follow_up, self.sets)


def risk_terms(log_hazard: np.ndarray, follow_up: FollowUp, sets: RiskSets) -> RiskTerms:
    """Return the sums over risk sets that value, gradient and baseline hazard share."""
    # A shift within a stratum changes nothing, and exp() of a negative number cannot overflow.
    top = np.full(int(follow_up.stratum.max(initial=0)) + 1, -np.inf)
    np.maximum.at(top, follow_up.stratum, log_hazard)
    shifted = log_hazard - top[follow_up.stratum]
    weight, group = follow_up.weight, sets.term_group
    hazard = weight * np.exp(shifted)
    tied = sets.dead @ hazard
    denominator = sets.at_risk.sums(hazard)[group] - sets.term_share * tied[group]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Where all at risk have underflowed the value is not finite: the step was too long.
        slope = sets.term_weight / denominator
        value = weight[sets.event_row] @ shifted[sets.event_row]
        value -= sets.term_weight @ np.log(denominator)
        expected = hazard * sets.at_risk.spread(np.bincount(group, slope, len(sets.time)))
        gone = np.bincount(group, slope * sets.term_share, len(sets.time))
        expected[sets.event_row] -= hazard[sets.event_row] * gone[sets.event_group]
    return RiskTerms(hazard, denominator, expected, float(value))
