"""Scores of predicted cumulative incidence against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from survival_cohorts import NaiveCensoring

from fm_med.errors import InputError
from fm_med.survival import auroc_at, brier_at, cumulative_incidence, kaplan_meier
from fm_med.survival.competing_scores import (
    incidence_auroc_at,
    incidence_bins,
    incidence_brier_at,
    incidence_observed_expected,
)


def drawn(seed, rows=30, causes=2):
    random = np.random.default_rng(seed)
    time = np.ceil(random.exponential(6, rows))
    time[0] = time.max() + 1
    return time, random.integers(0, causes + 1, rows), np.round(random.random(rows), 1)


@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.99), of=st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_brier_and_auroc_are_their_definitions(seed, share, of):
    time, cause, risk = drawn(seed)
    horizon = np.floor(share * time.max()) + (seed % 2) / 2
    censoring = NaiveCensoring(time, cause > 0)
    total, weight, kinds = 0.0, [], []
    for t, c, f in zip(time, cause, risk):
        w = 0.0
        if c and t <= horizon:
            w = 1 / censoring.one(t)
        elif t > horizon or (t == horizon and not c):
            w = 1 / censoring.one(horizon)
        has = c == of and t <= horizon
        total += w * (has - f) ** 2
        weight.append(w)
        kinds.append(has)
    if horizon > 0:
        found = incidence_brier_at(time, cause, risk, of=of, horizon=horizon)
        assert found == pytest.approx(total / len(time), abs=1e-12)
        above = below = 0.0
        for i in np.flatnonzero(kinds):
            for j in np.flatnonzero(~np.array(kinds)):
                above += weight[i] * weight[j] * ((risk[i] > risk[j]) + (risk[i] == risk[j]) / 2)
                below += weight[i] * weight[j]
        found = incidence_auroc_at(time, cause, risk, of=of, horizon=horizon)
        assert found == pytest.approx(above / below) if below else np.isnan(found)


def test_one_cause_is_the_score_of_survival():
    time, cause, risk = drawn(3, rows=200, causes=1)
    event = cause > 0
    for horizon in (3.0, 5.5, 9.0):
        brier = incidence_brier_at(time, cause, risk, of=1, horizon=horizon)
        assert brier == pytest.approx(brier_at(time, event, 1 - risk, horizon=horizon))
    # Without ties between the horizon and a censoring, the controls are the same, too.
    auroc = incidence_auroc_at(time, cause, risk, of=1, horizon=5.5)
    assert auroc == pytest.approx(auroc_at(time, event, risk, horizon=5.5))


def test_resamples_are_the_rows_drawn():
    time, cause, risk = drawn(5, rows=60)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=4).T.astype(float)
    for score in (incidence_brier_at, incidence_auroc_at):
        found = score(time, cause, risk, of=1, horizon=4.5, multiplicity=counts)
        for place, count in enumerate(counts.T):
            rows = np.repeat(np.arange(60), count.astype(int))
            expected = score(time[rows], cause[rows], risk[rows], of=1, horizon=4.5)
            assert found[place] == pytest.approx(expected)


def test_calibration_of_the_truth_and_of_twice_the_truth():
    random = np.random.default_rng(1)
    rate = np.exp(random.normal(-3, 0.7, (4000, 2)))
    times = random.exponential(1 / rate)
    first = times.min(1)
    censored = random.uniform(2, 40, 4000)
    time = np.minimum(first, censored)
    cause = np.where(censored < first, 0, times.argmin(1) + 1)
    risk = rate[:, 0] / rate.sum(1) * (1 - np.exp(-10 * rate.sum(1)))
    observed = cumulative_incidence(time, cause)
    ratio = incidence_observed_expected(observed, 1, risk, 10.0)
    assert ratio.low < 1 < ratio.high and ratio.high / ratio.low < 1.25
    half = incidence_observed_expected(observed, 1, risk / 2, 10.0)
    assert half.value == pytest.approx(2 * ratio.value)
    bins = incidence_bins(time, cause, risk, of=1, horizon=10.0)
    assert bins.rows.sum() == 4000 and len(bins.predicted) == 10
    inside = (bins.low <= bins.predicted) & (bins.predicted <= bins.high)
    assert inside.sum() >= 8
    np.testing.assert_allclose(bins.observed, bins.predicted, atol=0.07)
    best = incidence_brier_at(time, cause, risk, of=1, horizon=10.0)
    for worse in (risk / 2, np.full(4000, risk.mean()), np.minimum(1, 2 * risk)):
        assert incidence_brier_at(time, cause, worse, of=1, horizon=10.0) > best


def test_bins_without_events_or_follow_up():
    time = np.array([1.0, 2, 3, 9, 9, 9])
    cause = np.array([0, 0, 0, 2, 1, 0])
    bins = incidence_bins(time, cause, np.repeat([0.1, 0.9], 3), of=1, horizon=9.0, bins=2)
    assert np.isnan(bins.observed[0])  # all were censored long before
    assert bins.observed[1] == pytest.approx(1 / 3)
    alone = incidence_bins(time, np.minimum(cause, 1), np.full(6, 0.5), of=1, horizon=9.0, bins=1)
    curve = kaplan_meier(time, cause > 0)
    assert alone.observed[0] == pytest.approx(1 - curve.at(np.array([9.0]))[0])
    none = incidence_bins(time, cause, np.full(6, 0.5), of=1, horizon=2.5, bins=1)
    assert none.observed.tolist() == [0.0]


def test_bad_input_of_scores():
    time, cause, risk = drawn(1)
    with pytest.raises(InputError, match="integers >= 0"):
        incidence_brier_at(time, cause - 1, risk, of=1, horizon=2.0)
    with pytest.raises(InputError, match="beyond the longest"):
        incidence_brier_at(time, cause, risk, of=1, horizon=1e4)
    with pytest.raises(InputError, match="a probability"):
        incidence_brier_at(time, cause, risk + 1, of=1, horizon=2.0)
    assert np.isnan(
        incidence_observed_expected(cumulative_incidence(time, cause), 1, risk * 0, 2.0).value
    )
