"""Joined cohorts: every row of one with the right row of the other, and what cannot be joined."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from joined_cohorts import clinical_table, column, joined, presence

from fm_med import cli
from fm_med.cohort import CohortCard, CohortWriter, check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.sources.join import join_cohorts
from fm_med.sources.join_sides import JoinRules
from fm_med.sources.simulated import make_simulated


@pytest.fixture(scope="module")
def ecgs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("join") / "ecgs"
    return make_simulated(folder, subjects=40, seed=5, workers=1)


@pytest.fixture(scope="module")
def table(ecgs):
    more = [("x1", "train"), ("x2", "test")]
    return clinical_table(ecgs.with_name("table"), ecgs, more=more)


def small(folder, rows, modality="tabular", **stated):
    """A cohort of rows that hold subject_id, record_id, split and other columns."""
    columns = {name: pa.array([row.get(name) for row in rows]) for name in rows[0]}
    every = pa.table(columns)
    card = CohortCard(name=folder.name, modality=modality, units="u", **stated)
    with CohortWriter(folder, card, every.schema) as writer:
        for split in dict.fromkeys(row["split"] for row in rows):
            writer.write(split, every.filter(pa.compute.equal(every.column("split"), split)))
    return folder


def person(subject, split="train", record=None, **more):
    return {"subject_id": subject, "record_id": record or subject, "split": split, **more}


def test_left_keeps_every_row_of_the_first_with_the_persons_row_of_the_second(
    ecgs, table, tmp_path
):
    cohort = open_cohort(join_cohorts(ecgs, table, tmp_path / "both"))
    assert check_cohort(cohort.path) == []
    first, second = open_cohort(ecgs), open_cohort(table)
    expected = {
        row["subject_id"]: row
        for rows in second.splits.values()
        for row in rows.select(["subject_id", "years", "ward", "woman"]).to_pylist()
    }
    for split, rows in first.splits.items():
        found = cohort.splits[split]
        assert found.select(rows.column_names).to_pylist() == rows.to_pylist()
        assert set(found.column("has_ecg").to_pylist()) == {True}
        for row in found.select(["subject_id", "has_tabular", "years", "ward"]).to_pylist():
            match = expected.get(row["subject_id"])
            assert row["has_tabular"] == (match is not None)
            for name in ("years", "ward"):
                assert row[name] == (match and match[name])
    assert 0 < presence(cohort, "tabular").sum() < len(presence(cohort, "tabular"))


def test_the_card_says_what_both_cards_said(ecgs, table, tmp_path):
    card = open_cohort(join_cohorts(ecgs, table, tmp_path / "both")).card
    one = open_cohort(ecgs).card
    assert card.modality == "ecg+tabular"
    assert card.units == "mV + those of its columns"
    assert (card.time, card.event, card.follow_up_unit) == ("time", "event", "months")
    assert card.label_sets == one.label_sets and card.leads == one.leads
    assert card.sampling_rate == one.sampling_rate
    assert "numeric input" in card.columns["years"] and "ecg" in card.columns["has_ecg"]
    schema = next(iter(open_cohort(tmp_path / "both").splits.values())).schema
    assert schema.field("years").metadata == {b"input": b"numeric"}


def test_outer_also_keeps_persons_of_the_second_alone(ecgs, table, tmp_path):
    cohort = open_cohort(join_cohorts(ecgs, table, tmp_path / "both", JoinRules(how="outer")))
    assert check_cohort(cohort.path) == []
    alone = ~presence(cohort, "ecg")
    assert np.array(column(cohort, "subject_id"))[alone].tolist() == ["x1", "x2"]
    for name in ("signal", "gain", "lead_mask", "time", "AFIB", "signal_hash"):
        values = column(cohort, name)
        assert [values[k] for k in np.flatnonzero(alone)] == [None, None]
    assert np.array(column(cohort, "split"))[alone].tolist() == ["train", "test"]
    # Bytes with nulls among them are gathered row by row, too.
    rows = cohort.splits["train"].num_rows
    last = cohort.rows("train", np.array([rows - 1, 0]), ["signal"])
    assert last.column("signal").to_pylist() == [None, column(cohort, "signal")[0]]


def test_a_table_may_come_first(ecgs, table, tmp_path):
    cohort = open_cohort(join_cohorts(table, ecgs, tmp_path / "both", JoinRules(pick="first")))
    assert cohort.card.modality == "tabular+ecg"
    assert check_cohort(cohort.path) == []
    persons = open_cohort(table)
    assert column(cohort, "record_id") == column(persons, "record_id")
    assert (~presence(cohort, "ecg")).sum() == 2


@pytest.mark.parametrize(("pick", "value"), [("first", 1.0), ("last", 3.0)])
def test_one_of_several_rows_of_a_person_is_taken_if_stated(tmp_path, pick, value):
    first = small(tmp_path / "a", [person("p", x=0.0), person("q", x=0.0)], "ecg", leads=["I"])
    rows = [person("p", record=f"r{k}", y=float(k)) for k in (1, 2, 3)]
    second = small(tmp_path / "b", rows)
    with pytest.raises(InputError, match=r"1 person\(s\) have several rows in .*b: p; .*--pick"):
        join_cohorts(first, second, tmp_path / "c")
    cohort = open_cohort(join_cohorts(first, second, tmp_path / "c", JoinRules(pick=pick)))
    assert column(cohort, "y") == [value, None]


def test_records_find_their_records(tmp_path):
    rows = [person("p", record="r1", x=1.0), person("p", record="r2", x=2.0)]
    first = small(tmp_path / "a", rows, "ecg", leads=["I"])
    others = [person("p", record="r2", y=20.0), person("p", record="r1", y=10.0)]
    second = small(tmp_path / "b", others)
    cohort = open_cohort(join_cohorts(first, second, tmp_path / "c", JoinRules(by="record_id")))
    assert (column(cohort, "x"), column(cohort, "y")) == ([1.0, 2.0], [10.0, 20.0])
    third = small(tmp_path / "d", [person("p2", record="r1", y=1.0)])
    with pytest.raises(InputError, match=r"1 record\(s\) belong to different persons .*: r1"):
        join_cohorts(first, third, tmp_path / "e", JoinRules(by="record_id"))


def test_persons_in_different_splits_are_counted_and_refused(tmp_path):
    rows = [person("p", x=1.0), person("q", "test", x=1.0), person("r", x=1.0)]
    first = small(tmp_path / "a", rows, "ecg", leads=["I"])
    others = [person("p", "test", y=1.0), person("q", y=2.0), person("r", y=3.0)]
    second = small(tmp_path / "b", others)
    with pytest.raises(
        InputError, match=r"2 person\(s\) are in different .*: p \(train, test\), q"
    ):
        join_cohorts(first, second, tmp_path / "c")
    cohort = open_cohort(join_cohorts(first, second, tmp_path / "c", JoinRules(splits="first")))
    assert column(cohort, "split") == ["train", "train", "test"]
    assert column(cohort, "y") == [1.0, 3.0, 2.0]


def test_names_of_both_are_refused_left_out_or_renamed(tmp_path):
    first = small(tmp_path / "a", [person("p", age=1.0, x=1.0)], "ecg", leads=["I"])
    second = small(tmp_path / "b", [person("p", age=2.0)])
    with pytest.raises(InputError, match=r"both have the column\(s\) age; leave .*--prefix"):
        join_cohorts(first, second, tmp_path / "c")
    cases = {
        JoinRules(prefix="b_"): {"age": 1.0, "b_age": 2.0},
        JoinRules(drop_first=("age",)): {"age": 2.0},
        JoinRules(drop_second=("age",)): {"age": 1.0},
    }
    for number, (rules, expected) in enumerate(cases.items()):
        cohort = open_cohort(join_cohorts(first, second, tmp_path / f"c{number}", rules))
        row = cohort.splits["train"].to_pylist()[0]
        assert {name: row[name] for name in row if name.endswith("age")} == expected
    with pytest.raises(InputError, match="has no column 'weight' that could be left out"):
        join_cohorts(first, second, tmp_path / "d", JoinRules(drop_second=("weight",)))
    with pytest.raises(InputError, match="there is a column 'xx' already"):
        third = small(tmp_path / "e", [person("p", x=1.0, xx=1.0)])
        join_cohorts(first, third, tmp_path / "d", JoinRules(prefix="x"))  # x becomes xx


def test_two_follow_ups_and_two_label_sets_of_one_name_are_refused(tmp_path):
    stated = {"time": "time", "event": "event", "follow_up_unit": "days"}
    sets = {"label_sets": {"labels": ["sick"]}}
    row = person("p", time=1.0, event=True, sick=True)
    first = small(tmp_path / "a", [row], "ecg", leads=["I"], **stated, **sets)
    other = person("p", time2=1.0, event2=True, sick2=True)
    renamed = stated | {"time": "time2", "event": "event2"}
    second = small(tmp_path / "b", [other], **renamed, label_sets={"labels": ["sick2"]})
    with pytest.raises(InputError, match="both have a follow-up .*--drop_second time2 event2"):
        join_cohorts(first, second, tmp_path / "c")
    rules = JoinRules(drop_second=("time2", "event2"))
    with pytest.raises(InputError, match="both have a label set 'labels'; --prefix"):
        join_cohorts(first, second, tmp_path / "c", rules)
    cohort = open_cohort(join_cohorts(first, second, tmp_path / "c", replace(rules, prefix="b_")))
    assert cohort.card.label_sets == {"labels": ["sick"], "b_labels": ["sick2"]}
    assert cohort.card.time == "time"


def test_what_cannot_be_joined_is_refused(ecgs, table, tmp_path):
    with pytest.raises(InputError, match="both hold ecg"):
        join_cohorts(ecgs, ecgs, tmp_path / "c")
    both = join_cohorts(ecgs, table, tmp_path / "both")
    third = small(tmp_path / "rna", [person("p", y=1.0)], "rna")
    with pytest.raises(InputError, match=r"holds ecg\+tabular: two can be joined"):
        join_cohorts(both, third, tmp_path / "c")
    with pytest.raises(
        InputError, match="no person of .*rna is in .*subject_id is for example 'p'"
    ):
        join_cohorts(ecgs, third, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_command_joins_and_describes(ecgs, table, tmp_path, capsys):
    words = ["cohort", "join", str(ecgs), str(table), str(tmp_path / "both")]
    assert cli.main([*words, "--how", "outer", "--drop_first", "report", "age"]) == 0
    assert "ecg+tabular, mV + those of its columns" in capsys.readouterr().out
    cohort = open_cohort(tmp_path / "both")
    assert not {"report", "age"} & set(cohort.splits["train"].column_names)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "exists already" in error and error.count("\n") == 1


def test_the_helper_joins(ecgs, tmp_path):
    assert joined(tmp_path / "both", ecgs).card.modality == "ecg+tabular"
