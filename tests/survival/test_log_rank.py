"""The log-rank test against its definition, R and scikit-survival."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lifelines.statistics import multivariate_logrank_test
from scipy import stats
from sksurv.compare import compare_survival
from sksurv.util import Surv

from fm_med.errors import InputError
from fm_med.survival import log_rank

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())


def reference(name):
    return np.array(REFERENCE[name], dtype=float)


@pytest.mark.parametrize("name", ["two", "three", "strata"])
def test_it_equals_r(name):
    group = reference("group")
    if name == "two":
        group = group > 0
    strata = reference("stratum") if name == "strata" else None
    ours = log_rank(reference("time"), reference("event"), group, strata=strata)
    assert np.allclose(ours, reference(f"log_rank.{name}"), rtol=1e-11, atol=0)


def test_it_equals_lifelines_and_scikit_survival():
    generator = np.random.default_rng(1)
    group = generator.integers(4, size=600)
    time = np.ceil(generator.exponential(20 - 2 * group))
    event = generator.random(600) < 0.5
    ours = log_rank(time, event, group)
    lifelines = multivariate_logrank_test(time, group, event)
    assert np.allclose(ours, (lifelines.test_statistic, lifelines.p_value), rtol=1e-9)
    assert np.allclose(ours, compare_survival(Surv.from_arrays(event, time), group), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 1)), min_size=2, max_size=15
    )
)
def test_two_groups_follow_the_definition(rows):
    assume(any(e for _, e, _ in rows) and len({g for _, _, g in rows}) == 2)
    difference = variance = 0.0
    for t in {u for u, e, _ in rows if e}:
        n, n1 = sum(u >= t for u, _, _ in rows), sum(u >= t and g for u, _, g in rows)
        d, d1 = sum(u == t and e for u, e, _ in rows), sum(u == t and e and g for u, e, g in rows)
        difference += d1 - d * n1 / n
        if n > 1:
            variance += d * n1 * (n - n1) * (n - d) / (n**2 * (n - 1))
    chi2, p = log_rank(*np.array(rows, dtype=float).T)
    if variance < 1e-12:
        assert np.isnan([chi2, p]).all()
    else:
        assert chi2 == pytest.approx(difference**2 / variance, abs=1e-9)
        assert p == pytest.approx(stats.chi2.sf(chi2, 1))


def test_a_group_that_meets_no_event_changes_nothing():
    time, event = np.array([1.0, 2, 3, 4, 5, 6, 0.5]), np.array([1, 1, 0, 1, 0, 1, 0])
    group = np.array([0, 1, 0, 1, 0, 1, 2])
    assert np.allclose(log_rank(time, event, group), log_rank(time[:6], event[:6], group[:6]))


@pytest.mark.parametrize(
    ("event", "group", "sentence"),
    [
        ([1, 0], ["a", "a"], "all rows are in a"),
        ([0, 0], ["a", "b"], "none of 2 rows has one"),
        ([1, 0], ["a"], "group must be"),
        ([1, 0], [0.0, np.nan], "group is missing in 1 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(event, group, sentence):
    with pytest.raises(InputError, match=sentence):
        log_rank([1.0, 2.0], event, group)
