import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from survival_cohorts import NaiveCensoring, cohort, cohorts

from fm_med.errors import InputError
from fm_med.metrics import bootstrap
from fm_med.survival.discrimination import auroc_at


def naive_auroc_at(time, event, risk, horizon, survival_of_censoring):
    """The definition, pair by pair."""
    above = below = 0.0
    for i in np.flatnonzero(event & (time <= horizon)):
        for j in np.flatnonzero(time > horizon):
            weight = 1 / survival_of_censoring[i]
            above += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
            below += weight
    return above / below


@given(cohorts(max_rows=25), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_is_the_definition(outcome, horizon):
    time, event, risk = outcome
    if not (time > horizon).any():
        horizon = 0
    survival = NaiveCensoring(time, event).at(time)
    expected = naive_auroc_at(time, event, risk, horizon, survival)
    assert auroc_at(*outcome, horizon=horizon) == pytest.approx(expected, abs=1e-13)


@given(cohorts(max_rows=25), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_multiplicity_repeats_rows_and_estimates_censoring_anew(outcome, seed):
    counts = np.random.default_rng(seed).integers(0, 3, (len(outcome[0]), 4))
    for column, value in zip(counts.T, auroc_at(*outcome, horizon=0, multiplicity=counts)):
        time, event, risk = (np.repeat(array, column) for array in outcome)
        if not (event & (time <= 0)).any() or not (time > 0).any():
            assert np.isnan(value)
        else:
            assert value == pytest.approx(auroc_at(time, event, risk, horizon=0), abs=1e-12)


def test_a_given_censoring_stays_the_same_in_all_resamples():
    time, event, risk = cohort(60, distinct_times=20)
    censoring = NaiveCensoring(time[:30], event[:30])
    counts = np.random.default_rng(0).integers(1, 3, (60, 3))
    survival = censoring.at(time)
    values = auroc_at(time, event, risk, horizon=8, censoring=censoring, multiplicity=counts)
    for column, value in zip(counts.T, values):
        rows = np.repeat(np.arange(60), column)
        expected = naive_auroc_at(time[rows], event[rows], risk[rows], 8, survival[rows])
        assert value == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("ties", [{}, {"distinct_times": 30, "distinct_risks": 12}])
def test_agrees_with_scikit_survival(ties):
    from sksurv.metrics import cumulative_dynamic_auc
    from sksurv.util import Surv

    time, event, risk = cohort(300, **ties)
    outcome = Surv.from_arrays(event, time)
    inside = time < time.max()  # scikit-survival refuses times beyond the training follow-up
    horizons = np.unique(np.quantile(time, [0.2, 0.5, 0.8]))
    # scikit-survival weights by G(t), which differs from G(t-) where events meet censoring
    censoring = NaiveCensoring(time, event, before=False)
    theirs = cumulative_dynamic_auc(outcome, outcome[inside], risk[inside], horizons)[0]
    for horizon, value in zip(horizons, theirs):
        kept = (time[inside], event[inside], risk[inside])
        ours = auroc_at(*kept, horizon=horizon, censoring=censoring)
        assert ours == pytest.approx(value, abs=1e-12)


def test_bootstrap_of_the_auroc_covers_its_value():
    time, event, risk = cohort(300, distinct_times=60)

    def at_ten(time, event, risk, *, multiplicity=None):
        return auroc_at(time, event, risk, horizon=10, multiplicity=multiplicity)

    interval = bootstrap(at_ten, np.arange(300), time, event, risk, resamples=200)
    assert interval.low < interval.value == at_ten(time, event, risk) < interval.high
    assert interval.dropped == 0


def test_horizons_without_events_or_survivors_are_refused():
    time, event, risk = np.array([2.0, 3, 4]), np.array([1, 0, 0]), np.zeros(3)
    with pytest.raises(InputError, match="horizon 1 needs events by then .* has 0 and 3"):
        auroc_at(time, event, risk, horizon=1)
    with pytest.raises(InputError, match="horizon 4 needs .* has 1 and 0"):
        auroc_at(time, event, risk, horizon=4)
    with pytest.raises(InputError, match="risk is NaN"):
        auroc_at(time, event, risk * np.nan, horizon=3)


def test_a_censoring_distribution_of_zero_is_refused():
    class Zero:
        def at(self, times):
            return np.zeros(len(times))

    with pytest.raises(ValueError, match="must be above 0"):
        auroc_at(*cohort(40), horizon=0.5, censoring=Zero())
