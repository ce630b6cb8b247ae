import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from survival_cohorts import NaiveCensoring, cohort, cohorts

from fm_med.errors import InputError
from fm_med.metrics import bootstrap, paired_difference
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
    standard_error,
)
from fm_med.survival.rank_counts import count_above, count_levels

REFERENCE = json.loads((Path(__file__).parent / "reference_concordance.json").read_text())


def naive_pairs(time, event, risk, weight=None):
    """Return (rows, rows) comparable, and concordant with one half for ties; O(n^2)."""
    i, j = np.ix_(range(len(time)), range(len(time)))
    later = (time[i] < time[j]) | ((time[i] == time[j]) & ~event[j])
    comparable = (event[i] & later).astype(float)
    return comparable, comparable * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))


def naive_index(time, event, risk, weight):
    comparable, concordant = naive_pairs(time, event, risk)
    pairs = np.asarray(weight)[:, None] if np.ndim(weight) == 1 else weight
    return (pairs * concordant).sum() / (pairs * comparable).sum()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_counts_points_before_and_above(data):
    value = np.array(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=30)))
    asked = np.array(data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=12)))
    ends = np.array([[data.draw(st.integers(0, len(value))) for _ in asked] for _ in range(2)])
    counted = [[[] for _ in asked] for _ in range(2)]
    for level in count_levels(value, asked, ends):
        for query, (start, *stops) in zip(level.queries, level.ends.T):
            for k, stop in enumerate(stops):
                counted[k][query] += level.points[start:stop].tolist()
    for k in range(2):
        for query, (bound, end) in enumerate(zip(asked, ends[k])):
            assert sorted(counted[k][query]) == np.flatnonzero(value[:end] > bound).tolist()
    assert count_above(value, asked, ends).tolist() == [[len(c) for c in row] for row in counted]


@given(cohorts())
@settings(max_examples=100, deadline=None)
def test_index_is_the_definition(outcome):
    assert concordance_index(*outcome) == pytest.approx(naive_index(*outcome, 1.0), abs=1e-15)


