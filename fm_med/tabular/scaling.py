"""How one numeric column is brought to scale."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.stats import norm

KNOTS = 65
MOST_BINS = 16
EDGE_DECIMALS = 4  # a narrower bin would have slopes that blow up rounding
# A value this many standard deviations out is a fault of the device or a rare disease; beyond,
# a network extrapolates wildly.
FARTHEST = 8.0


@dataclass(frozen=True)
class NumericScale:
    """What training rows tell about a column.

    Attributes:
        method: "standard" or "quantile".
        median: Replaces missing values.
        mean: Of the known values.
        scale: Their standard deviation; 0 for a constant column, which is scaled to 0.
        knots: Quantiles of the known values, evenly spaced in rank.
    """

    method: Literal["standard", "quantile"]
    median: float
    mean: float
    scale: float
    knots: list[float]

    @classmethod
    def fit(cls, values: np.ndarray, method: Literal["standard", "quantile"]) -> Self:
        """Learn from (rows,) values; NaN is missing."""
        known = values[~np.isnan(values)]
        knots = np.quantile(known, np.linspace(0, 1, KNOTS))
        scale = float(known.std())
        if not scale > 1e-9 * max(1.0, float(np.abs(known).max())):
            scale = 0.0  # rounding of a constant
        median = float(np.median(known))
        return cls(method, median, float(known.mean()), scale, knots.tolist())

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
        knots, share = np.array(self.knots), np.linspace(0, 1, KNOTS)
        low = np.interp(filled, knots, share)
        high = 1 - np.interp(-filled, -knots[::-1], share)
        rank = np.clip((low + high) / 2, 0.5 / KNOTS, 1 - 0.5 / KNOTS)
        return norm.ppf(rank)

    def bins(self) -> list[float]:
        """Return the scaled edges of at most 16 bins with like numbers of training rows."""
        edges = self.apply(np.quantile(self.knots, np.linspace(0, 1, MOST_BINS + 1)))
        edges = np.unique(edges.round(EDGE_DECIMALS))
        return edges.tolist() if len(edges) > 1 else [-1.0, 1.0]
