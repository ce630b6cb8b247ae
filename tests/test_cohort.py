import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cohort import (
    CohortCard,
    CohortWriter,
    check_cohort,
    describe_cohort,
    open_cohort,
    writing,
)
from fm_med.cohort.checking import subject_problems
from fm_med.cohort.summaries import read_columns, read_summaries, summary
from fm_med.cohort.tables import BytesColumn, content_hash, open_shards
from fm_med.errors import InputError

SCHEMA = pa.schema(
    [
        ("subject_id", pa.string()),
        ("record_id", pa.string()),
        ("split", pa.string()),
        ("signal", pa.large_binary()),
        ("sampling_rate", pa.float32()),
        ("lead_mask", pa.list_(pa.bool_(), 12)),
        ("signal_hash", pa.string()),
        ("report", pa.string()),
        ("scp_codes", pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))),
        ("age", pa.float32()),
        ("MI", pa.bool_()),
        ("time", pa.float64()),
        ("event", pa.bool_()),
    ]
)
CARD = CohortCard(
    name="Tiny",
    modality="ecg",
    units="mV",
    sampling_rate=100.0,
    leads=["I", "II"],
    time="time",
    event="event",
    follow_up_unit="months",
    label_sets={"superclass": ["MI"]},
)


def row(number, **changes):
    values = {
        "subject_id": f"s{number}",
        "record_id": f"r{number}",
        "signal": bytes([number % 256]) * (number % 7),
        "sampling_rate": 100.0,
        "lead_mask": [True] * 11 + [False],
        "signal_hash": f"hash{number}",
        "report": None if number % 3 == 0 else f"Zustand {number} ä",
        "scp_codes": [("SR", 100.0)] * (number % 3),
        "age": None if number % 4 == 0 else 50.0 + number,
        "MI": None if number % 5 == 0 else number % 2 == 0,
        "time": float(number),
        "event": number % 2 == 0,
    }
    return values | changes


def write(folder, rows_of_split, card=CARD, schema=SCHEMA, **options):
    with CohortWriter(folder, card, schema, **options) as writer:
        for split, rows in rows_of_split.items():
            writer.write(split, rows)
    return folder


def two_splits():
    return {"train": [row(n) for n in range(20)], "test": [row(n) for n in range(20, 26)]}


@pytest.fixture
def cohort(tmp_path):
    return write(tmp_path / "cohort", two_splits())


def damage_card(folder, old, new):
    path = folder / "README.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(folder):
    with pytest.raises(InputError) as info:
        open_cohort(folder)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_what_is_written_is_read(tmp_path):
    with CohortWriter(tmp_path / "new" / "cohort", CARD, SCHEMA, rows_per_shard=8) as writer:
        for number in range(20):
            writer.write("train", [row(number)])
        writer.write("test", pa.Table.from_pylist([row(n) for n in range(20, 26)], SCHEMA))
        writer.skip("r99", 'no signal, "truncated"')
    cohort = open_cohort(tmp_path / "new" / "cohort")
    names = sorted(path.name for path in (cohort.path / "data").iterdir())
    assert names == ["test-00000-of-00001.arrow"] + [
        f"train-{index:05d}-of-00003.arrow" for index in range(3)
    ]
    assert list(cohort.splits) == ["train", "test"]
    expected = pa.Table.from_pylist([row(n, split="train") for n in range(20)], SCHEMA)
    assert cohort.splits["train"].equals(expected)
    assert cohort.card.recordings == cohort.card.subjects == {"train": 20, "test": 6}
    assert cohort.card.columns["age"] == "years"
    assert check_cohort(cohort.path) == []
    with (cohort.path / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["record_id", "reason"],
            ["r99", 'no signal, "truncated"'],
        ]
    assert "skipped 1" in describe_cohort(cohort.path)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cohort"]


def test_shards_are_batches_of_256_rows(tmp_path):
    folder = write(tmp_path / "cohort", {"train": [row(n) for n in range(600)]})
    shard = pa.ipc.open_file(str(folder / "data" / "train-00000-of-00001.arrow"))
    sizes = [shard.get_batch(index).num_rows for index in range(shard.num_record_batches)]
    assert sizes == [256, 256, 88]


