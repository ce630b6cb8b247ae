"""How one numeric column is brought to scale."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
from scipy.stats import norm

from fm_med.disclosure import MINIMUM, covered_quantiles

KNOTS = 65  # at most
MOST_BINS = 16
# Where knots of curves and their ends lie (Harrell, Regression Modeling Strategies, 2.4.6): with 3
# knots .10 .50 .90, with 4 .05 .35 .65 .95, with 5 .05 .275 .50 .725 .95.
RANKS = (0.01, 0.05, 0.10, 0.275, 0.35, 0.50, 0.65, 0.725, 0.90, 0.95, 0.99)
FEW_VALUES = 6  # no curve is seen in so few different values
EDGE_DECIMALS = 4  # a narrower bin or gap of knots would have slopes that blow up rounding
# A value this many standard deviations out is a fault of the device or a rare disease; beyond,
# a network extrapolates wildly.
FARTHEST = 8.0


@dataclass(frozen=True)
class NumericScale:
    """What training rows tell about a column, no extreme and no single person's end of it.

    Attributes:
        method: "standard" or "quantile".
        median: Replaces missing values; the mean where fewer than about 40 persons are known.
        mean: Of the known values.
        scale: Their standard deviation; 0 for a constant column, which is scaled to 0.
        knots: Quantiles of the known values, evenly spaced in rank; one per ten persons, at most
            `KNOTS` (models of older versions have as many, with the extremes at the ends).
        quantiles: The known values at `RANKS`; empty where no curve can be learnt, because the
            column has few different values or the table few rows.

    Quantiles are those of `fm_med.disclosure.covered_quantiles`.
    """

    method: Literal["standard", "quantile"]
    median: float
    mean: float
    scale: float
    knots: list[float]
    quantiles: list[float] = field(default_factory=list)

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        method: Literal["standard", "quantile"],
        *,
        persons: np.ndarray | None = None,
        curved: bool = True,
    ) -> Self:
        """Learn from (cells,) values; NaN is missing.

        Args:
            values: Of the training rows.
            method: How values are scaled.
            persons: (cells,) numbers of whose they are; None: each another's.
            curved: Whether there are rows enough for curves.
        """
        known = values[~np.isnan(values)]
        who = np.arange(len(known)) if persons is None else persons[~np.isnan(values)]
        number = int(np.clip(len(np.unique(who)) // MINIMUM + 1, 3, KNOTS))
        knots = covered_quantiles(known, np.linspace(0, 1, number), who)
        scale = float(known.std())
        if not scale > 1e-9 * max(1.0, float(np.abs(known).max())):
            scale = 0.0  # rounding of a constant
        median = float(covered_quantiles(known, [0.5], who)[0])
        many = curved and scale > 0 and len(np.unique(known)) > FEW_VALUES
        quantiles = covered_quantiles(known, RANKS, who).tolist() if many else []
        return cls(method, median, float(known.mean()), scale, knots.tolist(), quantiles)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scale (rows,) values to zero mean and unit spread; NaN becomes the median."""
        filled = np.where(np.isnan(values), self.median, values)
        if self.scale == 0:
            return np.zeros(len(filled))
        if self.method == "standard":
            return np.clip((filled - self.mean) / self.scale, -FARTHEST, FARTHEST)
        # a value that many rows share has the mean of their ranks
        knots, share = np.array(self.knots), np.linspace(0, 1, len(self.knots))
        low = np.interp(filled, knots, share)
        high = 1 - np.interp(-filled, -knots[::-1], share)
        rank = np.clip((low + high) / 2, 0.5 / KNOTS, 1 - 0.5 / KNOTS)
        return norm.ppf(rank)

    def scaled_quantiles(self) -> list[float]:
        """Return the scaled values at `RANKS`; empty where no curve can be learnt."""
        if not self.quantiles:
            return []
        return self.apply(np.array(self.quantiles)).round(EDGE_DECIMALS).tolist()

    def bins(self) -> list[float]:
        """Return the scaled edges of at most 16 bins with like numbers of training rows."""
        edges = self.apply(np.quantile(self.knots, np.linspace(0, 1, MOST_BINS + 1)))
        edges = np.unique(edges.round(EDGE_DECIMALS))
        return edges.tolist() if len(edges) > 1 else [-1.0, 1.0]
