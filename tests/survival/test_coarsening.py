"""A shared baseline hazard tells no patient's event time and the same risks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.survival.baseline import BaselineHazard, breslow_baseline
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.coarsening import PARTS, coarsened, coarsened_hazard
from fm_med.survival.discrete import DiscreteHazard

HORIZONS = (12.0, 36.5)


def fitted(seed, rows, scale=1.0):
    random = np.random.default_rng(seed)
    time = random.exponential(30 * scale, rows) + 0.01 * scale
    event = random.random(rows) < 0.5
    event[0] = True
    return breslow_baseline(random.normal(size=rows), time=time, event=event), time[event]


def grid(baseline):
    return [float(f"{baseline.follow_up * k / PARTS:.6g}") for k in range(PARTS + 1)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 400), st.sampled_from([1e-3, 1.0, 365.25]))
def test_risks_and_intervals_on_the_grid_are_the_same_bits(seed, rows, scale):
    baseline, _ = fitted(seed, rows, scale)
    horizons = [h * scale for h in HORIZONS if h * scale <= baseline.follow_up]
    coarse = coarsened(baseline, [*horizons, 1e9])
    log_hazard = np.linspace(-3, 3, 7)
    end = coarsened(baseline).follow_up
    assert end <= coarse.follow_up <= baseline.follow_up < end * 1.011
    assert float(f"{end:.3g}") == end and len(coarse.time) <= PARTS + len(horizons)
    for time in [*grid(coarsened(baseline)), *horizons]:
        for one, two in zip(
            (baseline.risk(log_hazard, time), *baseline.risk_interval(log_hazard, time)),
            (coarse.risk(log_hazard, time), *coarse.risk_interval(log_hazard, time)),
        ):
            assert one.tobytes() == two.tobytes()


def test_no_event_time_is_left_and_in_between_it_is_the_time_before():
    baseline, events = fitted(1, 400)
    coarse = coarsened(baseline, HORIZONS)
    assert not set(events) & set(coarse.time) and set(HORIZONS) <= set(coarse.time)
    assert set(coarse.time) <= {*grid(coarsened(baseline)), *HORIZONS}
    first, second = coarse.time[3:5]
    assert coarse.cumulative((first + second) / 2) == baseline.cumulative(first)
    assert baseline.follow_up != coarse.follow_up == float(f"{coarse.follow_up:.3g}")


def test_twice_is_once_and_a_file_keeps_the_bits():
    baseline, _ = fitted(2, 60)
    coarse = coarsened(baseline, [*HORIZONS, baseline.follow_up])  # the very end is asked for
    again = coarsened(coarse, [*HORIZONS, baseline.follow_up])
    assert again.to_dict() == coarse.to_dict() != baseline.to_dict()
    assert BaselineHazard.from_dict(coarse.to_dict()).to_dict() == coarse.to_dict()


@pytest.mark.parametrize(("time", "end"), [(59.97, 59.9), (60.0, 60.0), (4271.0, 4270.0), (1, 1)])
def test_the_follow_up_is_rounded_down(time, end):
    baseline = breslow_baseline([0.0, 0.0], time=[time / 2, time], event=[True, False])
    assert coarsened(baseline).follow_up == end


def test_causes_keep_their_sum_on_the_grid():
    random = np.random.default_rng(3)
    time, cause = random.exponential(30, 500) + 0.01, random.integers(0, 3, 500)
    outputs = random.normal(size=(500, 2))
    fine = CauseHazards.fit(outputs, time=time, cause=cause, causes=["heart", "other"])
    coarse = coarsened_hazard(fine, HORIZONS)
    assert len(coarse.baseline["heart"].time) < len(fine.baseline["heart"].time)
    for at in HORIZONS:
        one, two = fine.incidence(outputs, at), coarse.incidence(outputs, at)
        np.testing.assert_allclose(one.sum(1), two.sum(1), rtol=1e-12)
        assert np.abs(one - two).max() < 0.005
        for name in fine.causes:
            assert fine.baseline[name].cumulative(at) == coarse.baseline[name].cumulative(at)


def test_hazards_per_interval_stay():
    hazard = DiscreteHazard(np.array([1.0, 2.0]), 3.0)
    assert coarsened_hazard(hazard) == hazard
    longest = coarsened_hazard(replace(hazard, follow_up=1234.5), (5.0, 1234.0, 9999.0))
    assert longest.follow_up == 1234.0  # an asked horizon; else 1230, nobody's to the day
    assert coarsened_hazard(replace(hazard, follow_up=1234.5)).follow_up == 1230.0
