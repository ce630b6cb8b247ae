"""Decision curves against R, their definition and what must hold for every model."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.metrics import bootstrap
from fm_med.survival import net_benefit, net_benefit_at

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())


def reference(name):
    return np.array(REFERENCE[name], dtype=float)


def follow_up():
    return reference("time"), reference("event"), reference("risk")


def test_it_equals_r():
    curves = net_benefit(
        *follow_up(), horizon=REFERENCE["horizon"][0], thresholds=reference("thresholds")
    )
    assert np.allclose(curves.model, reference("net_benefit"), rtol=0, atol=1e-12)
    assert np.allclose(curves.treat_all, reference("net_benefit_all"), rtol=0, atol=1e-12)
    assert not curves.treat_none.any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.3, 0.8])), min_size=1, max_size=12),
    st.sampled_from([0.05, 0.3, 0.5]),
)
def test_without_censoring_it_counts_true_and_false_positives(rows, threshold):
    event, risk = np.array(rows, dtype=float).T
    time = np.where(event == 1, 1.0, 3.0)
    acted = risk >= threshold
    true, false = (acted & (event == 1)).sum(), (acted & (event == 0)).sum()
    expected = (true - false * threshold / (1 - threshold)) / len(rows)
    everybody = (event.sum() - (event == 0).sum() * threshold / (1 - threshold)) / len(rows)
    horizon = min(2.0, time.max())
    curves = net_benefit(time, event, risk, horizon=horizon, thresholds=[threshold])
    assert curves.model[0] == pytest.approx(expected, abs=1e-12)
    assert curves.treat_all[0] == pytest.approx(everybody, abs=1e-12)


def test_acting_on_all_by_the_model_is_treating_all():
    time, event, _ = follow_up()
    curves = net_benefit(time, event, np.ones(len(time)), horizon=8, thresholds=[0.1, 0.9])
    assert np.array_equal(curves.model, curves.treat_all)
    nobody = net_benefit(time, event, np.zeros(len(time)), horizon=8, thresholds=[0.1, 0.9])
    assert not nobody.model.any()


def test_follow_up_that_ends_early_is_not_extrapolated():
    time, event = np.array([1.0, 2.0, 9.0, 9.0]), np.array([1, 0, 0, 1])
    risk = np.array([0.9, 0.9, 0.1, 0.1])
    curves = net_benefit(time, event, risk, horizon=8, thresholds=[0.05, 0.5])
    assert np.isfinite(curves.model[0])
    assert np.isnan(curves.model[1])


def test_resamples_count_rows_as_often_as_drawn():
    time, event, risk = follow_up()
    counts = np.random.default_rng(0).integers(0, 3, size=(len(time), 6))
    at = partial(net_benefit_at, horizon=8, threshold=0.3)
    for count, value in zip(counts.T, at(time, event, risk, multiplicity=counts)):
        drawn = np.repeat(np.arange(len(time)), count)
        assert value == pytest.approx(at(time[drawn], event[drawn], risk[drawn]), abs=1e-12)
    interval = bootstrap(at, np.arange(len(time)), time, event, risk, resamples=100)
    assert interval.low < interval.value < interval.high
    assert interval.value == at(time, event, risk)


def test_resamples_with_nobody_to_act_on_gain_nothing():
    at = partial(net_benefit_at, [1.0, 2.0], [1, 0], horizon=2, threshold=0.5)
    assert at([0.1, 0.9], multiplicity=np.array([[2, 1], [0, 1]]))[0] == 0
    assert not at([0.1, 0.2], multiplicity=np.ones((2, 3))).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"thresholds": [0.0]}, "each threshold must be above 0 and below 1"),
        ({"thresholds": [0.5, 1.0]}, "each threshold"),
        ({"horizon": 9.0}, "horizon 9 is beyond the longest follow-up 2"),
        ({"risk_at_horizon": [0.1, 2.0]}, "row 1 has 2.0"),
    ],
)
def test_bad_input_is_refused(change, sentence):
    good = {"time": [1.0, 2.0], "event": [1, 0], "risk_at_horizon": [0.5, 0.1], "horizon": 1.0}
    with pytest.raises(InputError, match=sentence):
        net_benefit(**({"thresholds": [0.2]} | good | change))


def test_a_threshold_for_resamples_is_checked_too():
    with pytest.raises(InputError, match="not 1"):
        net_benefit_at(
            [1.0, 2.0], [1, 0], [0.5, 0.1], horizon=1, threshold=1.0, multiplicity=np.ones((2, 1))
        )