def test_rows_come_in_the_order_asked_for(tmp_path):
    rows = [row(n) for n in range(700)]
    cohort = open_cohort(write(tmp_path / "c", {"train": rows}, rows_per_shard=300))
    indices = np.random.default_rng(0).integers(0, 700, 50)
    found = cohort.rows("train", indices)
    assert found.equals(cohort.splits["train"].take(indices))
    found = cohort.rows("train", indices, ["age", "signal"])
    assert found.column_names == ["age", "signal"]
    assert found["signal"].to_pylist() == [rows[i]["signal"] for i in indices]
    assert cohort.rows("train", np.array([], int)).num_rows == 0


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.lists(st.binary(max_size=9), max_size=6), min_size=1, max_size=5),
    drawn=st.data(),
)
def test_bytes_are_gathered_as_take_does(chunks, drawn):
    kind = pa.large_binary()
    column = pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)
    if len(column) > 2:
        column = column.slice(1)  # offsets that do not begin at zero
    last = len(column) - 1
    rows = drawn.draw(st.lists(st.integers(0, last), max_size=12)) if last >= 0 else []
    rows = np.array(rows, np.int64)
    found = BytesColumn(column).take(rows)
    found.validate(full=True)
    assert found.to_pylist() == column.take(pa.array(rows)).to_pylist()
    views = BytesColumn(column).views(rows)
    assert [view.tobytes() for view in views] == [value or b"" for value in found.to_pylist()]
    assert not any(len(view) and view.flags.owndata for view in views)


def test_columns(cohort):
    cohort = open_cohort(cohort)
    age = cohort.column("train", "age")
    assert age.dtype == np.float32
    assert np.isnan(age[0])
    assert age[1] == 51
    np.testing.assert_array_equal(cohort.column("test", "MI"), [np.nan, 0, 1, 0, 1, np.nan])
    assert cohort.column("test", "event").dtype == bool
    assert cohort.column("test", "report")[:2] == ["Zustand 20 ä", None]
    with pytest.raises(InputError, match=r"no column 'rythm'; it has subject_id, .*event"):
        cohort.column("train", "rythm")
    with pytest.raises(InputError, match="no column 'rythm'"):
        cohort.rows("train", np.arange(2), ["rythm"])
    with pytest.raises(InputError, match="no split 'validation'; it has train, test"):
        cohort.column("validation", "age")


def test_fingerprint_follows_content_not_cutting(tmp_path):
    rows = two_splits()
    whole = open_cohort(write(tmp_path / "a", rows))
    cut = open_cohort(write(tmp_path / "b", rows, rows_per_shard=3))
    assert whole.fingerprint == cut.fingerprint
    for name, value in [("signal", b"\x01"), ("report", "x"), ("MI", None), ("scp_codes", [])]:
        other = two_splits()
        assert other["train"][2][name] != value
        other["train"][2][name] = value
        changed = open_cohort(write(tmp_path / f"c {name}", other))
        assert changed.fingerprint != whole.fingerprint


def test_fingerprint_tells_null_from_empty_and_moved_bytes():
    def of(values, kind):
        return content_hash({"train": pa.table({"x": pa.array(values, kind)}).to_batches()})

    assert of(["ab", "c"], pa.string()) != of(["a", "bc"], pa.string())
    assert of([None, "c"], pa.string()) != of(["", "c"], pa.string())
    assert of([0, None], pa.int32()) != of([0, 0], pa.int32())
    lists = pa.list_(pa.int32())
    assert of([[1], [2, 3]], lists) != of([[1, 2], [3]], lists)
    assert of([[1], None], lists) != of([[1], []], lists)


