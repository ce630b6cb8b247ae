"""Subgroup rows: right numbers, and none that gives away a small group of persons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.metrics import Interval
from fm_med.survival import age_band, subgroup_rows


def counted(rows):
    """A statistic that tells which rows it was given."""
    return Interval(float(rows.sum()), 0.0, 0.0, len(rows))


def repeated(groups):
    """Return labels and events of groups given as label: (with event, without)."""
    labels, event = [], []
    for label, (had, free) in groups.items():
        labels += [label] * (had + free)
        event += [True] * had + [False] * free
    return np.array(labels), np.array(event)


def rows_of(groups, **options):
    labels, event = repeated(groups)
    rows = subgroup_rows({"site": labels}, counted, event=event, **options)
    return {row.group: row for row in rows}


def test_rows_count_persons_events_and_get_their_own_rows():
    rows = rows_of({"a": (12, 20), "b": (15, 11)})
    assert (rows["a"].persons, rows["a"].events) == (32, 12)
    assert (rows["b"].persons, rows["b"].events) == (26, 15)
    assert rows["a"].value.value == sum(range(32))
    assert rows["b"].value.value == sum(range(32, 58))


@pytest.mark.parametrize(
    "small", [(3, 4), (3, 40), (40, 3), (0, 40)], ids=["persons", "events", "free", "no event"]
)
def test_a_small_cell_takes_the_next_smallest_row_with_it(small):
    rows = rows_of({"a": (50, 50), "b": (20, 30), "c": small, "d": (90, 90)})
    assert [name for name, row in rows.items() if row.suppressed] == ["b", "c"]
    for name in "bc":
        assert (rows[name].persons, rows[name].events, rows[name].value) == (None, None, None)


def test_two_hidden_rows_whose_sum_is_small_take_a_third():
    rows = rows_of({"a": (50, 50), "b": (1, 2), "c": (2, 2), "d": (20, 20)})
    assert [name for name, row in rows.items() if row.suppressed] == ["b", "c", "d"]


GROUPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(GROUPS, st.sampled_from([2, 5, 10]))
def test_nothing_small_can_be_computed_from_the_rows_and_the_total(groups, minimum):
    named = {f"g{i}": counts for i, counts in enumerate(groups) if sum(counts)}
    rows = rows_of(named, minimum=minimum)
    hidden = [named[name] for name, row in rows.items() if row.suppressed]
    for name, row in rows.items():
        if not row.suppressed:
            had, free = named[name]
            assert min(had, free) >= minimum
            assert (row.persons, row.events) == (had + free, had)
    if hidden and len(hidden) < len(named):
        assert len(hidden) > 1
        # Subtraction tells the sum of what is hidden and no more.
        assert min(np.sum(hidden, axis=0)) >= minimum
    if all(min(counts) >= minimum for counts in named.values()):
        assert not hidden


def test_persons_with_several_recordings_count_once():
    person = np.repeat(np.arange(30), 4)
    event = np.repeat(np.arange(30) < 15, 4)
    row = subgroup_rows({"all": ["x"] * 120}, counted, event=event, subject_id=person)[0]
    assert (row.persons, row.events, row.value.n) == (30, 15, 120)
    # 40 recordings of ten persons with five events are a small cell.
    ten = slice(40, 80)
    rows = subgroup_rows({"all": ["x"] * 40}, counted, event=event[ten], subject_id=person[ten])
    assert rows[0].suppressed


def test_unknown_labels_are_a_group_of_their_own():
    event = np.tile([True, False], 40)
    sex = ["female", None] * 10 + ["female", float("nan")] * 10 + ["male", ""] * 20
    rows = subgroup_rows({"sex": sex}, counted, event=event, minimum=0)
    assert [row.group for row in rows] == ["female", "male", "not known"]
    assert sum(row.persons for row in rows) == 80


def test_age_bands_are_ordered_and_cut_at_birthdays():
    assert age_band([39.9, 40, 49.99, 80, 99, np.nan], (40, 50, 80)) == [
        "under 40",
        "40 to 49",
        "40 to 49",
        "80 and over",
        "80 and over",
        "not known",
    ]
    age = np.tile([30.0, 45.0, 60.0, 85.0, np.nan], 40)
    rows = subgroup_rows({"age": age_band(age)}, counted, event=np.arange(200) % 2 == 0)
    names = [row.group for row in rows]
    assert names == ["under 40", "40 to 49", "60 to 69", "80 and over", "not known"]


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="sex must have 3 rows like event, not 2"):
        subgroup_rows({"sex": ["f", "m"]}, counted, event=[1, 0, 1])
    with pytest.raises(InputError, match="edges of age bands must rise"):
        age_band([50.0], (60, 50))