@given(cohorts(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_multiplicity_repeats_rows(outcome, seed):
    time, event, risk = outcome
    counts = np.random.default_rng(seed).integers(0, 3, (len(time), 4))
    together = concordance_index(*outcome, multiplicity=counts)
    uno = concordance_index_uno(*outcome, multiplicity=counts)
    for column, value, value_uno in zip(counts.T, together, uno):
        rows = np.repeat(np.arange(len(time)), column)
        one = (time[rows], event[rows], risk[rows])
        if naive_pairs(*one)[0].sum() == 0:
            assert np.isnan(value) and np.isnan(value_uno)
        else:
            assert value == pytest.approx(naive_index(*one, 1.0), abs=1e-14)
            assert value_uno == pytest.approx(concordance_index_uno(*one), abs=1e-12)


@pytest.mark.parametrize(("events", "ties"), [(0.02, {}), (0.9, {}), (0.3, {"distinct_risks": 40})])
def test_large_cohorts_count_alike_from_both_ends(events, ties):
    outcome = cohort(20_000, events=events, **ties)
    once = concordance_index(*outcome, multiplicity=np.ones((20_000, 1)))
    assert concordance_index(*outcome) == pytest.approx(once[0], abs=1e-14)
    assert concordance_interval(*outcome).value == pytest.approx(once[0], abs=1e-14)
    rows = np.random.default_rng(0).permutation(20_000)[:1500]
    some = tuple(column[rows] for column in outcome)
    assert concordance_index(*some) == pytest.approx(naive_index(*some, 1.0), abs=1e-13)


@given(cohorts())
@settings(max_examples=60, deadline=None)
def test_error_is_the_infinitesimal_jackknife(outcome):
    """The derivative of C by the weights of rows, from the definition in O(n^2)."""
    comparable, concordant = naive_pairs(*outcome)
    value = concordant.sum() / comparable.sum()
    excess = concordant - value * comparable
    influence = (excess.sum(0) + excess.sum(1)) / comparable.sum()
    assert standard_error(*outcome) == pytest.approx(np.linalg.norm(influence), abs=1e-14)


@given(cohorts(), st.sampled_from([None, 1.0, 2.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_uno_is_the_definition(outcome, horizon):
    time, event, _ = outcome
    weight = np.zeros(len(time))
    weight[event] = NaiveCensoring(time, event).at(time[event]) ** -2.0
    weight[time >= (horizon or np.inf)] = 0
    if (weight[:, None] * naive_pairs(*outcome)[0]).sum() == 0:
        with pytest.raises(InputError, match="before the horizon"):
            concordance_index_uno(*outcome, horizon=horizon)
        return
    expected = naive_index(*outcome, weight)
    assert concordance_index_uno(*outcome, horizon=horizon) == pytest.approx(expected, abs=1e-13)
    given_one = NaiveCensoring(time, event)
    again = concordance_index_uno(*outcome, horizon=horizon, censoring=given_one)
    assert again == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_agrees_with_r(case):
    time, event, risk = (np.array(case[name]) for name in ("time", "event", "risk"))
    assert concordance_index(time, event, risk) == pytest.approx(case["c"], abs=1e-12)
    assert standard_error(time, event, risk) == pytest.approx(case["se"], rel=1e-9)
    patient = np.array(case["subject"])
    clustered = standard_error(time, event, risk, subject_id=patient)
    assert clustered == pytest.approx(case["se_clustered"], rel=1e-9)
    other = np.array(case["other"])
    difference, p_value = concordance_difference(time, event, risk, other)
    assert difference.value == pytest.approx(case["difference"], abs=1e-12)
    half = 1.959963984540054 * case["se_difference"]
    assert difference.high - difference.value == pytest.approx(half, rel=1e-9)
    assert p_value == pytest.approx(case["p"], rel=1e-7)


@pytest.mark.parametrize("ties", [{}, {"distinct_times": 30, "distinct_risks": 12}])
def test_agrees_with_lifelines_and_scikit_survival(ties):
    from lifelines.utils import concordance_index as lifelines_index
    from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
    from sksurv.util import Surv

    time, event, risk = cohort(400, **ties)
    value = concordance_index(time, event, risk)
    assert value == pytest.approx(lifelines_index(time, -risk, event), abs=1e-14)
    assert value == pytest.approx(concordance_index_censored(event, time, risk)[0], abs=1e-14)
    outcome = Surv.from_arrays(event, time)
    horizon = float(np.quantile(time, 0.8))
    theirs = concordance_index_ipcw(outcome, outcome, risk, tau=horizon)[0]
    # scikit-survival weights by G(t), which differs from G(t-) where events meet censoring
    censoring = NaiveCensoring(time, event, before=False)
    ours = concordance_index_uno(time, event, risk, censoring=censoring, horizon=horizon)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_interval_is_on_the_logit_scale_and_by_patient():
    outcome = cohort(300, distinct_times=40, seed=1)
    interval = concordance_interval(*outcome)
    assert interval.n == 300
    error = standard_error(*outcome) / (interval.value * (1 - interval.value))
    logit = [np.log(end / (1 - end)) for end in (interval.low, interval.value, interval.high)]
    assert np.diff(logit) == pytest.approx(1.959963984540054 * error, rel=1e-9)
    thrice = tuple(np.tile(column, 3) for column in outcome)
    subject = np.tile([f"p{row}" for row in range(300)], 3)
    repeated = concordance_interval(*thrice, subject_id=subject)
    assert repeated.n == 300
    assert standard_error(*thrice) < standard_error(*outcome) * 0.7
    assert (repeated.value, repeated.low, repeated.high) == pytest.approx(
        (interval.value, interval.low, interval.high), abs=0.02
    )
    assert concordance_interval(*outcome, level=0.5).high < interval.high


def test_perfect_ranking_has_no_interval():
    time = np.arange(1.0, 6.0)
    interval = concordance_interval(time, np.ones(5), -time)
    assert interval.value == 1
    assert np.isnan([interval.low, interval.high]).all()


def test_bootstrap_agrees_with_the_analytic_interval():
    time, event, risk = cohort(400, distinct_times=200, events=0.3, seed=2)
    patient = np.arange(400)
    drawn = bootstrap(concordance_index, patient, time, event, risk, resamples=400)
    analytic = concordance_interval(time, event, risk)
    assert drawn.low == pytest.approx(analytic.low, abs=0.01)
    assert drawn.high == pytest.approx(analytic.high, abs=0.01)
    other = risk + np.random.default_rng(3).normal(size=400)
    drawn = paired_difference(concordance_index, patient, risk, other, time, event, resamples=400)
    difference, p_value = concordance_difference(time, event, risk, other)
    assert (drawn.low, drawn.high) == pytest.approx((difference.low, difference.high), abs=0.012)
    assert (p_value < 0.05) == (difference.low > 0 or difference.high < 0)


def test_a_model_does_not_differ_from_itself():
    time, event, risk = cohort(50)
    difference, p_value = concordance_difference(time, event, risk, 2 * risk)
    assert (difference.value, difference.low, difference.high, p_value) == (0, 0, 0, 1)


BAD = {
    "risk is NaN in 1 of 4 rows \\(first: row 2\\)": (
        [1, 2, 3, 4],
        [1, 0, 1, 0],
        [0, 1, np.nan, 2],
    ),
    "risk must be \\(4,\\)": ([1, 2, 3, 4], [1, 0, 1, 0], [0, 1, 2]),
    "must be a number >= 0, but row 1 has nan": (
        [1, np.nan, 3, 4],
        [1, 0, 1, 0],
        [0, 1, 2, 3],
    ),
    "time must be a number >= 0, but row 1 has -2": ([1, -2, 3, 4], [1, 0, 1, 0], [0, 1, 2, 3]),
    "event must be 0 or 1": ([1, 2, 3, 4], [1, 0, 2, 0], [0, 1, 2, 3]),
    "none of the 4 rows has an event": ([1, 2, 3, 4], [0, 0, 0, 0], [0, 1, 2, 3]),
    "no row outlived any of the events": ([1, 2, 3, 4], [0, 0, 0, 1], [0, 1, 2, 3]),
    "time and event must be": ([1, 2, 3, 4], [0, 1], [0, 1, 2, 3]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_a_sentence(message):
    outcome = [np.array(column) for column in BAD[message]]
    for function in (concordance_index, concordance_interval, concordance_index_uno):
        with pytest.raises(InputError, match=message):
            function(*outcome)


def test_shapes_of_patients_and_resamples_are_checked():
    outcome = cohort(20)
    with pytest.raises(ValueError, match="subject_id has 3 rows"):
        concordance_interval(*outcome, subject_id=["a", "b", "c"])
    for shape in ((20,), (19, 2)):
        with pytest.raises(ValueError, match="multiplicity must be"):
            concordance_index(*outcome, multiplicity=np.ones(shape))


def test_infinite_risks_are_ranked_without_a_warning():
    time, event, risk = cohort(30)
    extreme = np.where(risk > 1, np.inf, np.where(risk < -1, -np.inf, risk))
    clipped = np.clip(risk, -1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert concordance_index(time, event, extreme) == concordance_index(time, event, clipped)
