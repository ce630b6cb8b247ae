"""Restricted cubic splines: a curved effect of a number that stays straight at the ends."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError


@dataclass(frozen=True)
class RestrictedCubicSpline:
    r"""Basis of functions that are cubic between knots and linear outside of them.

    With knots :math:`k_1 < \dots < k_m` the columns are x and, for j = 1 ... m - 2,

    .. math:: (x-k_j)_+^3 - \frac{k_m-k_j}{k_m-k_{m-1}} (x-k_{m-1})_+^3
        + \frac{k_{m-1}-k_j}{k_m-k_{m-1}} (x-k_m)_+^3

    divided by :math:`(k_m-k_1)^2`, so that all have the unit of x.

    Attributes:
        knots: (m,) rising; fewer than 3 leave x alone.
        low: 1st percentile of the training values; what lies below is moved there, so that one
            wild value cannot decide a prediction.
        high: 99th percentile, likewise.

    References:
        Harrell, Regression Modeling Strategies, 2nd edition, section 2.4.5.
    """

    knots: np.ndarray
    low: float
    high: float

    @classmethod
    def fit(cls, values: Any, knots: int = 4) -> "RestrictedCubicSpline":
        """Place knots at Harrell's quantiles of the TRAINING values; equal ones are merged.

        Args:
            values: (rows,) without missing values.
            knots: 3 to 7.

        Raises:
            InputError: Another number of knots, or values that are not finite.
        """
        values = np.asarray(values, dtype=np.float64)
        if knots not in range(3, 8):
            raise InputError(f"a restricted cubic spline has 3 to 7 knots, not {knots}")
        if values.ndim != 1 or not np.isfinite(values).all():
            raise InputError("a spline is fitted to (rows,) finite values")
        edge = {3: 0.10, 4: 0.05, 5: 0.05, 6: 0.05, 7: 0.025}[knots]
        low, high = np.quantile(values, (0.01, 0.99))
        return cls(np.unique(np.quantile(values, np.linspace(edge, 1 - edge, knots))), low, high)

    def basis(self, values: Any) -> np.ndarray:
        """Return (rows, columns): x and its curved parts."""
        values = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        columns, k = [values], self.knots
        if len(k) >= 3:
            last, before = k[-1], k[-2]

            def cubed(knot: float) -> np.ndarray:
                return np.maximum(values - knot, 0) ** 3

            for knot in k[:-2]:
                bend = cubed(knot) - (last - knot) / (last - before) * cubed(before)
                bend += (before - knot) / (last - before) * cubed(last)
                columns.append(bend / (last - k[0]) ** 2)
        return np.stack(columns, axis=1)
