"""Competing risks against R and against definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.survival.baseline import breslow_baseline
from fm_med.survival.competing import competing_risk, cumulative_incidence, fit_cause_specific

REFERENCE = json.loads((Path(__file__).parent / "reference_cox.json").read_text())
CLINICAL = np.stack([REFERENCE[k] for k in ("x0", "x1", "x2")], axis=1)
OUTCOME = {k: np.array(REFERENCE[k]) for k in ("time", "cause")}


def by_definition(time, cause, weight, entry, k, until):
    survival, total = 1.0, 0.0
    for t in np.unique(time[(cause > 0) & (time <= until)]):
        at_risk = weight[(entry < t) & (time >= t)].sum()
        total += survival * weight[(time == t) & (cause == k)].sum() / at_risk
        survival *= 1 - weight[(time == t) & (cause > 0)].sum() / at_risk
    return total


@pytest.mark.parametrize("case", REFERENCE["incidence"])
def test_incidence_errors_and_intervals_equal_r(case):
    options = {k: np.array(REFERENCE[k]) for k in ("weight", "entry") if case[k]}
    found = cumulative_incidence(**OUTCOME, **options)
    # R also lists times of censoring alone.
    time = np.array(case["time"])
    here = np.isin(time, found.time)
    assert here.sum() == len(found.time) and found.causes == (1, 2)
    for column, name in enumerate(("one", "two")):
        assert found.incidence[:, column] == pytest.approx(np.array(case[name])[here], abs=1e-12)
        error = np.array(case[f"{name}_error"])[here]
        assert found.error[:, column] == pytest.approx(error, abs=1e-10)
        assert found.at(time, column + 1) == pytest.approx(np.array(case[name]), abs=1e-12)
    ends = np.array([case["one_low"], case["one_high"]], float)[:, here]
    known = np.isfinite(ends[0])
    assert found.low[known, 0] == pytest.approx(ends[0, known], abs=1e-9)
    assert found.high[known, 0] == pytest.approx(ends[1, known], abs=1e-9)


@given(seed=st.integers(0, 10**6), late=st.booleans())
@settings(max_examples=40, deadline=None)
def test_incidence_and_influence_equal_the_definition(seed, late):
    generator = np.random.default_rng(seed)
    rows = 14
    time = generator.integers(1, 8, rows).astype(float)
    cause = generator.integers(0, 3, rows)
    cause[0] = 1
    weight = generator.random(rows) + 0.2
    # Somebody is at risk all the time, else the curve is at an end.
    entry = np.where(np.arange(rows) < 5, 0, time - generator.integers(1, 5, rows))
    time[1], cause[1] = 9.0, 0
    entry = entry if late else np.zeros(rows)
    found = cumulative_incidence(time, cause, weight=weight, entry=entry if late else None)
    for column, k in enumerate(found.causes):
        for step, until in enumerate(found.time):
            value = by_definition(time, cause, weight, entry, k, until)
            assert found.incidence[step, column] == pytest.approx(value, abs=1e-12)
            variance = 0.0
            for row in range(rows):
                up, down = weight.copy(), weight.copy()
                up[row] += 1e-5
                down[row] -= 1e-5
                ends = [by_definition(time, cause, w, entry, k, until) for w in (up, down)]
                variance += (weight[row] * (ends[0] - ends[1]) / 2e-5) ** 2
            assert found.error[step, column] == pytest.approx(variance**0.5, abs=1e-7)


def test_a_single_cause_is_one_minus_kaplan_meier():
    time, event = OUTCOME["time"], (OUTCOME["cause"] > 0).astype(int)
    found = cumulative_incidence(time, event)
    at_risk = [(time >= t).sum() for t in found.time]
    dead = [((time == t) & (event > 0)).sum() for t in found.time]
    kaplan_meier = np.cumprod(1 - np.array(dead) / at_risk)
    assert found.incidence[:, 0] == pytest.approx(1 - kaplan_meier)
    inner = found.incidence[:, 0] < 1
    assert (found.low < found.incidence)[inner].all() and (found.incidence < found.high)[
        inner
    ].all()


def test_absolute_risks_from_cause_specific_models_equal_r():
    fits = fit_cause_specific(None, clinical=CLINICAL, ties="breslow", **OUTCOME)
    coefficients = np.concatenate([fits[k].clinical_coefficients for k in (1, 2)])
    expected = REFERENCE["joint"]
    assert coefficients == pytest.approx(expected["coefficients"], rel=1e-8)
    baselines = {
        k: breslow_baseline(
            fit.log_hazard(clinical=CLINICAL),
            time=OUTCOME["time"],
            event=OUTCOME["cause"] == k,
        )
        for k, fit in fits.items()
    }
    new = np.reshape(REFERENCE["new"], (3, 3)).T
    log_hazard = {k: fit.log_hazard(clinical=new) for k, fit in fits.items()}
    for number, horizon in enumerate(REFERENCE["horizons"]):
        risk = competing_risk(log_hazard, baselines, horizon)
        for k, name in ((1, "one"), (2, "two")):
            column = np.reshape(expected[name], (3, 3))[:, number]
            assert risk[k] == pytest.approx(column, rel=1e-7)
        total = sum(b.cumulative(horizon) * np.exp(log_hazard[k]) for k, b in baselines.items())
        assert risk[1] + risk[2] == pytest.approx(1 - np.exp(-total), rel=1e-12)


def test_before_the_first_event_there_is_no_risk():
    f = np.zeros(len(CLINICAL))
    time, cause = OUTCOME["time"] + 5, OUTCOME["cause"]
    baselines = {k: breslow_baseline(f, time=time, event=cause == k) for k in (1, 2)}
    risk = competing_risk({1: f, 2: f}, baselines, 1.0)
    assert not risk[1].any() and not risk[2].any()
    with pytest.raises(InputError, match="causes"):
        competing_risk({1: f}, baselines, 1.0)
    with pytest.raises(InputError, match="beyond"):
        competing_risk({1: f, 2: f}, baselines, 1e4)


def test_bad_input():
    time, cause = OUTCOME["time"], OUTCOME["cause"]
    with pytest.raises(InputError, match="none of 160"):
        cumulative_incidence(time, cause * 0)
    with pytest.raises(InputError, match="cause must be integers"):
        cumulative_incidence(time, cause + 0.5)
    with pytest.raises(InputError, match="cause must be integers"):
        cumulative_incidence(time, cause - 1)
    with pytest.raises(InputError, match="no cause 7"):
        cumulative_incidence(time, cause).at([1.0], 7)