def test_datasets_reads_the_folder(cohort, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    found = datasets.load_dataset(str(cohort), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 20, "test": 6}
    assert found["train"][4]["report"] == "Zustand 4 ä"
    assert found["train"][5]["signal"] == row(5)["signal"]


def test_reading_imports_nothing_heavy(cohort):
    code = (
        "import sys; from fm_med.cohort import open_cohort; open_cohort(sys.argv[1]);"
        "print([m for m in ('torch', 'pandas', 'datasets', 'wfdb') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(cohort)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_summaries_are_those_of_the_tables(tmp_path):
    rows = {"train": [row(n) for n in range(600)], "test": [row(n) for n in range(600, 610)]}
    folder = write(tmp_path / "cohort", rows)
    read, tables = read_summaries(folder), open_shards(folder)
    assert list(read) == list(tables)
    for split, table in tables.items():
        plain = summary(table)
        assert read[split][:2] == plain[:2] == (table.column_names, len(rows[split]))
        assert set(read[split].subjects.to_pylist()) == set(plain.subjects.to_pylist())


def test_columns_are_those_of_the_tables_in_memory_of_their_own(tmp_path):
    train = [row(n, signal=bytes(4000)) for n in range(600)]
    rows = {"train": train, "test": [row(n) for n in range(600, 610)]}
    folder = write(tmp_path / "cohort", rows, rows_per_shard=300)
    before = pa.total_allocated_bytes()
    read = read_columns(folder, {"scp_codes", "record_id", "MI", "not there"})
    assert pa.total_allocated_bytes() - before < 200_000  # of 2.4 MB
    tables = open_shards(folder)
    wanted = ["record_id", "scp_codes", "MI"]
    assert list(read) == list(tables)
    assert all(read[split].equals(table.select(wanted)) for split, table in tables.items())
    for path in (folder / "data").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert read["train"].column("record_id")[599].as_py() == "r599"


def test_a_finished_cohort_is_checked_without_memory_map(tmp_path, monkeypatch):
    """Pages of mapped files would count as memory of the process, more with every row."""
    checked = []

    def check(card, tables):
        assert ".arrow" not in Path("/proc/self/maps").read_text()
        checked.append({split: table.column_names for split, table in tables.items()})
        return []

    monkeypatch.setattr(writing, "row_problems", check)
    write(tmp_path / "cohort", two_splits())
    columns = "subject_id record_id split sampling_rate signal_hash MI time event".split()
    assert checked == [{"train": columns, "test": columns}]


def test_what_is_written_is_not_held(tmp_path):
    schema = pa.schema([("number", pa.int64())])
    shard = writing.ShardWriter(tmp_path / "one.arrow", schema)
    table = pa.table({"number": pa.array(range(writing.ROWS_PER_BATCH))})
    before = pa.total_allocated_bytes()
    shard.write(table)
    del table
    assert pa.total_allocated_bytes() < before
    shard.close()


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=5), max_size=4))
def test_subjects_in_two_splits_are_named_in_their_order(splits):
    """By definition: those that two splits have, as the splits name them."""
    there = {f"split{n}": pa.chunked_array([ids], pa.string()) for n, ids in enumerate(splits)}
    named = {}
    for split, ids in zip(there, splits):
        for subject in dict.fromkeys(ids):
            named.setdefault(subject, []).append(split)
    leaking = [f"{who} ({', '.join(where)})" for who, where in named.items() if len(where) > 1]
    problems = subject_problems(there)
    assert bool(problems) == bool(leaking)
    for problem in problems:
        assert problem == (
            f"{len(leaking)} subject(s) are in more than one split: {', '.join(leaking)}"
        )


def test_subject_in_two_splits_is_refused(tmp_path):
    rows = two_splits()
    rows["test"][0]["subject_id"] = "s3"
    with pytest.raises(InputError, match=r"more than one split: s3 \(train, test\)"):
        write(tmp_path / "cohort", rows)
    assert list(tmp_path.iterdir()) == []


def test_subject_put_into_two_splits_later_is_refused(cohort):
    table = open_cohort(cohort).splits["test"].to_pylist()
    table[0]["subject_id"] = "s3"
    path = cohort / "data" / "test-00000-of-00001.arrow"
    path.unlink()  # the old file may be mapped still
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(table, SCHEMA))
    assert "s3 (train, test)" in refused(cohort)
    problems = check_cohort(cohort)
    assert len(problems) == 2
    assert "s3 (train, test)" in problems[0]
    assert "not those that its card was written for" in problems[1]


def test_equal_recordings_across_splits(tmp_path):
    rows = two_splits()
    rows["test"][0]["signal_hash"] = "hash3"
    with pytest.raises(InputError, match=r"r3 \(train\) = r20 \(test\).*allow_duplicates"):
        write(tmp_path / "cohort", rows)
    assert list(tmp_path.iterdir()) == []
    allowed = write(tmp_path / "cohort", rows, replace(CARD, allow_duplicates=True))
    assert open_cohort(allowed).card.allow_duplicates
    assert check_cohort(allowed) == []
    damage_card(allowed, "allow_duplicates: true", "allow_duplicates: false")
    assert "r3 (train) = r20 (test)" in check_cohort(allowed)[0]
    assert check_cohort(allowed, allow_duplicates=True) == []


def test_equal_recordings_of_two_people_in_one_split_are_told(tmp_path):
    rows = two_splits()
    rows["train"][0]["signal_hash"] = "hash3"
    folder = write(tmp_path / "cohort", rows)
    assert "equal recordings of different subjects: r0 = r3" in describe_cohort(folder)


