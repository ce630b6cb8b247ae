import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cohort import check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.sources import ecg_table
from fm_med.sources.ecg_table import draw_splits, drawn_splits, make_ecg_table

HEADER = "patient,file,befund,monate,tod,alter,geschlecht,AF,teil"
COLUMNS = {
    "subject": "patient",
    "path": "file",
    "report": "befund",
    "time": "monate",
    "event": "tod",
    "follow_up_unit": "months",
    "labels": ["AF"],
    "split": "teil",
    "age": "alter",
    "sex": "geschlecht",
}


def line(number, **changes):
    values = {
        "patient": f"00{number // 2}",
        "file": f"ecg/{number}",
        "befund": "" if number == 3 else f"Herz {number}",
        "monate": str(number * 1.5),
        "tod": number % 2,
        "alter": "" if number == 2 else 40 + number,
        "geschlecht": ["F", "male", "w", "M", ""][number % 5],
        "AF": ["1", "false", ""][number % 3],
        "teil": ["train", "Train", "training", "train", "val", "dev", "TEST", "test"][number],
    }
    return values | changes


def table_text(lines, delimiter=","):
    rows = [HEADER.split(","), *([str(value) for value in line.values()] for line in lines)]
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


@pytest.fixture
def records(tmp_path, write_record):
    folder = tmp_path / "records"
    for number in range(8):
        write_record(folder, f"ecg/{number}", seed=number)
    return folder


@pytest.fixture
def make(tmp_path, records):
    """Return a function that makes a cohort from lines and changed options."""

    def convert(lines=None, text=None, **options):
        table = tmp_path / "table.csv"
        if text is None:
            text = table_text(lines or [line(n) for n in range(8)])
        table.write_text(text, encoding="utf-8")
        options = COLUMNS | options
        return open_cohort(make_ecg_table(table, records, tmp_path / "cohort", **options))

    return convert


