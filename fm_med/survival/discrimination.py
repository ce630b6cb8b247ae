"""Discrimination at a horizon: who has the event by then, told from who does not."""

import numpy as np

from fm_med.errors import InputError
from fm_med.metrics import auroc
from fm_med.survival.censoring_weight import CensoringAt, inverse_censoring_weight
from fm_med.survival.comparable_pairs import checked_multiplicity, checked_outcome, checked_risk


def auroc_at(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    horizon: float,
    censoring: CensoringAt | None = None,
    multiplicity: np.ndarray | None = None,
) -> float | np.ndarray:
    r"""Cumulative/dynamic AUROC: events by the horizon against those followed beyond it.

    .. math::
        \frac{\sum_{i: t_i \le h, \delta_i = 1} \sum_{j: t_j > h}
              G(t_i-)^{-1} ([r_i > r_j] + \tfrac12 [r_i = r_j])}
             {\sum_{i: t_i \le h, \delta_i = 1} \sum_{j: t_j > h} G(t_i-)^{-1}}

    Rows censored by the horizon are left out; the events weigh more in their place, by the
    survival function :math:`G` of censoring.

    Args:
        time: (rows,) end of follow-up, any unit.
        event: (rows,) 1 or True where the follow-up ended with the event.
        risk: (rows,) any score, higher meaning an earlier event.
        horizon: In the unit of time.
        censoring: Distribution of censoring in the training rows; None estimates it from the rows
            at hand, anew in each resample.
        multiplicity: (rows, resamples) how often each row counts; None counts each row once.

    Returns:
        A float, or (resamples,) for given multiplicities; NaN for resamples without both kinds.

    Raises:
        InputError: See `checked_outcome` and `checked_risk`; or no event is by the horizon, or no
            row is followed beyond it.

    References:
        Uno et al., "Evaluating prediction rules for t-year survivors with censored regression
        models", JASA 102 (2007); Hung & Chiang, "Estimation methods for time-dependent AUC models
        with survival data", Canadian Journal of Statistics 38 (2010).
    """
    time, event = checked_outcome(time, event)
    risk = checked_risk(risk, len(time))
    case, control = np.flatnonzero(event & (time <= horizon)), np.flatnonzero(time > horizon)
    if len(case) == 0 or len(control) == 0:
        raise InputError(
            f"horizon {horizon:g} needs events by then and rows followed beyond it, "
            f"but has {len(case)} and {len(control)}"
        )
    counts = None if multiplicity is None else checked_multiplicity(multiplicity, len(time))
    weight = inverse_censoring_weight(time, event, case, censoring=censoring, multiplicity=counts)
    chosen = np.concatenate([case, control])
    weights = np.ones((len(chosen), 1)) if counts is None else counts[chosen]
    weights[: len(case)] *= weight
    label = np.arange(len(chosen)) < len(case)
    value = np.asarray(auroc(label, risk[chosen], multiplicity=weights))
    return float(value[0]) if multiplicity is None else value
