"""Baseline hazards without single patients' event times, for a model that is to be shared."""

from collections.abc import Iterable
from dataclasses import replace
from math import floor, log10

import numpy as np

from fm_med.survival.baseline import BaselineHazard
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.discrete import DiscreteHazard

PARTS = 100  # of the follow-up

Hazard = BaselineHazard | DiscreteHazard | CauseHazards


def coarsened(baseline: BaselineHazard, horizons: Iterable[float] = ()) -> BaselineHazard:
    """Return a baseline hazard that is known only on a grid, and at the horizons.

    A Breslow estimate has a step at each event time of the training rows, to the day and patient.
    Here the steps lie at the ends of 100 equal parts of the follow-up, which is rounded down to
    three significant digits, and at the horizons. At these times risks and their intervals are the
    same, bit for bit; in between they are those of the time before. Doing it twice changes nothing.

    Args:
        baseline: As fitted.
        horizons: Times, in the unit of the follow-up, whose risks must not change; those beyond
            the follow-up are left out.
    """
    end = _rounded_down(baseline.follow_up)
    exact = {float(time) for time in horizons if 0 <= time <= baseline.follow_up}
    grid = {float(f"{end * part / PARTS:.6g}") for part in range(1, PARTS)} | {end}
    times = np.array(sorted(grid | exact))
    # The number of steps done: the grid point takes the value of the last of them.
    done = np.searchsorted(baseline.time, times, side="right")
    new = np.diff(done, prepend=0) > 0
    last = done[new] - 1
    return replace(
        baseline,
        time=times[new],
        relative_hazard=baseline.relative_hazard[last],
        variance=baseline.variance[last],
        drift=baseline.drift[last],
        follow_up=max(exact | {end}),
    )


def coarsened_hazard(hazard: Hazard, horizons: Iterable[float] = ()) -> Hazard:
    """Return what turns a model's outputs into risks without single patients' event times.

    Of competing risks each cause is coarsened: the probability of no event stays the same at the
    grid and at the horizons, the share of each cause in it is that of the grid's steps. Hazards
    per interval have no event times but their edges, which belong to the task, and stay; the end of
    the follow-up is rounded.

    Args:
        hazard: As fitted.
        horizons: As for `coarsened`.
    """
    times = tuple(horizons)
    if isinstance(hazard, BaselineHazard):
        return coarsened(hazard, times)
    if isinstance(hazard, CauseHazards):
        return CauseHazards({name: coarsened(one, times) for name, one in hazard.baseline.items()})
    asked = [time for time in times if time <= hazard.follow_up]
    end = max(_rounded_down(hazard.follow_up), *hazard.edges, *asked)
    return replace(hazard, follow_up=float(end))


def _rounded_down(time: float) -> float:
    """Return a positive number rounded down to three significant digits."""
    places = 2 - floor(log10(time))
    nearest = float(f"{time:.3g}")
    return nearest if nearest <= time else float(f"{nearest - 10.0**-places:.3g}")
