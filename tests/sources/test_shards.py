"""A conversion cut into parts: merged, it is the cohort that one machine would have made."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cli import main
from fm_med.cohort import check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.sources import conversion
from fm_med.sources.ecg_table import make_ecg_table
from fm_med.sources.ptbxl import make_ptbxl
from fm_med.sources.shards import Shard, merge_parts

RECORDS = 20
SPLITS = ["test", "train", "train", "validation", "train"]  # of ten patients, twice


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_record):
    """Twenty recordings of ten patients; two of the recordings are cut and cannot be read."""
    folder = tmp_path_factory.mktemp("source")
    lines = ["patient,file,split,finding"]
    for number in range(RECORDS):
        write_record(folder, f"ecg/{number}", seed=number)
        person = number // 2
        lines.append(f"p{person},ecg/{number},{SPLITS[person % 5]},{number % 2}")
    for number in (5, 12):
        path = folder / "ecg" / f"{number}.dat"
        path.write_bytes(path.read_bytes()[:1000])
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def make(source, destination, shard=None, **options):
    columns = {"subject": "patient", "path": "file", "split": "split", "labels": ["finding"]}
    options = {"rows_per_shard": 3} | columns | options
    return make_ecg_table(source / "table.csv", source, destination, shard=shard, **options)


def make_parts(source, destination, count):
    return [make(source, destination, f"{index}/{count}") for index in range(1, count + 1)]


def skipped(folder):
    with (folder / "skipped.csv").open(newline="") as file:
        return list(csv.reader(file))


def rows_of(cohort):
    return {split: table.to_pylist() for split, table in cohort.splits.items()}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    return open_cohort(make(source, tmp_path_factory.mktemp("whole") / "cohort"))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_merged_parts_are_the_unsharded_cohort(source, whole, tmp_path, count):
    parts = make_parts(source, tmp_path / "cohort", count)
    assert not (tmp_path / "cohort").exists()
    merged = open_cohort(merge_parts(tmp_path / "cohort"))
    assert merged.card == whole.card
    assert rows_of(merged) == rows_of(whole)
    assert skipped(merged.path) == skipped(whole.path)
    assert len(skipped(merged.path)) == 3
    assert check_cohort(merged.path) == []
    names = {part.name for part in parts}
    assert {path.name for path in tmp_path.iterdir()} == names | {"cohort"}
    # signals were not written again: the files are those of the parts
    inodes = {path.stat().st_ino for part in parts for path in (part / "data").iterdir()}
    assert inodes == {path.stat().st_ino for path in (merged.path / "data").iterdir()}


def test_parts_in_any_order_and_from_anywhere(source, whole, tmp_path):
    parts = make_parts(source, tmp_path / "here" / "cohort", 3)
    moved = [shutil.move(part, tmp_path / f"from machine {n}") for n, part in enumerate(parts)]
    merged = open_cohort(merge_parts(tmp_path / "cohort", reversed(moved)))
    assert merged.fingerprint == whole.fingerprint


def test_files_are_copied_where_they_cannot_be_linked(source, whole, tmp_path, monkeypatch):
    make_parts(source, tmp_path / "cohort", 2)

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert open_cohort(merge_parts(tmp_path / "cohort")).fingerprint == whole.fingerprint


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), count=st.integers(1, 12))
def test_shares_are_balanced_and_joined_in_order(sizes, count):
    names = ("train", "validation", "test")
    splits = {name: pa.table({"n": np.arange(size)}) for name, size in zip(names, sizes)}
    if sum(sizes) < count:
        with pytest.raises(InputError, match=f"{sum(sizes)} recordings cannot be cut into {count}"):
            Shard(1, count).share(splits)
        return
    shares = [Shard(index, count).share(splits) for index in range(1, count + 1)]
    rows = [sum(table.num_rows for table in share.values()) for share in shares]
    assert max(rows) - min(rows) <= 1
    for name, size in zip(names, sizes):
        joined = [n for share in shares if name in share for n in share[name]["n"].to_pylist()]
        assert joined == list(range(size))


def test_a_finished_part_is_kept_and_a_stopped_one_continued(source, tmp_path, monkeypatch):
    part = make(source, tmp_path / "cohort", "1/2")
    before = (part / "part.json").stat().st_mtime_ns  # of a file that is read the rest may change
    assert make(source, tmp_path / "cohort", "1/2") == part
    assert (part / "part.json").stat().st_mtime_ns == before

    calls = []
    convert_piece = conversion.convert_piece

    def fail_at_third(piece):
        calls.append(piece)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return convert_piece(piece)

    monkeypatch.setattr(conversion, "convert_piece", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "cohort", "2/2")
    # another part, and a whole cohort of that name, leave what was begun alone
    make(source, tmp_path / "cohort", "1/2")
    monkeypatch.setattr(conversion, "convert_piece", convert_piece)
    whole = open_cohort(make(source, tmp_path / "cohort")).fingerprint
    shutil.rmtree(tmp_path / "cohort")
    monkeypatch.setattr(conversion, "convert_piece", lambda piece: calls.append(piece) or 0)
    with pytest.raises(FileNotFoundError):  # nothing was converted now: the others' notes lack
        make(source, tmp_path / "cohort", "2/2")
    monkeypatch.setattr(conversion, "convert_piece", convert_piece)
    done = {str(piece.note) for piece in calls[:2]}
    assert not done & {str(piece.note) for piece in calls[3:]}
    make(source, tmp_path / "cohort", "2/2")
    assert open_cohort(merge_parts(tmp_path / "cohort")).fingerprint == whole


def refusal(*arguments, **options):
    with pytest.raises(InputError) as info:
        merge_parts(*arguments, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_what_cannot_be_merged_is_refused(source, tmp_path):
    target = tmp_path / "cohort"
    assert "there is no cohort.part-1-of-... beside it" in refusal(target)
    one, two, three = make_parts(source, target, 3)
    other_count = make(source, tmp_path / "other" / "cohort", "2/2")
    other_source = make(source, tmp_path / "more" / "cohort", "2/3", labels=[])
    copy = shutil.copytree(two, tmp_path / "copy")
    assert "these are missing: 2/3" in refusal(target, [one, three])
    assert "these are missing: 1/3, 3/3" in refusal(target, [two])
    assert "copy are both part 2/3" in refusal(target, [one, two, three, copy])
    assert "all parts must be of one cutting" in refusal(target, [one, other_count, three])
    assert "from another source or with other options" in refusal(target, [one, other_source])
    assert "is not a part of a cohort: it has no part.json" in refusal(target, [source])
    assert "no part of" in refusal(target, [])
    file = next((two / "data").iterdir())
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert f"{file} is missing or not complete" in refusal(target)
    file.unlink()
    assert f"{file} is missing or not complete" in refusal(target)
    file.write_bytes(content)
    assert not target.exists()
    assert not list(tmp_path.glob(".*"))
    merge_parts(target)
    assert "exists already" in refusal(target)


def test_copies_across_parts_are_found_when_merging(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    for ending in ("hea", "dat"):  # a training recording becomes one of the test's
        first, copy = (folder / "ecg" / f"{number}.{ending}" for number in (2, 0))
        copy.write_bytes(first.read_bytes().replace(b"2.dat", b"0.dat"))
    make_parts(folder, tmp_path / "cohort", 3)
    assert "ecg/2 (train) = ecg/0 (test)" in refusal(tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()
    merged = open_cohort(merge_parts(tmp_path / "cohort", allow_duplicates=True))
    assert merged.card.allow_duplicates


def test_a_person_in_two_splits_stops_every_part(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    table = folder / "table.csv"
    table.write_text(table.read_text().replace("p0,ecg/0,test", "p0,ecg/0,train"))
    with pytest.raises(InputError, match=r"more than one split: p0 \(train, test\)"):
        make(folder, tmp_path / "cohort", "3/3")


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("2", "shard is '2', expected a part and how many there are: 2/8"),
        ("0/3", "there is no shard 0/3; they are counted from 1 to 3"),
        ("4/3", "there is no shard 4/3; they are counted from 1 to 3"),
        ("1/0", "there is no shard 1/0"),
        ("1/21", "20 recordings cannot be cut into 21 shards"),
    ],
)
def test_bad_shards_are_refused(source, tmp_path, shard, message):
    with pytest.raises(InputError, match=message):
        make(source, tmp_path / "cohort", shard)
    assert list(tmp_path.iterdir()) == []


def test_commands(source, whole, tmp_path, capsys):
    target = str(tmp_path / "cohort")
    common = ["--table", str(source / "table.csv"), "--records", str(source)]
    common += ["--subject=patient", "--path=file", "--split=split", "--label", "finding"]
    for index in (1, 2):
        assert main(["cohort", "ecg", target, *common, "--shard", f"{index}/2"]) == 0
    assert "part 2/2 is in" in capsys.readouterr().out
    assert main(["cohort", "merge", target]) == 0
    assert whole.fingerprint[:16] in capsys.readouterr().out
    assert main(["cohort", "merge", target]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    parts = [f"{target}.part-1-of-2"]
    assert main(["cohort", "merge", f"{target}2", "--parts", *parts]) == 2
    assert "these are missing: 2/2" in capsys.readouterr().err


def test_real_recordings(real_data, tmp_path):
    source = real_data("ptbxl_500")
    whole = open_cohort(make_ptbxl(source, tmp_path / "whole"))
    for index in (1, 2, 3):
        part = make_ptbxl(source, tmp_path / "cohort", shard=f"{index}/3")
    assert json.loads((part / "part.json").read_text())["shard"] == "3/3"
    merged = open_cohort(merge_parts(tmp_path / "cohort"))
    assert merged.card == whole.card
    assert check_cohort(merged.path) == []
