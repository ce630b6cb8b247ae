"""Baseline hazards and absolute risks against R, and what is stored with a model."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.survival.baseline import BaselineHazard, breslow_baseline, stratified_baselines
from fm_med.survival.cox_fit import fit_cox

REFERENCE = json.loads((Path(__file__).parent / "reference_cox.json").read_text())
CLINICAL = np.stack([REFERENCE[k] for k in ("x0", "x1", "x2")], axis=1)
OUTCOME = {"time": np.array(REFERENCE["time"]), "event": np.array(REFERENCE["cause"]) == 1}


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_equals_basehaz_of_r(case):
    names = ("weight", "strata", "entry", "offset")
    options = {k: np.array(REFERENCE[k]) for k in names if case[k]} | OUTCOME
    fit = fit_cox(None, clinical=CLINICAL, ties=case["ties"], **options)
    # R's uncentred baseline leaves the mean of an offset in: it belongs to the average offset.
    log_hazard = fit.log_hazard(clinical=CLINICAL) + options.pop("offset", 0)
    base = np.array([case["base_time"], case["base_hazard"], case["base_stratum"]])
    if case["strata"]:
        found = stratified_baselines(log_hazard, ties=case["ties"], **options)
    else:
        found = {1: breslow_baseline(log_hazard, ties=case["ties"], **options)}
    assert len(found) == len(set(case["base_stratum"]))
    for stratum, baseline in found.items():
        time, hazard, _ = base[:, base[2] == stratum]
        ratio = hazard / np.maximum(baseline.cumulative(time), 1e-300)
        expected = ratio[-1] if case["offset"] else 1.0
        assert ratio[hazard > 0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("case", REFERENCE["risks"])
def test_absolute_risks_and_their_intervals_equal_r(case):
    fit = fit_cox(None, clinical=CLINICAL, ties=case["ties"], **OUTCOME)
    baseline = breslow_baseline(
        fit.log_hazard(clinical=CLINICAL),
        ties=case["ties"],
        covariates=CLINICAL,
        covariance=fit.covariance,
        **OUTCOME,
    )
    new = np.reshape(REFERENCE["new"], (3, 3)).T
    log_hazard = fit.log_hazard(clinical=new)
    names = ("survival", "low", "high")
    expected = {name: np.reshape(case[name], (3, 3)) for name in names}
    survival = baseline.survival(log_hazard, REFERENCE["horizons"])
    assert survival == pytest.approx(expected["survival"], rel=1e-8)
    for number, horizon in enumerate(REFERENCE["horizons"]):
        low, high = baseline.risk_interval(log_hazard, horizon, covariates=new)
        assert 1 - high == pytest.approx(expected["low"][:, number], rel=1e-7)
        assert 1 - low == pytest.approx(expected["high"][:, number], rel=1e-7)


def test_without_covariates_the_interval_is_that_of_a_fit_on_the_log_hazard():
    fit = fit_cox(None, clinical=CLINICAL, **OUTCOME)
    f = fit.log_hazard(clinical=CLINICAL)
    refit = fit_cox(None, clinical=f[:, None], ties="breslow", offset=np.zeros(len(f)), **OUTCOME)
    slope = refit.clinical_coefficients[0]
    plain = breslow_baseline(slope * f, **OUTCOME)
    covariance = refit.covariance / slope**2
    told = breslow_baseline(
        slope * f, covariates=slope * f[:, None], covariance=covariance, **OUTCOME
    )
    ends = plain.risk_interval(slope * f, 8.0)
    known = told.risk_interval(slope * f, 8.0, covariates=slope * f[:, None])
    assert np.stack(ends) == pytest.approx(np.stack(known), rel=1e-9)
    risk = plain.risk(slope * f, 8.0)
    assert (ends[0] < risk).all() and (risk < ends[1]).all()


@given(seed=st.integers(0, 10**6), shift=st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_equals_the_definition_whatever_the_shift(seed, shift):
    generator = np.random.default_rng(seed)
    time = generator.integers(1, 9, 30).astype(float)
    event = generator.random(30) < 0.5
    event[0] = True
    weight, f = generator.integers(0, 3, 30), generator.normal(size=30)
    weight[0] = 1
    baseline = breslow_baseline(f + shift, time=time, event=event, weight=weight)
    for horizon in (0.0, time[weight > 0].max()):
        hazard = sum(
            weight[(time == t) & event].sum() / (weight * np.exp(f))[time >= t].sum()
            for t in np.unique(time[event & (time <= horizon) & (weight > 0)])
        )
        risk = baseline.risk(f + shift, horizon)
        assert risk == pytest.approx(1 - np.exp(-hazard * np.exp(f)), abs=1e-9)


def test_expected_and_observed_events_are_equal():
    f = np.random.default_rng(0).normal(size=len(CLINICAL))
    baseline = breslow_baseline(f, **OUTCOME)
    expected = baseline.cumulative(OUTCOME["time"]) * np.exp(f)
    assert expected.sum() == pytest.approx(OUTCOME["event"].sum(), rel=1e-12)


def test_json_gives_back_the_same_bits():
    f = np.random.default_rng(0).normal(size=len(CLINICAL)) * 3
    baseline = breslow_baseline(f, **OUTCOME)
    again = BaselineHazard.from_dict(json.loads(json.dumps(baseline.to_dict())))
    for name, value in vars(baseline).items():
        assert np.array_equal(getattr(again, name), value)
    assert (again.survival(f, [3.0, 7.0]) == baseline.survival(f, [3.0, 7.0])).all()
    stored = baseline.to_dict()
    del stored["drift"]
    with pytest.raises(InputError, match="no drift"):
        BaselineHazard.from_dict(stored)
    with pytest.raises(InputError, match="lengths"):
        BaselineHazard.from_dict(baseline.to_dict() | {"time": [1.0]})


def test_shapes_and_limits():
    f = np.zeros(len(CLINICAL))
    baseline = breslow_baseline(f, **OUTCOME)
    assert baseline.survival(f[:5], [1.0, 2.0]).shape == (5, 2)
    assert baseline.survival(f[:5], 1.0).shape == (5,)
    assert baseline.risk(0.0, 1.0).shape == ()
    assert (baseline.risk(np.array([-1e4, 0, 1e4]), 0.0) == 0).all()
    assert baseline.risk(np.array([-1e4, 1e4]), 5.0).tolist() == [0.0, 1.0]
    last = OUTCOME["time"].max()
    baseline.risk(f, last)
    with pytest.raises(InputError, match=f"horizon {last + 1:g} is beyond .* {last:g}"):
        baseline.risk(f, last + 1)
    with pytest.raises(InputError, match="horizon"):
        baseline.risk(f, np.nan)


def test_bad_input():
    f = np.zeros(len(CLINICAL))
    none = np.zeros(len(f), dtype=bool)
    with pytest.raises(InputError, match="none of 160 rows"):
        breslow_baseline(f, time=OUTCOME["time"], event=none)
    with pytest.raises(InputError, match="log_hazard must be finite"):
        breslow_baseline(f * np.nan, **OUTCOME)
    with pytest.raises(InputError, match="together"):
        breslow_baseline(f, covariates=CLINICAL, **OUTCOME)
    with pytest.raises(InputError, match="covariance must be"):
        breslow_baseline(f, covariates=CLINICAL, covariance=np.eye(2), **OUTCOME)
    with pytest.raises(InputError, match="covariates must be"):
        breslow_baseline(f, **OUTCOME).risk_interval(f, 3.0, covariates=CLINICAL)


def test_coverage_of_the_risk_interval():
    """Of the true risk at a fixed covariate, over simulated cohorts."""
    generator = np.random.default_rng(0)
    truth = 1 - np.exp(-0.1 * 3 * np.exp(0.8))
    inside = 0
    for _ in range(150):
        x = generator.normal(size=(200, 1))
        died = generator.exponential(1 / (0.1 * np.exp(0.8 * x[:, 0])))
        outcome = {"time": np.minimum(died, 5), "event": died < 5}
        fit = fit_cox(None, clinical=x, **outcome)
        baseline = breslow_baseline(
            fit.log_hazard(clinical=x), covariates=x, covariance=fit.covariance, **outcome
        )
        one = np.ones((1, 1))
        low, high = baseline.risk_interval(fit.log_hazard(clinical=one), 3.0, covariates=one)
        inside += bool(low[0] <= truth <= high[0])
    assert 0.9 <= inside / 150 <= 0.99