def test_a_row_without_follow_up_has_null_in_both_columns(tmp_path):
    rows = two_splits()
    rows["train"][2].update(time=None, event=None)
    rows["train"][3].update(event=True)
    folder = write(tmp_path / "cohort", rows)
    assert check_cohort(folder) == []
    told = describe_cohort(folder).splitlines()
    events = sum(bool(row["event"]) for row in rows["train"])
    assert told[1].endswith(f"{events} events, 1 without follow-up")
    assert told[2].endswith("events")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": -1.0}, "'time' is negative in split 'train': r2"),
        ({"time": float("nan")}, "'time' is missing or infinite in split 'train': r2"),
        ({"time": None}, "'time' is missing or infinite in split 'train': r2"),
        ({"event": None}, "'event' is missing in split 'train': r2"),
        ({"time": float("nan"), "event": None}, "'time' is missing or infinite .* 'train': r2"),
        ({"record_id": "r1"}, "record ids are used more than once: r1"),
        ({"record_id": None}, r"1 row\(s\) have no record_id"),
        ({"sampling_rate": 500.0}, "sampling rates 100.0, 500.0 Hz, the card says 100 Hz"),
    ],
)
def test_bad_values_are_refused(tmp_path, changes, message):
    rows = two_splits()
    rows["train"][2].update(changes)
    with pytest.raises(InputError, match=message):
        write(tmp_path / "cohort", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (replace(CARD, units=" "), "does not state 'units'"),
        (replace(CARD, leads=[]), "does not state 'leads'"),
        (replace(CARD, follow_up_unit=None), "follow-up column 'time' without its unit"),
        (replace(CARD, event=None), "only one of 'time' and 'event'"),
        (replace(CARD, label_sets={"x": ["AF"]}), "split 'train' has no column 'AF'"),
        (replace(CARD, label_sets={"x": ["age"]}), "label column 'age' .* is float, not bool"),
    ],
)
def test_bad_cards_are_not_written(tmp_path, card, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "cohort", two_splits(), card)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  units: mV\n", "", "does not state 'units'"),
        ("  units: mV\n", "  units: ''\n", "does not state 'units'"),
        ("  follow_up_unit: months\n", "", "'time' without its unit"),
        ("schema_version: 1", "schema_version: 7", "schema_version 7, expected 1"),
        ("sampling_rate: 100.0", "sampling_rate: fast", "'sampling_rate' is 'fast', expected"),
        ("  modality: ecg", "  modality: ecg\n  colour: red", "unknown key 'colour'"),
        ("    train: 20\n", "    train: 21\n", "the files hold"),
        ("fm_med:", "other:", "has no 'fm_med' part"),
        ("---\n", "", "has no YAML header"),
        ("fm_med:", "fm_med: [", "cannot be parsed"),
    ],
)
def test_bad_cards_are_not_read(cohort, old, new, message):
    if old == "    train: 20\n":
        old, new = "  recordings:\n" + old, "  recordings:\n" + new
    damage_card(cohort, old, new)
    assert message in refused(cohort)
    assert any(message in problem for problem in check_cohort(cohort))


def test_what_is_no_cohort_is_refused(tmp_path, cohort):
    assert "there is no such folder" in refused(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it has no README.md" in refused(empty)
    for path in (cohort / "data").iterdir():
        path.unlink()
    assert "no *.arrow file under data/" in refused(cohort)


def test_torn_and_lost_shards_are_refused(tmp_path):
    folder = write(tmp_path / "cohort", two_splits(), rows_per_shard=8)
    shard = folder / "data" / "train-00001-of-00003.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert f"{shard} is not a complete Arrow file" in refused(folder)
    shard.unlink()
    assert "holds 2 of 3 shards of train-00000" in refused(folder)


def test_empty_split_is_refused(cohort):
    path = cohort / "data" / "test-00000-of-00001.arrow"
    path.unlink()
    with pa.ipc.new_file(str(path), SCHEMA):
        pass
    assert "split 'test' has no rows" in refused(cohort)


def test_changed_value_is_found_by_the_check(cohort):
    shard = cohort / "data" / "test-00000-of-00001.arrow"
    content = shard.read_bytes()
    assert content.count(b"Zustand 20") == 1
    shard.write_bytes(content.replace(b"Zustand 20", b"Zustand 40"))
    assert open_cohort(cohort).card.name == "Tiny"
    assert "not those that its card was written for" in check_cohort(cohort)[0]


def test_taken_destination_is_refused(tmp_path, cohort):
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        write(cohort, two_splits())
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write(file, two_splits())
    assert file.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert open_cohort(write(empty, two_splits())).card.name == "Tiny"


def test_nothing_is_left_when_writing_fails(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        CohortWriter(tmp_path / "cohort", CARD, SCHEMA) as writer,
    ):
        writer.write("train", [row(n) for n in range(300)])
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="none of 1 recordings could be used, first r1: broken"):
        with CohortWriter(tmp_path / "cohort", CARD, SCHEMA) as writer:
            writer.skip("r1", "broken")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".cohort.{gone.pid}.partial"
    running = tmp_path / f".cohort.{os.getppid()}.partial"
    other = tmp_path / f".other.{gone.pid}.partial"
    for folder in (left, running, other):
        folder.mkdir()
    write(tmp_path / "cohort", two_splits())
    assert not left.exists()
    assert running.exists()
    assert other.exists()
