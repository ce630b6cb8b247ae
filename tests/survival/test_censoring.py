"""The distribution of censoring against its definition, R and scikit-survival."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from fm_med.errors import InputError
from fm_med.survival import CensoringDistribution

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())
FOLLOW_UPS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=15)


def naive(follow_ups, t):
    """Return G(t-): events leave before those censored at the same time."""
    chance, longest = 1.0, max(u for u, _ in follow_ups)
    for u in sorted({u for u, had in follow_ups if not had}):
        if u < min(t, longest):
            censored = sum(v == u and not had for v, had in follow_ups)
            chance *= 1 - censored / (censored + sum(v > u for v, _ in follow_ups))
    return chance


@settings(max_examples=60, deadline=None)
@given(FOLLOW_UPS, st.sampled_from([0.0, 1.0, 2.5, 4.0, 6.0, 50.0]))
def test_the_chance_of_being_observed_follows_its_definition(follow_ups, t):
    time, event = np.array(follow_ups, dtype=float).T
    g = CensoringDistribution.fit(time, event).at([t])
    assert g[0] == pytest.approx(naive(follow_ups, t))
    assert g[0] > 0


def test_it_equals_r_and_scikit_survival():
    time, event = np.array(REFERENCE["time"], float), np.array(REFERENCE["event"], bool)
    ours = CensoringDistribution.fit(time, event)
    times = np.array(REFERENCE["times"][1:], float)
    assert np.allclose(ours.at(times), REFERENCE["censoring"], rtol=0, atol=1e-12)
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(event, time))
    # Theirs includes the time itself; a moment later is the same.
    assert np.allclose(ours.at(times + 1e-9)[:-1], theirs.predict_proba(times)[:-1], atol=1e-12)


def test_times_beyond_the_follow_up_are_clipped_and_counted():
    g = CensoringDistribution.fit([1.0, 2.0, 3.0, 3.0], [False, True, False, True])
    assert g.at([3.0, 1e6]).tolist() == [0.75, 0.75]
    assert g.clipped([0.0, 3.0, 3.1, 1e6]) == 2


@settings(max_examples=30, deadline=None)
@given(FOLLOW_UPS, st.integers(0, 99))
def test_resamples_count_rows_as_often_as_drawn(follow_ups, seed):
    time, event = np.array(follow_ups, dtype=float).T
    counts = np.random.default_rng(seed).integers(0, 3, size=(len(time), 4))
    values = CensoringDistribution.fit(time, event, multiplicity=counts).at(time)
    for count, value in zip(counts.T, values.T):
        drawn = np.repeat(np.arange(len(time)), count)
        if len(drawn):
            one = CensoringDistribution.fit(time[drawn], event[drawn])
            assert np.allclose(value[count > 0], one.at(time[count > 0]))
        assert (value > 0).all()


def test_bad_times_are_refused():
    with pytest.raises(InputError, match="row 0 has -1.0"):
        CensoringDistribution.fit([-1.0], [True])
    with pytest.raises(InputError, match="1 times to weight are not a number"):
        CensoringDistribution.fit([1.0], [True]).at([np.nan])
