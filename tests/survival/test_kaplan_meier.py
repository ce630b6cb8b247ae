"""Survival curves against their definition, R and lifelines."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter

from fm_med.errors import InputError
from fm_med.survival import kaplan_meier, survival_at

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())


def reference(name):
    return np.array(REFERENCE[name], dtype=float)


def follow_up():
    return reference("time"), reference("event").astype(bool)


@st.composite
def tied(draw):
    """A cohort with few distinct times, weights and late entries."""
    rows = draw(st.integers(1, 12))
    column = {
        name: np.array(draw(st.lists(values, min_size=rows, max_size=rows)))
        for name, values in {
            "time": st.integers(1, 6),
            "event": st.booleans(),
            "weight": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
            "waited": st.integers(1, 6),
        }.items()
    }
    entry = np.maximum(column["time"] - column["waited"], 0)
    return column["time"].astype(float), column["event"], column["weight"], entry.astype(float)


def naive(cohort, t):
    """Return S(t), Greenwood's sum and the number at risk just before t by looking at each row."""
    time, event, weight, entry = cohort
    survival, greenwood = 1.0, 0.0
    for u in sorted(set(time[time <= t])):
        at_risk = sum(w for w, a, b in zip(weight, entry, time) if a < u <= b)
        dead = sum(w for w, b, e in zip(weight, time, event) if b == u and e)
        if dead:
            survival *= 1 - dead / at_risk
            greenwood += np.inf if dead == at_risk else dead / at_risk / (at_risk - dead)
    return survival, greenwood, sum(w for w, a, b in zip(weight, entry, time) if a < t <= b)


@settings(max_examples=60, deadline=None)
@given(tied(), st.sampled_from([0.5, 1.0, 2.5, 3.0, 6.0, 9.0]))
def test_curves_follow_their_definition(cohort, t):
    time, event, weight, entry = cohort
    curve = kaplan_meier(time, event, weight=weight, entry=entry)
    survival, greenwood, at_risk = naive(cohort, t)
    assert curve.at(t) == pytest.approx(survival, abs=1e-12)
    assert curve.variance_at(t) == pytest.approx(greenwood)
    assert curve.at_risk_at(t) == pytest.approx(at_risk)
    if 0 < survival < 1:
        reach = 1.959963984540054 * np.sqrt(greenwood) / np.log(survival)
        ends = [survival ** np.exp(reach), survival ** np.exp(-reach)]
        assert np.allclose(sorted(ends), curve.interval_at(t), atol=1e-12)


CASES = {
    "plain": {},
    "weighted": {"weight": "weight"},
    "late": {"entry": "entry"},
    "late_weighted": {"weight": "weight", "entry": "entry"},
}


@pytest.mark.parametrize("name", CASES)
def test_curves_equal_r(name):
    time, event = follow_up()
    given_columns = {key: reference(column) for key, column in CASES[name].items()}
    curve = kaplan_meier(time, event, **given_columns)
    ours = {
        "time": curve.time,
        "surv": curve.survival,
        "n.risk": curve.at_risk,
        "n.event": curve.events,
        "lower": curve.low,
        "upper": curve.high,
        "median": curve.median(),
        "at_surv": curve.at(reference("times")),
    }
    for part, values in ours.items():
        theirs = reference(f"{name}.{part}")
        # R leaves the interval open before the first event, where survival is 1.
        known = ~np.isnan(theirs)
        assert np.allclose(np.asarray(values)[known], theirs[known], rtol=0, atol=1e-12), part


def test_numbers_at_risk_equal_r():
    curve = kaplan_meier(*follow_up())
    assert curve.at_risk_at(reference("times")).tolist() == reference("plain.at_risk").tolist()


def test_curves_equal_lifelines():
    generator = np.random.default_rng(3)
    time, event = np.ceil(generator.exponential(30, 500)), generator.random(500) < 0.4
    curve, theirs = kaplan_meier(time, event), KaplanMeierFitter().fit(time, event)
    assert np.allclose(curve.survival, theirs.survival_function_at_times(curve.time), atol=1e-13)
    ends = theirs.confidence_interval_.loc[curve.time].to_numpy()
    inside = curve.survival > 0
    assert np.allclose(curve.low[inside], ends[inside, 0], atol=1e-12)
    assert np.allclose(curve.high[inside], ends[inside, 1], atol=1e-12)
    assert curve.median()[0] == theirs.median_survival_time_


@settings(max_examples=30, deadline=None)
@given(tied(), st.integers(0, 99), st.sampled_from([0.5, 2.0, 3.5, 9.0]))
def test_resamples_count_rows_as_often_as_drawn(cohort, seed, horizon):
    time, event, *_ = cohort
    counts = np.random.default_rng(seed).integers(0, 3, size=(len(time), 4))
    values = survival_at(time, event, horizon=horizon, multiplicity=counts)
    for count, value in zip(counts.T, values):
        drawn = np.repeat(np.arange(len(time)), count)
        if len(drawn):
            expected = survival_at(time[drawn], event[drawn], horizon=horizon)
            assert value == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(value)


def test_a_curve_that_ends_at_zero_has_no_interval_there():
    curve = kaplan_meier([1.0, 2.0, 3.0], [False, True, True])
    assert curve.survival.tolist() == [1, 0.5, 0]
    assert (curve.low[0], curve.high[0]) == (1, 1)
    assert np.isnan([curve.low[2], curve.high[2]]).all()
    # Survival is exactly one half from 2 to 3: the middle, as in R.
    assert curve.median()[0] == 2.5


def test_fractional_weights_reach_zero_exactly():
    curve = kaplan_meier([1.0, 2, 2, 2], [False, True, True, True], weight=[0.7, 0.1, 0.2, 0.3])
    assert curve.survival[-1] == 0
    assert curve.variance_at(2) == np.inf


@pytest.mark.parametrize(
    ("time", "event", "options", "sentence"),
    [
        ([1.0, np.nan], [1, 0], {}, "time must be a number >= 0, but row 1 has nan"),
        ([1.0, -2.0], [1, 0], {}, "row 1 has -2.0"),
        ([1.0, np.inf], [1, 0], {}, "row 1 has inf"),
        ([1.0, 2.0], [1, 2], {}, "event must be 0 or 1, but row 1 has 2"),
        ([1.0, 2.0], [True], {}, "time and event must be"),
        ([], [], {}, "0 rows"),
        ([1.0, 2.0], [1, 0], {"entry": [1.0, 0.0]}, "entry must be before the end of follow-up"),
        ([1.0, 2.0], [1, 0], {"weight": [1.0, -1.0]}, "weight must be a number >= 0"),
        ([1.0, 2.0], [1, 0], {"weight": [1.0]}, "weight must be"),
    ],
)
def test_bad_follow_up_is_refused(time, event, options, sentence):
    with pytest.raises(InputError, match=sentence):
        kaplan_meier(time, event, **options)