def test_columns(make, tmp_path):
    cohort = make()
    assert cohort.card.recordings == {"train": 4, "validation": 2, "test": 2}
    assert cohort.card.subjects == {"train": 2, "validation": 1, "test": 1}
    assert (cohort.card.time, cohort.card.event) == ("time", "event")
    assert cohort.card.follow_up_unit == "months"
    assert cohort.card.sampling_rate == 100
    assert cohort.card.label_sets == {"labels": ["AF"]}
    names = ["subject_id", "record_id", "report", "age", "sex", "AF", "time", "event"]
    table = cohort.rows("train", np.arange(4), names)
    assert [list(row.values()) for row in table.to_pylist()] == [
        ["000", "ecg/0", "Herz 0", 40, "female", True, 0.0, False],
        ["000", "ecg/1", "Herz 1", 41, "male", False, 1.5, True],
        ["001", "ecg/2", "Herz 2", None, "female", None, 3.0, False],
        ["001", "ecg/3", None, 43, "male", True, 4.5, True],
    ]
    assert check_cohort(cohort.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort", "records", "table.csv"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_decimal_comma(make, delimiter):
    lines = [line(n, monate=f"{n},5", befund="a, b, c") for n in range(8)]
    cohort = make(text="\ufeff" + table_text(lines, delimiter))
    np.testing.assert_array_equal(cohort.column("train", "time"), [0.5, 1.5, 2.5, 3.5])
    assert cohort.column("test", "report") == ["a, b, c"] * 2


def test_parquet_and_integer_ids(tmp_path, records):
    lines = [line(n, patient=n // 2, tod=n % 2 == 1, alter=40.0) for n in range(8)]
    columns = {name: [row[name] for row in lines] for name in lines[0]}
    columns["monate"] = np.arange(8) / 2
    columns["patient"] = np.array([row["patient"] for row in lines], float)
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    table = tmp_path / "table.parquet"
    cohort = open_cohort(make_ecg_table(table, records, tmp_path / "cohort", **COLUMNS))
    assert cohort.column("train", "subject_id") == ["0", "0", "1", "1"]
    np.testing.assert_array_equal(cohort.column("train", "time"), [0, 0.5, 1, 1.5])
    np.testing.assert_array_equal(cohort.column("train", "event"), [False, True] * 2)


def test_ids_that_were_written_as_floats(make):
    cohort = make([line(n, patient=f"{n // 2}.0") for n in range(8)])
    assert cohort.column("train", "subject_id") == ["0", "0", "1", "1"]


def test_only_what_is_needed(tmp_path, records):
    table = tmp_path / "table.csv"
    table.write_text(table_text([line(n) for n in range(8)]))
    cohort = open_cohort(
        make_ecg_table(
            table, records, tmp_path / "c", subject="patient", path="file", fractions=(1, 0, 0)
        )
    )
    assert cohort.card.recordings == {"train": 8}
    assert cohort.card.time is None
    assert "report" not in cohort.splits["train"].column_names


def test_mixed_sampling_rates_are_allowed(make, records, write_record):
    write_record(records, "ecg/5", rate=500, samples=700)
    cohort = make()
    assert cohort.card.sampling_rate == 0
    assert list(cohort.column("validation", "sampling_rate")) == [100, 500]
    assert check_cohort(cohort.path) == []


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"monate": "-3"}, r"'monate' is negative in row 2 \('-3'\)"),
        (1, {"monate": ""}, "'monate' is blank in row 2"),
        (1, {"monate": "NaN"}, "'monate' is blank in row 2"),
        (1, {"monate": "inf"}, r"'monate' is not a number in row 2 \('inf'\)"),
        (1, {"monate": "3 months"}, "'monate' is not a number in row 2"),
        (1, {"tod": "NaN"}, "event 'tod' is blank in row 2"),
        (1, {"tod": "2"}, "'tod' is neither true nor false in row 2"),
        (2, {"AF": "maybe"}, r"'AF' is neither true nor false in row 3 \('maybe'\)"),
        (2, {"alter": "1950"}, r"'alter' is no age in row 3 \('1950'\)"),
        (2, {"geschlecht": "2"}, r"'geschlecht' is neither female nor male in row 3 \('2'\)"),
        (2, {"patient": ""}, "'patient' is blank in row 3"),
        (2, {"file": ""}, "'file' is blank in row 3"),
        (2, {"file": "ecg/1"}, r"'file' is not unique in row 2 \('ecg/1'\), 3 \('ecg/1'\)"),
        (2, {"teil": "holdout"}, r"'teil' is not train, validation or test in row 3 \('holdout'\)"),
        (2, {"teil": "test"}, r"more than one split: 001 \(train, test\)"),
    ],
)
def test_bad_values_are_refused(make, tmp_path, number, changes, message):
    lines = [line(n, **(changes if n == number else {})) for n in range(8)]
    with pytest.raises(InputError, match=message) as info:
        make(lines)
    assert "\n" not in str(info.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "table.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"follow_up_unit": None}, "unit of the time column 'monate' is not stated"),
        ({"event": None}, "needs both a time column and an event column"),
        ({"report": "Befund"}, "has no column 'Befund'; it has patient, file, befund"),
        ({"split": None, "fractions": (0.5, 0.1, 0.1)}, "three shares that add up to 1"),
        ({"split": None, "fractions": (0.98, 0.01, 0.01)}, r"no person falls .*\(4 people, seed 0"),
        ({"labels": ["alter"]}, "'alter' is neither true nor false"),
        ({"encoding": "ascii"}, "cannot be read as a table"),
        ({"encoding": "utf-9"}, "cannot be read as a table"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(InputError, match=message):
        make([line(n, befund="höher") for n in range(8)], **options)


def test_label_named_as_a_column_of_ours(make, tmp_path):
    text = table_text([line(n) for n in range(8)]).replace(",AF,", ",signal,")
    with pytest.raises(InputError, match="a label cannot be named 'signal'"):
        make(text=text, labels=["signal"])


def test_ragged_table_and_missing_files(make, tmp_path, records):
    with pytest.raises(InputError, match=r"table.csv cannot be read as a table"):
        make(text=table_text([line(n) for n in range(8)]) + "1,2\n")
    with pytest.raises(InputError, match="cannot be read as a table"):
        make(text="")
    with pytest.raises(InputError, match=r"no table at .*none.csv"):
        make_ecg_table(tmp_path / "none.csv", records, tmp_path / "c", subject="a", path="b")
    with pytest.raises(InputError, match="no recordings at"):
        make_ecg_table(tmp_path / "table.csv", tmp_path / "no", tmp_path / "c", **COLUMNS)


@settings(max_examples=80, deadline=None)
@given(
    people=st.lists(st.text(max_size=4), min_size=1, max_size=60),
    more=st.lists(st.text(max_size=4), max_size=20),
    seed=st.integers(0, 2**40),
    cut=st.tuples(st.integers(0, 10), st.integers(0, 10)),
)
def test_split_of_people(people, more, seed, cut):
    """Nobody is in two splits, and a person's split does not depend on who else is there."""
    low, high = sorted(cut)
    fractions = (low / 10, (high - low) / 10, (10 - high) / 10)
    try:
        splits = draw_splits(people, fractions, seed)
    except InputError as error:
        assert "no person falls into the split" in str(error)
        return
    assert len(splits) == len(people)
    split_of = dict(zip(people, splits))
    assert [split_of[person] for person in people] == splits
    shares = dict(zip(("train", "validation", "test"), fractions))
    assert {name for name, share in shares.items() if share > 0} == set(splits)
    later = draw_splits(people + more, fractions, seed)
    assert later[: len(people)] == splits


def test_split_shares_and_seeds():
    people = [str(n) for n in range(20000)]
    splits = draw_splits(people, (0.7, 0.2, 0.1), 1)
    for name, share in [("train", 0.7), ("validation", 0.2), ("test", 0.1)]:
        assert splits.count(name) / len(people) == pytest.approx(share, abs=0.01)
    assert splits != draw_splits(people, (0.7, 0.2, 0.1), 2)


def test_splits_are_drawn_by_a_hash_of_seed_and_person():
    people = [f"p{n % 50}" for n in range(120)]
    for person, split in zip(people, draw_splits(people, (0.5, 0.2, 0.3), 7)):
        digest = hashlib.blake2b(f"7 {person}".encode(), digest_size=8).hexdigest()
        drawn = int(digest, 16) / 2**64
        assert split == ("train" if drawn < 0.5 else "validation" if drawn < 0.7 else "test")
    column = pa.chunked_array([people[:70], people[70:]])
    again = drawn_splits(column, (0.5, 0.2, 0.3), 7)
    assert again.to_pylist() == draw_splits(people, (0.5, 0.2, 0.3), 7)


def test_paths_are_made_in_portions(records, monkeypatch):
    """As `Path` joins them, wherever the portions end; an absolute path is one's own."""
    monkeypatch.setattr(ecg_table, "_PORTION", 3)
    names = pa.chunked_array([["a", "./b"], ["c//d", "/e", "f", "g", "h"]])
    files = ecg_table._files(records, names)
    assert files.to_pylist() == [str(records / name) for name in names.to_pylist()]
    assert files[3].as_py() == "/e"
    assert [len(chunk) for chunk in files.chunks] == [3, 3, 1]
    assert len(ecg_table._files(records, names.slice(0, 0))) == 0
