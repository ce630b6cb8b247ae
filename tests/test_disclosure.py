"""What is kept of training rows: no extreme, no rare level, no small number."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fm_med.cohort import CohortCard
from fm_med.differences import RowFacts
from fm_med.disclosure import (
    MINIMUM,
    common_levels,
    covered_quantiles,
    hidden_parts,
    without_small_counts,
)
from fm_med.errors import InputError
from fm_med.reference import shares
from fm_med.tabular.processor import TableProcessor
from fm_med.tabular.scaling import RANKS, NumericScale

CARD = CohortCard(name="clinic", modality="tabular", units="those of its columns")
EVENLY = np.linspace(0, 1, 65)


def test_covered_ranks_are_the_values_own_quantiles():
    values = np.random.default_rng(0).gamma(2.0, size=2000)
    found = covered_quantiles(values, RANKS, np.arange(2000))
    np.testing.assert_array_equal(found, np.quantile(values, RANKS))


def test_ends_are_near_those_of_the_values():
    values = np.random.default_rng(0).normal(50, 10, size=200)
    found = covered_quantiles(values, (0.01, 0.99), np.arange(200))
    assert np.abs(found - [50 - 23.3, 50 + 23.3]).max() < 4


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40), min_size=40, max_size=150),
    far=st.floats(1e3, 1e9),
    sign=st.sampled_from([-1, 1]),
)
def test_nine_extremes_leave_no_trace(values, far, sign):
    """Nine persons may have any values at all beyond the others': the quantiles stay."""
    values = np.array(values, float)
    usual, wild = (np.append(values, sign * end * np.ones(9)) for end in (100.0, far))
    who = np.arange(len(usual))
    found = [covered_quantiles(v, EVENLY, who) for v in (usual, wild)]
    np.testing.assert_array_equal(*found)
    assert (np.diff(found[0]) >= -1e-9).all()


def test_a_person_counts_once_however_many_values():
    """One person's fifty visits are no crowd."""
    values = np.concatenate([np.arange(300.0), np.linspace(900, 999, 50)])
    one = np.concatenate([np.arange(300), np.full(50, 300)])
    assert covered_quantiles(values, EVENLY, np.arange(350)).max() > 900
    found = covered_quantiles(values, EVENLY, one)
    covered = 1 - (50 + 9.5) / 349  # below the nine largest of the others
    inside = (EVENLY <= covered) & (EVENLY > 0.03)
    np.testing.assert_array_equal(found[inside], np.quantile(values, EVENLY[inside]))
    values[300:] *= 1e6
    np.testing.assert_array_equal(covered_quantiles(values, EVENLY, one), found)


@pytest.mark.parametrize("size", [1, 2, 19, 38])
def test_of_few_persons_mean_and_deviation_alone_are_told(size):
    values = np.random.default_rng(size).gamma(2.0, size=size)
    found = covered_quantiles(values, (0.025, 0.5, 0.975), np.arange(size))
    expected = values.mean() + values.std() * np.array([-1.96, 0, 1.96])
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, values.std()))


def test_no_scale_holds_a_value_of_the_ends():
    values = np.random.default_rng(1).lognormal(size=300)
    ends = np.sort(values)[[*range(9), *range(-9, 0)]]
    for method in ("standard", "quantile"):
        scale = NumericScale.fit(values, method)
        kept = np.array([scale.median, *scale.knots, *scale.quantiles])
        assert not np.isclose(kept[:, None], ends, rtol=1e-9).any()
        assert len(scale.knots) == 300 // MINIMUM + 1  # no list of the values themselves
        assert len(NumericScale.fit(np.tile(values, 9), method).knots) == 65


def column(values, name="x"):
    array = pa.array(values)
    kind = "numeric" if pa.types.is_floating(array.type) else "categorical"
    return pa.table(
        [array], schema=pa.schema([pa.field(name, array.type, metadata={"input": kind})])
    )


def test_levels_of_fewer_than_ten_persons_are_unseen():
    rows = column(["I"] * 30 + ["II"] * 10 + ["Dr Who's"] * 9)
    processor = TableProcessor.for_cohort(CARD, rows)
    assert processor.levels == [["I", "II"]]
    assert "Who" not in json.dumps(processor.to_dict())
    assert processor.from_rows(rows)["categorical"][-1].item() == 0
    assert common_levels(np.array(["a"] * 20 + ["b"] * 20), np.arange(40) // 20) == []


def test_ids_tell_whose_a_row_or_a_visit_is():
    plain = column(["I"] * 30).append_column(
        "subject_id", pa.array([f"p{k % 9}" for k in range(30)])
    )
    other = plain.append_column(pa.field("y", pa.float64()), pa.array([1.0] * 30))
    with pytest.raises(InputError, match="no level of x is that of 10 persons or more"):
        TableProcessor.for_cohort(CARD, other)
    visits = column([["I", "I"]] * 9 + [["I", "II"]] * 9 + [["II"]])
    visits = visits.append_column("visit_time", pa.array([[0.0, 1.0]] * 18 + [[0.0]]))
    assert TableProcessor.for_cohort(CARD, visits).levels == [["I", "II"]]
    assert TableProcessor.for_cohort(CARD, visits.slice(0, 18)).levels == [["I"]]


def test_where_nothing_is_left_it_is_refused_or_says_nothing():
    """Of few rows the numbers stay (mean and deviation), levels do not."""
    texts = column(["a", "b", "c"] * 6, "stage")
    with pytest.raises(InputError, match="of stage is that of 10 persons .* from these 18 rows"):
        TableProcessor.for_cohort(CARD, texts)
    age = pa.field("age", pa.float64(), metadata={"input": "numeric"})
    both = texts.append_column(age, pa.array([float(k) for k in range(18)]))
    processor = TableProcessor.for_cohort(CARD, both)
    assert processor.levels == [[]] and processor.from_rows(both)["categorical"].sum() == 0
    assert processor.from_rows(both)["numeric"].std(correction=0).item() == pytest.approx(1)


def test_small_counts_are_hidden_once():
    assert hidden_parts({"a": 9, "b": 40, "c": 12}) == {"a": "< 10", "b": 40, "c": "not shown"}
    told = without_small_counts(
        {"rows": 60, "persons": 9, "events": 22, "events_by_cause": {"death": 20, "stroke": 2}}
    )
    assert told["persons"] == "< 10" and told["rows"] == 60 and told["events"] == 22
    assert told["events_by_cause"] == {"death": "not shown", "stroke": "< 10"}
    assert without_small_counts(told) == told
    assert without_small_counts({"events_by_cause": {"a": 10, "b": 11}}) == {
        "events_by_cause": {"a": 10, "b": 11}
    }


def test_a_rare_level_is_not_in_the_aggregates_by_its_name():
    yes = np.repeat([1.0, 0.0], [9, 91])
    facts = RowFacts({"level: ward = Dr Who's": yes, "level: ward = B": 1 - yes, "event: x": yes})
    assert shares(facts, hide=True) == {"level: ward = B": (1.0, 100), "event: x": (0.0, 100)}
    assert len(shares(facts, hide=False)) == 3


def test_scales_saved_by_older_versions_are_read_as_they_were():
    """They have 65 knots, whatever the number of persons, and the extremes at the ends."""
    values = np.random.default_rng(3).gamma(2.0, size=100)
    knots = np.quantile(values, EVENLY)
    old = {"method": "quantile", "median": 1.0, "mean": 2.0, "scale": 1.4, "knots": knots.tolist()}
    found = NumericScale(**old).apply(knots[1:-1])
    np.testing.assert_allclose(found, norm.ppf(EVENLY[1:-1]), atol=1e-9)
