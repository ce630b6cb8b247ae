"""Covariates made ready for a fit: checked, standardised, reduced without loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from fm_med.errors import InputError

# A column is constant, or a combination of earlier ones, when less than this share is left of it.
DEPENDENT = 1e-9


@dataclass(frozen=True)
class Block:
    """One block of covariates and how it was standardised.

    Attributes:
        values: (rows, columns) float64 with weighted mean 0 and variance 1; constant columns are 0.
        mean: (columns,) weighted means of the raw columns.
        scale: (columns,) weighted standard deviations (divided by the weight, not by n - 1), 1
            where a column is constant.
    """

    values: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, raw: np.ndarray, weight: np.ndarray) -> "Block":
        """Standardise each column; weights count as repeated rows."""
        share = weight / weight.sum()
        mean = share @ raw
        centred = raw - mean
        spread = np.sqrt(share @ centred**2)
        constant = spread <= DEPENDENT * np.abs(mean) + np.finfo(float).tiny
        scale = np.where(constant, 1.0, spread)
        centred /= scale
        centred[:, constant] = 0.0
        return cls(centred, mean, scale)


def matrix(values: Any, rows: int, name: str) -> np.ndarray:
    """Return (rows, columns) float64; None is a matrix without columns.

    Raises:
        InputError: Another shape, or values that are not finite; the first column is named.
    """
    if values is None:
        return np.empty((rows, 0))
    raw = np.asarray(values, dtype=np.float64)
    if raw.ndim != 2 or len(raw) != rows:
        raise InputError(f"{name} must be ({rows}, columns), not {raw.shape}")
    bad = ~np.isfinite(raw)
    if bad.any():
        column = int(bad.any(axis=0).argmax())
        raise InputError(
            f"{name} must be finite, but column {column} has {int(bad[:, column].sum())} values "
            "that are not; fill missing values before the fit"
        )
    return raw


def independent(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return (columns,) False where a standardised column is a combination of earlier ones."""
    if not values.shape[1]:
        return np.ones(0, dtype=bool)
    kept = np.zeros(values.shape[1], dtype=bool)
    rooted = np.sqrt(weight)[:, None] * values
    basis = np.empty((len(values), 0))
    for column in range(values.shape[1]):
        rest = rooted[:, column]
        size = np.linalg.norm(rest)
        for _ in range(2):  # The second projection removes the rounding of the first.
            rest = rest - basis @ (basis.T @ rest)
        left = np.linalg.norm(rest)
        kept[column] = left > DEPENDENT * size and basis.shape[1] < len(values)
        if kept[column]:
            basis = np.column_stack([basis, rest / left])
    return kept


def rotate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return fewer columns that carry the same ridge fits when there are more columns than rows.

    With X = U D V', a ridge fit's coefficients lie in the span of the rows of X, so that
    coefficients g of U D give b = V g with the same length: fitting U D is exact.

    Returns:
        (rows, rank) columns and (columns, rank) V; `values` itself and None when nothing is gained.
    """
    rows, columns = values.shape
    if columns <= rows:
        return values, None
    left, size, right = linalg.svd(values, full_matrices=False)
    kept = size > 1e-12 * size.max(initial=0)
    return left[:, kept] * size[kept], right[kept].T
