"""The charts of one of several causes, computed from predicted and observed incidence."""

import numpy as np

from fm_med.evaluation.competing_scores import CauseOutcome, CauseScore
from fm_med.evaluation.survival_plots import EVENTS_PER_BIN, THIRDS
from fm_med.evaluation.survival_scores import Horizons
from fm_med.report.survival_figures import CalibrationPlot, RiskGroup
from fm_med.survival.competing import cumulative_incidence
from fm_med.survival.competing_scores import incidence_bins


def incidence_calibration(
    score: CauseScore, outcome: CauseOutcome, place: int, horizons: Horizons
) -> list[CalibrationPlot]:
    """Return predicted and observed incidence of one cause at each horizon.

    Args:
        score: The model.
        outcome: Of its rows.
        place: The column of the cause, whose number is one more.
        horizons: At which to look.
    """
    if score.incidence is None:
        return []
    time, cause = outcome.time, outcome.cause
    plots = []
    for suffix, at in horizons.times.items():
        risk = score.incidence(at)[:, place]
        events = int(((cause == place + 1) & (time <= at)).sum())
        bins = int(np.clip(events // EVENTS_PER_BIN, 2, 10))
        found = incidence_bins(time, cause, risk, of=place + 1, horizon=at, bins=bins)
        ends = (found.predicted, found.observed, found.low, found.high)
        plots.append(CalibrationPlot(horizons.names[suffix], *ends, risk, rows=found.rows))
    return plots


def incidence_groups(
    risk: np.ndarray, outcome: CauseOutcome, place: int, reference: np.ndarray
) -> list[RiskGroup]:
    """Return the incidence of one cause in thirds of its predicted risk (Aalen-Johansen).

    Args:
        risk: (rows,) predicted.
        outcome: Of the rows.
        place: The column of the cause, whose number is one more.
        reference: (any,) predictions at whose thirds the groups are cut.
    """
    number = np.searchsorted(np.quantile(reference, [1 / 3, 2 / 3]), risk)
    groups = []
    for third, name in enumerate(THIRDS):
        rows = number == third
        time, cause = outcome.time[rows], outcome.cause[rows]
        own = cause == place + 1
        if not rows.any():
            continue
        steps, free = np.zeros(0), [np.zeros(0)] * 3
        if own.any():
            found = cumulative_incidence(time, cause)
            column = found.causes.index(place + 1)
            # Before its first event an incidence of 0 has no interval.
            parts = (found.incidence, found.high, found.low)
            steps, free = found.time, [1 - np.nan_to_num(part[:, column]) for part in parts]
        groups.append(RiskGroup(name, steps, free[0], free[1], free[2], time, int(own.sum())))
    return groups if len(groups) > 1 else []
