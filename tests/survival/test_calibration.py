"""Calibration against R, the definition, and risks known to be right or wrong."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fm_med.errors import InputError
from fm_med.metrics import bootstrap
from fm_med.survival import calibration_at, d_calibration, kaplan_meier

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())


def reference(name):
    return np.array(REFERENCE[name], dtype=float)


def from_r():
    return calibration_at(
        reference("time"), reference("event"), reference("risk"), horizon=REFERENCE["horizon"][0]
    )


def cohort(rows=6000, seed=0, shape=1.3):
    """Return follow-up and the true log cumulative hazard as a function of time."""
    generator = np.random.default_rng(seed)
    log_hazard = generator.normal(size=rows) - 3
    had = (generator.exponential(size=rows) / np.exp(log_hazard)) ** (1 / shape)
    left = generator.uniform(2, 15, rows)
    time = np.minimum(had, left)
    return time, had <= left, lambda t: log_hazard + shape * np.log(t)


def risk_of(log_cumulative):
    return -np.expm1(-np.exp(log_cumulative))


def test_it_equals_r():
    ours = from_r()
    slope, error = reference("slope")
    assert ours.slope.value == pytest.approx(slope, abs=1e-9)
    assert ours.slope.high - ours.slope.low == pytest.approx(2 * 1.95996398454 * error, abs=1e-9)
    assert ours.intercept.value == pytest.approx(reference("intercept")[0], abs=1e-10)
    ratio, relative_error = reference("observed_expected")
    assert ours.observed_expected.value == pytest.approx(ratio, abs=1e-12)
    assert np.log(ours.observed_expected.high / ratio) == pytest.approx(
        1.95996398454 * relative_error, abs=1e-10
    )
    assert np.allclose((ours.ici, ours.e50, ours.e90), reference("ici"), rtol=0, atol=1e-9)


def test_true_risks_are_calibrated_within_their_intervals():
    inside = np.zeros(3)
    for seed in range(40):
        time, event, truth = cohort(500, seed)
        found = calibration_at(time, event, risk_of(truth(5.0)), horizon=5)
        ideal = {"slope": 1, "intercept": 0, "observed_expected": 1}
        inside += [
            getattr(found, name).low <= value <= getattr(found, name).high
            for name, value in ideal.items()
        ]
    # 95 % of 40 is 38; below 33 has a chance of 1 in 1,000.
    assert (inside >= 33).all()


def test_wrong_risks_are_found_wrong_in_the_way_they_are():
    time, event, truth = cohort()
    at = partial(calibration_at, time, event, horizon=3)
    right, log_cumulative = at(risk_of(truth(3.0))), truth(3.0)
    middle = log_cumulative.mean()
    extreme = at(risk_of(middle + 1.2 * (log_cumulative - middle)))
    assert extreme.slope.value == pytest.approx(right.slope.value / 1.2, abs=1e-6)
    doubled = at(risk_of(log_cumulative + np.log(2)))
    assert doubled.intercept.value == pytest.approx(right.intercept.value - np.log(2), abs=1e-9)
    assert doubled.slope.value == pytest.approx(right.slope.value, abs=1e-9)
    assert doubled.observed_expected.high < 0.8
    assert right.ici < extreme.ici < 0.03 < doubled.ici


def test_the_intercept_has_the_standard_error_of_the_baseline_hazard():
    time, event, truth = cohort(300)
    log_cumulative, by = truth(5.0), event & (time <= 5)
    at_risk = [np.exp(log_cumulative[time >= t]).sum() for t in time[by]]
    hazard, variance = np.sum(1 / np.array(at_risk)), np.sum(1 / np.array(at_risk) ** 2)
    found = calibration_at(time, event, risk_of(log_cumulative), horizon=5).intercept
    assert found.value == pytest.approx(np.log(hazard))
    assert found.high - found.value == pytest.approx(1.95996398454 * np.sqrt(variance) / hazard)


def test_bins_are_kaplan_meier_of_each_tenth():
    time, event, truth = cohort(1000)
    risk = risk_of(truth(5.0))
    bins = calibration_at(time, event, risk, horizon=5).bins
    assert bins.rows.tolist() == [100] * 10
    assert bins.events.sum() == (event & (time <= 5)).sum()
    third = np.argsort(risk)[200:300]
    curve = kaplan_meier(time[third], event[third])
    assert bins.predicted[2] == pytest.approx(risk[third].mean())
    assert bins.observed[2] == pytest.approx(1 - curve.at(5))
    low, high = curve.interval_at(5)
    assert (bins.low[2], bins.high[2]) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_the_curve_for_the_plot_rises_in_the_prediction():
    curve = from_r().curve
    assert curve.shape[1] == 2
    assert (np.diff(curve[:, 0]) >= 0).all()
    assert ((curve >= 0) & (curve <= 1)).all()


def test_a_constant_prediction_has_no_slope_but_all_the_rest():
    time, event, _ = cohort(400)
    observed = 1 - kaplan_meier(time, event).at(5)
    found = calibration_at(time, event, np.full(400, observed), horizon=5)
    assert np.isnan(found.slope.value)
    assert found.observed_expected.value == pytest.approx(1)
    assert found.ici < 0.005
    assert found.bins.rows.tolist() == [400]


def test_risks_of_zero_and_one_stay_finite():
    time, event, truth = cohort(400)
    risk = risk_of(truth(5.0))
    risk[:2] = 0, 1
    found = calibration_at(time, event, risk, horizon=5)
    assert np.isfinite([found.slope.value, found.intercept.value, found.ici]).all()


def test_a_bin_whose_follow_up_is_too_short_is_not_extrapolated():
    time, event = np.array([1.0, 2, 1, 2, 9, 9]), np.array([1, 0, 1, 0, 1, 0])
    risk = np.array([0.1, 0.1, 0.1, 0.1, 0.6, 0.6])
    bins = calibration_at(time, event, risk, horizon=9, bins=2).bins
    assert np.isnan([bins.observed[0], bins.low[0], bins.high[0]]).all()
    assert bins.observed[1] == 0.5


def test_intervals_of_the_ici_come_the_plain_way():
    time, event, truth = cohort(300)

    def ici(time, event, risk):
        return calibration_at(time, event, risk, horizon=5).ici

    interval = bootstrap(ici, np.arange(300), time, event, risk_of(truth(5.0)), resamples=20)
    assert 0 < interval.low < interval.high < 0.2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 1) | st.sampled_from([0.2, 0.5])),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([2, 5, 10]),
)
def test_d_calibration_follows_its_definition(rows, bins):
    rows = [(True, 0.5), *rows]
    edges = np.linspace(0, 1, bins + 1)
    expected = np.zeros(bins)
    for event, s in rows:
        mine = min(np.flatnonzero(edges <= s).max(), bins - 1)
        if event:
            expected[mine] += 1
        elif s == 0:
            expected[0] += 1
        else:
            expected[mine] += (s - edges[mine]) / s
            expected[:mine] += np.diff(edges)[:mine] / s
    event, survival = np.array(rows, dtype=float).T
    chi2, p, counts = d_calibration(np.ones(len(rows)), event, survival, bins=bins)
    assert np.allclose(counts, expected)
    assert counts.sum() == pytest.approx(len(rows))
    assert chi2 == pytest.approx(stats.chisquare(expected).statistic)
    assert p == pytest.approx(stats.chi2.sf(chi2, bins - 1))


def test_d_calibration_tells_right_from_wrong():
    time, event, truth = cohort(3000)
    log_cumulative = np.array(truth(time))
    assert d_calibration(time, event, 1 - risk_of(log_cumulative))[1] > 0.01
    assert d_calibration(time, event, 1 - risk_of(log_cumulative + 0.3))[1] < 1e-4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"horizon": 9.0}, "horizon 9 is beyond the longest follow-up 3"),
        ({"horizon": 0.5}, "none came by horizon 0.5"),
        ({"event": [0, 0, 0]}, "calibration needs events"),
        ({"risk_at_horizon": [0.1, 1.5, 0.2]}, "between 0 and 1, but row 1 has 1.5"),
        ({"risk_at_horizon": [[0.1], [0.5], [0.2]]}, r"must be \(3,\), not \(3, 1\)"),
        ({"time": [1.0, -2.0, 3.0]}, "row 1 has -2.0"),
    ],
)
def test_bad_input_is_refused(change, sentence):
    good = {"time": [1.0, 2.0, 3.0], "event": [1, 0, 1], "risk_at_horizon": [0.1, 0.5, 0.9]}
    with pytest.raises(InputError, match=sentence):
        calibration_at(**({"horizon": 2.0} | good | change))


def test_bad_input_of_d_calibration_is_refused():
    with pytest.raises(InputError, match="none of 2 rows"):
        d_calibration([1.0, 2.0], [0, 0], [0.5, 0.5])
    with pytest.raises(InputError, match="row 1 has nan"):
        d_calibration([1.0, 2.0], [1, 0], [0.5, np.nan])
