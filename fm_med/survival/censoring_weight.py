"""Inverse probability of censoring weights: how many patients each observed event stands for."""

from typing import Protocol

import numpy as np

from fm_med.survival.censoring import CensoringDistribution


class CensoringAt(Protocol):
    """The survival function of censoring, such as `CensoringDistribution`."""

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return G(t-), the chance not to be censored before each time."""


def inverse_censoring_weight(
    time: np.ndarray,
    event: np.ndarray,
    rows: np.ndarray,
    *,
    censoring: CensoringAt | None = None,
    multiplicity: np.ndarray | None = None,
) -> np.ndarray:
    """Return (chosen rows, resamples) 1 / G(t-) at the times of the chosen rows.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) bool.
        rows: (chosen,) indices.
        censoring: G of the training rows, the same for all resamples (one column is returned);
            None estimates G from the rows at hand, anew in each resample.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Raises:
        ValueError: The given G is zero or not a number at a chosen time.
    """
    if censoring is None:
        censoring = CensoringDistribution.fit(time, event, multiplicity=multiplicity)
    survival = np.asarray(censoring.at(time[rows]), dtype=np.float64)
    if not (survival > 0).all():
        raise ValueError("the censoring distribution must be above 0 at the times of all events")
    return 1 / survival.reshape(len(rows), -1)
