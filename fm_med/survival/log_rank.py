"""The log-rank test: do groups have the same hazard?"""

from typing import Any

import numpy as np
from scipy import stats

from fm_med.errors import InputError
from fm_med.survival.checks import outcome


def log_rank(time: Any, event: Any, group: Any, *, strata: Any = None) -> tuple[float, float]:
    r"""Return chi-squared and p value of the log-rank test between K groups.

    At each event time the events of a group are hypergeometric given the numbers at risk; with the
    differences :math:`U = O - E` and their covariance :math:`V`, :math:`\chi^2 = U' V^- U` on
    K - 1 degrees of freedom. O((rows + K^2 distinct event times) log rows); equal to R's
    ``survdiff``.

    Args:
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        group: (rows,) label of each row's group.
        strata: (rows,) labels; groups are compared within each stratum, then summed.

    Returns:
        (chi2, p); (NaN, NaN) where no event happened with two groups at risk.

    References:
        Mantel, Cancer Chemotherapy Reports 50 (1966); Peto & Peto, JRSS A 135 (1972).

    Raises:
        InputError: Bad follow-up, fewer than two groups, or no event at all.
    """
    time, event = outcome(time, event)
    labels, number = np.unique(_labels(group, "group", len(time)), return_inverse=True)
    if len(labels) < 2:
        raise InputError(f"a log-rank test needs 2 groups or more, but all rows are in {labels[0]}")
    if not event.any():
        raise InputError(f"a log-rank test needs events, but none of {len(time)} rows has one")
    if strata is None:
        difference, covariance = _difference(time, event, number, len(labels))
    else:
        stratum = np.unique(_labels(strata, "strata", len(time)), return_inverse=True)[1]
        parts = []
        for one in range(int(stratum.max()) + 1):
            chosen = stratum == one
            parts.append(_difference(time[chosen], event[chosen], number[chosen], len(labels)))
        difference, covariance = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
    # A group that is never at risk together with another has nothing to say; neither has the
    # last group, whose difference follows from the others.
    informed = np.flatnonzero(np.diag(covariance) > 0)[:-1]
    if not len(informed):
        return float("nan"), float("nan")
    kept = difference[informed]
    covariance = covariance[np.ix_(informed, informed)]
    # Groups that are never at risk together make the covariance singular.
    chi2 = float(kept @ np.linalg.pinv(covariance, hermitian=True) @ kept)
    freedom = int(np.linalg.matrix_rank(covariance, hermitian=True))
    return chi2, float(stats.chi2.sf(chi2, freedom))


def _difference(
    time: np.ndarray, event: np.ndarray, number: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (groups,) observed minus expected events and their covariance."""
    if not event.any():
        return np.zeros(groups), np.zeros((groups, groups))
    distinct = np.unique(time[event])
    at_risk, dead = np.empty((groups, len(distinct))), np.empty((groups, len(distinct)))
    for one in range(groups):
        mine = number == one
        ends = np.sort(time[mine])
        at_risk[one] = len(ends) - np.searchsorted(ends, distinct, side="left")
        until = np.searchsorted(np.sort(time[mine & event]), distinct, side="right")
        dead[one] = np.diff(until, prepend=0)
    total, deaths = at_risk.sum(axis=0), dead.sum(axis=0)
    share = at_risk / total
    # The last one at risk dies with certainty: no variance.
    spread = deaths * (total - deaths) / np.maximum(total - 1, 1)
    covariance = np.diag(share @ spread) - (share * spread) @ share.T
    return dead.sum(axis=1) - share @ deaths, covariance


def _labels(values: Any, name: str, rows: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (rows,):
        raise InputError(f"{name} must be ({rows},) like time, not {values.shape}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(f"{name} is missing in {int(np.isnan(values).sum())} rows")
    return values
