"""Brier scores against their definition, R and scikit-survival."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.metrics import brier_score, integrated_brier_score
from sksurv.util import Surv

from fm_med.errors import InputError
from fm_med.metrics import bootstrap, paired_difference
from fm_med.survival import (
    CensoringDistribution,
    brier_at,
    integrated_brier,
    kaplan_meier,
    scaled_brier,
)

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())
GRID = np.linspace(1, 9, 25)


def cohort(rows=400, seed=0):
    """Return untied follow-up and the true survival as a function of times."""
    generator = np.random.default_rng(seed)
    rate = np.exp(generator.normal(size=rows) - 2.5)
    had, left = generator.exponential(1 / rate), generator.uniform(3, 12, rows)
    return np.minimum(had, left), had <= left, lambda times: np.exp(-np.outer(rate, times))


def naive(rows, t, g):
    """Return the score at t by looking at each row; g(u) is the chance to be observed until u."""
    total = 0.0
    for time, event, survival in rows:
        if time <= t and event:
            total += survival**2 / g(time)
        elif time >= t:
            total += (1 - survival) ** 2 / g(t)
    return total / len(rows)


ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.booleans(), st.sampled_from([0.0, 0.2, 0.5, 1.0])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 6))
def test_the_score_follows_its_definition(rows, horizon):
    time, event, survival = np.array(rows, dtype=float).T
    horizon = min(horizon, int(time.max()))
    g = CensoringDistribution.fit(time, event)
    expected = naive(rows, horizon, lambda u: g.at([u])[0])
    assert brier_at(time, event, survival, horizon=horizon) == pytest.approx(expected)


def test_it_equals_r_with_ties():
    time, event, risk = (np.array(REFERENCE[name], float) for name in ("time", "event", "risk"))
    value = brier_at(time, event, 1 - risk, horizon=REFERENCE["horizon"][0])
    assert value == pytest.approx(REFERENCE["brier"][0], abs=1e-12)


def test_it_equals_scikit_survival():
    time, event, survival = cohort()
    trained_time, trained_event, _ = cohort(300, seed=1)
    # The last of theirs must not be censored, or they refuse; so the training rows reach further.
    trained_time[0], trained_event[0] = 13.0, True
    trained, tested = (
        Surv.from_arrays(e, t) for e, t in ((trained_event, trained_time), (event, time))
    )
    g = CensoringDistribution.fit(trained_time, trained_event)
    ours = [
        brier_at(time, event, survival([t])[:, 0], horizon=t, censoring=g) for t in GRID.tolist()
    ]
    theirs = brier_score(trained, tested, survival(GRID), GRID)[1]
    assert np.allclose(ours, theirs, rtol=0, atol=1e-13)
    integrated = integrated_brier_score(trained, tested, survival(GRID), GRID)
    value = integrated_brier(time, event, survival(GRID), GRID, censoring=g)
    assert value == pytest.approx(integrated, abs=1e-13)


@pytest.mark.parametrize("elements", [1, 100, 2**18])
def test_blocks_change_nothing(monkeypatch, elements):
    time, event, survival = cohort()
    expected = np.trapezoid(
        [brier_at(time, event, survival([t])[:, 0], horizon=t) for t in GRID.tolist()], GRID
    ) / (GRID[-1] - GRID[0])
    monkeypatch.setattr("fm_med.survival.brier.BLOCK", elements)
    assert integrated_brier(time, event, survival, GRID) == pytest.approx(expected, abs=1e-14)
    assert integrated_brier(time, event, survival(GRID), GRID) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("fixed", [True, False])
def test_resamples_count_rows_as_often_as_drawn(fixed):
    time, event, survival = cohort(60)
    g = CensoringDistribution.fit(time, event) if fixed else None
    counts = np.random.default_rng(0).integers(0, 3, size=(60, 5))
    grid = np.linspace(1, 6, 7)
    values = integrated_brier(time, event, survival, grid, censoring=g, multiplicity=counts)
    at = brier_at(time, event, survival([4.0])[:, 0], horizon=4, censoring=g, multiplicity=counts)
    for count, value, one in zip(counts.T, values, at):
        drawn = np.repeat(np.arange(60), count)
        mine, had, predicted = time[drawn], event[drawn], survival(grid)[drawn]
        assert value == pytest.approx(integrated_brier(mine, had, predicted, grid, censoring=g))
        predicted = survival([4.0])[drawn, 0]
        assert one == pytest.approx(brier_at(mine, had, predicted, horizon=4, censoring=g))


def test_intervals_come_from_the_bootstrap_of_patients():
    time, event, survival = cohort()
    person = np.repeat(np.arange(200), 2)
    ibs = partial(integrated_brier, times=GRID)
    interval = bootstrap(ibs, person, time, event, survival(GRID), resamples=100)
    assert interval.low < interval.value < interval.high
    chance = np.full((400, len(GRID)), 0.5)
    gain = paired_difference(ibs, person, survival(GRID), chance, time, event, resamples=100)
    assert gain.high < 0


def test_one_curve_for_all_scores_zero_and_the_truth_more():
    time, event, survival = cohort(2000)
    curve = kaplan_meier(time, event)
    same = np.broadcast_to(curve.at(GRID), (2000, len(GRID)))
    assert scaled_brier(time, event, same, GRID) == pytest.approx(0, abs=1e-12)
    assert 0.05 < scaled_brier(time, event, survival, GRID, reference=curve) < 0.5


def test_the_closing_date_of_a_study_can_be_the_horizon():
    time, event = np.array([1.0, 2.0, 5.0, 5.0]), np.array([True, False, False, False])
    # The one censored at 2 of the three then under observation counts for the two that stayed.
    assert brier_at(time, event, np.zeros(4), horizon=5) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"horizon": 4.0}, "horizon 4 is beyond the longest follow-up 3"),
        ({"horizon": 0.0}, "a horizon must be a positive time, not 0"),
        ({"survival_at_horizon": [0.1, 1.2, 0.5]}, "between 0 and 1, but row 1 has 1.2"),
        ({"survival_at_horizon": [0.1, np.nan, 0.5]}, "row 1 has nan"),
        ({"survival_at_horizon": [0.1, 0.5]}, "must have 3 rows"),
        ({"time": [1.0, np.nan, 3.0]}, "row 1 has nan"),
    ],
)
def test_bad_input_of_the_score_is_refused(change, sentence):
    good = {"time": [1.0, 2.0, 3.0], "event": [1, 0, 1], "survival_at_horizon": [0.1, 0.5, 0.9]}
    with pytest.raises(InputError, match=sentence):
        brier_at(**({"horizon": 2.0} | good | change))


@pytest.mark.parametrize(
    ("survival", "times", "sentence"),
    [
        (np.full((3, 2), 0.5), [1.0, 4.0], "horizon 4 is beyond"),
        (np.full((3, 2), 0.5), [2.0, 1.0], "two or more rising"),
        (np.full((3, 1), 0.5), [2.0], "two or more rising"),
        (np.full((3, 3), 0.5), [1.0, 2.0], "survival must be"),
        (np.full((3, 2), 1.5), [1.0, 2.0], "between 0 and 1"),
        (lambda times: np.full((2, len(times)), 0.5), [1.0, 2.0], "survival must be"),
        (lambda times: np.full((3, len(times)), np.nan), [1.0, 2.0], "row 0 has nan"),
    ],
)
def test_bad_input_of_the_integral_is_refused(survival, times, sentence):
    with pytest.raises(InputError, match=sentence):
        integrated_brier([1.0, 2.0, 3.0], [1, 0, 1], survival, times)
