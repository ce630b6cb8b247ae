"""Folds: cut between persons, even in what is rare, the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.folds import hold_out, make_folds, read_table, write_table


def rows(persons, seed=0):
    """Persons with one to three rows each, a tenth of them with an event."""
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(persons), generator.integers(1, 4, persons))
    event = (person % 10 == 0).astype(np.int64)
    shuffled = generator.permutation(len(person))
    return event[shuffled], np.array([f"p{k}" for k in person[shuffled]])


@given(persons=st.integers(5, 60), folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_each_row_is_held_out_once_per_repeat_with_its_person(persons, folds, seed):
    strata, subject = rows(persons, seed)
    made = list(make_folds(strata, subject, folds=folds, repeats=2, seed=seed))
    assert [fold.name for fold in made] == [
        f"repeat-{r}-fold-{k}" for r in range(2) for k in range(folds)
    ]
    for repeat in range(2):
        held_out = np.concatenate([fold.test for fold in made if fold.repeat == repeat])
        assert sorted(held_out) == list(range(len(strata)))
    for fold in made:
        assert not set(subject[fold.train]) & set(subject[fold.test])
        assert len(fold.train) + len(fold.test) == len(strata)


def test_events_are_spread_evenly_and_repeats_differ():
    strata, subject = rows(400)
    made = list(make_folds(strata, subject, folds=4, repeats=2, seed=1))
    events = [int(strata[fold.test].sum()) for fold in made]
    assert max(events) - min(events) <= 3  # a person brings up to three rows
    assert not np.array_equal(made[0].test, made[4].test)
    again = list(make_folds(strata, subject, folds=4, repeats=2, seed=1))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(made, again))


def test_a_validation_part_is_of_other_persons_and_has_its_share_of_events():
    strata, subject = rows(400)
    keep, held_out = hold_out(strata, subject, share=0.2, seed=3)
    assert sorted([*keep, *held_out]) == list(range(len(strata)))
    assert not set(subject[keep]) & set(subject[held_out])
    assert len(held_out) / len(strata) == pytest.approx(0.2, abs=0.02)
    assert strata[held_out].mean() == pytest.approx(strata.mean(), abs=0.02)


@pytest.mark.parametrize("folds", [1, 6])
def test_a_number_of_folds_that_cannot_be_is_refused(folds):
    with pytest.raises(InputError, match="expected 2 to 5"):
        list(make_folds(np.zeros(5, np.int64), np.arange(5).astype(str), folds=folds))


def test_a_table_comes_back_as_it_was_written(tmp_path):
    columns = {
        "record_id": np.array(["007", "a,b"], dtype=object),
        "log_hazard": np.array([0.1, -1e-17]),
        "event": np.array([True, False]),
    }
    write_table(tmp_path / "new" / "table.csv", columns)
    found = read_table(tmp_path / "new" / "table.csv")
    assert list(found) == list(columns)
    for name, values in columns.items():
        assert found[name].tolist() == values.tolist()
