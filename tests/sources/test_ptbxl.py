import csv
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from fm_med.cohort import check_cohort, describe_cohort, open_cohort
from fm_med.cohort.checking import equal_recordings
from fm_med.errors import InputError
from fm_med.sources.ptbxl import SUPERCLASSES, make_ptbxl

COLUMNS = "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr".split(",")
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class
NORM,normal ECG,1.0,,,NORM
IMI,inferior infarction,1.0,,,MI
LVH,left ventricular hypertrophy,1.0,,,HYP
ABQRS,abnormal QRS,,1.0,,
SR,sinus rhythm,,,1.0,
"""


def ptbxl_row(number, **changes):
    values = {
        "ecg_id": number,
        "patient_id": f"{number + 1000}.0",
        "age": "56.0",
        "sex": number % 2,
        "report": f"befund {number}",
        "scp_codes": "{'NORM': 100.0, 'SR': 0.0}",
        "strat_fold": number % 10 + 1,
        "filename_lr": f"records100/{number:05d}_lr",
        "filename_hr": f"records500/{number:05d}_hr",
    }
    return values | changes


def write_source(folder, rows):
    folder.mkdir(exist_ok=True)
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    return folder


@pytest.fixture
def source(tmp_path, write_record):
    """Ten recordings, one per fold, as PTB-XL lays them out."""
    folder = write_source(tmp_path / "ptbxl", [ptbxl_row(n) for n in range(10)])
    for number in range(10):
        write_record(folder, f"records100/{number:05d}_lr", seed=number)
    return folder


def rewrite(source, number, **changes):
    write_source(source, [ptbxl_row(n, **(changes if n == number else {})) for n in range(10)])


def test_rows(source, tmp_path, write_record):
    codes = write_record(source, "records100/00003_lr", seed=3)
    rewrite(
        source,
        3,
        report="  ",
        age="300.0",
        scp_codes="{'IMI': 35.0, 'LVH': 0.0, 'SR': 0.0, 'ABQRS': 0.0}",
    )
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort"))
    assert cohort.card.recordings == {"train": 8, "validation": 1, "test": 1}
    assert cohort.column("validation", "record_id") == ["8"]
    assert cohort.column("test", "subject_id") == ["1009"]
    assert cohort.card.sampling_rate == 100
    assert cohort.card.label_sets == {"superclass": list(SUPERCLASSES)}
    row = cohort.rows("train", np.array([3])).to_pylist()[0]
    assert row["report"] is None
    assert row["age"] == 90
    assert row["sex"] == "female"
    assert row["scp_codes"][0] == {"code": "IMI", "likelihood": 35.0}
    assert [row[name] for name in SUPERCLASSES] == [False, True, False, False, True]
    np.testing.assert_array_equal(
        np.frombuffer(row["signal"], "<i2").reshape(12, -1) * np.array(row["gain"])[:, None],
        codes * np.float32(0.001).astype(float),
    )
    assert check_cohort(cohort.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort", "ptbxl"]


def test_superclass_by_likelihood_and_unknown(source, tmp_path):
    codes = "{'IMI': 35.0, 'LVH': 0.0}"
    rewrite(source, 0, scp_codes=codes)
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort", min_likelihood=1))
    row = cohort.rows("train", np.array([0]), list(SUPERCLASSES)).to_pylist()[0]
    assert list(row.values()) == [False, True, False, False, False]
    rewrite(source, 0, scp_codes="{'SR': 0.0}")
    cohort = open_cohort(make_ptbxl(source, tmp_path / "other"))
    row = cohort.rows("train", np.array([0]), list(SUPERCLASSES)).to_pylist()[0]
    assert set(row.values()) == {None}


def test_unreadable_recordings_are_listed(source, tmp_path):
    path = source / "records100" / "00004_lr.dat"
    path.write_bytes(path.read_bytes()[:1000])
    (source / "records100" / "00008_lr.dat").unlink()
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort"))
    assert cohort.card.recordings == {"train": 7, "test": 1}
    with (cohort.path / "skipped.csv").open(newline="") as file:
        skipped = {row["record_id"]: row["reason"] for row in csv.DictReader(file)}
    assert list(skipped) == ["4", "8"]
    assert "00004_lr" in skipped["4"]
    assert "00008_lr" in skipped["8"]
    assert "skipped 2 (see skipped.csv), first: 4:" in describe_cohort(cohort.path)


def test_no_readable_recording(source, tmp_path):
    shutil.rmtree(source / "records100")
    with pytest.raises(InputError, match=r"none of 10 recordings could be used, first 0: .*00000"):
        make_ptbxl(source, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["ptbxl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strat_fold": 11}, "'strat_fold' is not one of 1 to 10 in row 3"),
        ({"strat_fold": ""}, "'strat_fold' is not one of 1 to 10 in row 3"),
        ({"scp_codes": "NORM"}, "'scp_codes' of ecg_id 2 is 'NORM', expected a dict"),
        ({"sex": "x"}, r"'sex' is neither true nor false in row 3 \('x'\)"),
        ({"patient_id": ""}, "'patient_id' is blank in row 3"),
        ({"age": "old"}, r"'age' is not a number in row 3 \('old'\)"),
        ({"patient_id": "1009.0"}, r"more than one split: 1009 \(train, test\)"),
        ({"filename_lr": ""}, "'filename_lr' is blank in row 3"),
    ],
)
def test_bad_tables_are_refused(source, tmp_path, changes, message):
    rewrite(source, 2, **changes)
    with pytest.raises(InputError, match=message):
        make_ptbxl(source, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["ptbxl"]


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no PTB-XL at .*nowhere: there is no such folder"):
        make_ptbxl(tmp_path / "nowhere", tmp_path / "cohort")
    with pytest.raises(InputError, match="100 and 500 Hz recordings, not 250 Hz"):
        make_ptbxl(source, tmp_path / "cohort", sampling_rate=250)
    path = source / "ptbxl_database.csv"
    path.write_text(path.read_text().replace("scp_codes", "codes"))
    with pytest.raises(InputError, match="has no column 'scp_codes'; it has ecg_id, .*strat_fold"):
        make_ptbxl(source, tmp_path / "cohort")
    path.unlink()
    with pytest.raises(InputError, match=r"no table at .*ptbxl_database.csv"):
        make_ptbxl(source, tmp_path / "cohort")
    with pytest.raises(InputError, match="exists already"):
        make_ptbxl(source, source)


def test_recording_of_another_rate_is_told(source, tmp_path, write_record):
    write_record(source, "records100/00002_lr", rate=500)
    with pytest.raises(InputError, match="sampling rates 100.0, 500.0 Hz, the card says 100 Hz"):
        make_ptbxl(source, tmp_path / "cohort")


def test_copies_across_splits(source, tmp_path):
    for ending in ("hea", "dat"):
        first, copy = (source / "records100" / f"{n:05d}_lr.{ending}" for n in (1, 9))
        copy.write_bytes(first.read_bytes().replace(b"00001_lr", b"00009_lr"))
    # as PTB-XL's own copies at 100 Hz: the last samples differ, so the checksums do, too
    header = source / "records100" / "00009_lr.hea"
    copy.write_bytes(copy.read_bytes()[:-24] + bytes(24))
    codes = np.frombuffer(copy.read_bytes(), "<i2").reshape(-1, 12)
    lines = header.read_text().splitlines()
    for lead, line in enumerate(lines[1:], 1):
        words = line.split()
        words[6] = str(int(codes[:, lead - 1].sum(dtype=np.int64)) % 65536)
        lines[lead] = " ".join(words)
    header.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"1 \(train\) = 9 \(test\).*allow_duplicates"):
        make_ptbxl(source, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["ptbxl"]
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort", allow_duplicates=True))
    assert cohort.card.allow_duplicates


def test_workers_and_shards_do_not_change_the_cohort(source, tmp_path):
    one = open_cohort(make_ptbxl(source, tmp_path / "one", workers=1))
    two = open_cohort(make_ptbxl(source, tmp_path / "two", workers=2, rows_per_shard=3))
    assert len(list((two.path / "data").iterdir())) == 5
    assert one.fingerprint == two.fingerprint


CONVERT = """
import sys
from fm_med.sources.ptbxl import make_ptbxl
if __name__ == "__main__":
    make_ptbxl(*sys.argv[1:], workers=2, rows_per_shard=40, allow_duplicates=True)
"""


def test_killed_conversion_continues(source, tmp_path):
    """kill -9 in the middle: the rerun keeps what is done and gives the same cohort."""
    rows = [ptbxl_row(n, filename_lr=f"records100/{n % 10:05d}_lr") for n in range(1600)]
    write_source(source, rows)
    script = tmp_path / "convert.py"
    script.write_text(CONVERT)
    command = [sys.executable, str(script), str(source), str(tmp_path / "out" / "cohort")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes)
    try:
        wait_for_notes(tmp_path / "out", 5)
    finally:
        process.kill()
    # the pipes close when the last of its workers has ended, too
    process.communicate(timeout=60)
    assert not (tmp_path / "out" / "cohort").exists()
    (work,) = (tmp_path / "out").iterdir()
    done = {path: path.stat().st_mtime_ns for path in work.glob("notes/*.json")}
    shards = {path.name: path.stat().st_ino for path in work.glob("cohort/data/*.arrow")}
    assert 5 <= len(done) < 40
    subprocess.run(command, check=True)
    cohort = open_cohort(tmp_path / "out" / "cohort")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cohort"]
    assert cohort.card.recordings == {"train": 1280, "validation": 160, "test": 160}
    kept = {path.stat().st_ino for path in (cohort.path / "data").iterdir()}
    assert {shards[path.stem + ".arrow"] for path in done} <= kept
    whole = make_ptbxl(source, tmp_path / "whole", allow_duplicates=True)
    assert cohort.fingerprint == open_cohort(whole).fingerprint


def wait_for_notes(folder, count):
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".*/notes/*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_changed_source_is_converted_anew(source, tmp_path):
    """What an interrupted run with another table left behind is not mixed in."""
    leftover = tmp_path / ".cohort.rows-0123456789abcdef.partial" / "cohort" / "data"
    leftover.mkdir(parents=True)
    (leftover / "train-00000.arrow").write_bytes(b"old")
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort", "ptbxl"]


def test_real_recordings(real_data, tmp_path):
    source = real_data("ptbxl_500")
    cohort = open_cohort(make_ptbxl(source, tmp_path / "cohort"))
    assert cohort.card.recordings == {"train": 353, "validation": 81, "test": 66}
    assert sum(cohort.card.subjects.values()) == 466
    unknown = sum(np.isnan(cohort.column(s, "NORM").astype(float)).sum() for s in cohort.splits)
    assert unknown == 12
    pairs = [[row.record_id for row in group] for group in equal_recordings(cohort.splits)]
    assert pairs == [["137", "138"], ["145", "463"], ["456", "457"], ["459", "460"], ["143", "144"]]
    assert "different subjects: 145 = 463" in describe_cohort(cohort.path)
    codes = np.fromfile(source / "records100/00000/00001_lr.dat", "<i2").reshape(-1, 12).T
    row = cohort.rows("train", np.array([0])).to_pylist()[0]
    assert (row["record_id"], row["subject_id"], row["sex"]) == ("1", "15709", "female")
    np.testing.assert_array_equal(np.frombuffer(row["signal"], "<i2").reshape(12, -1), codes)
    assert check_cohort(cohort.path) == []


def test_real_recordings_at_500_hz(real_data, tmp_path):
    source = real_data("ptbxl_500")
    folder = tmp_path / "cut"
    folder.mkdir()
    lines = (source / "ptbxl_database.csv").read_text().splitlines(keepends=True)
    (folder / "ptbxl_database.csv").write_text("".join(lines[:31]))
    (folder / "scp_statements.csv").symlink_to(source / "scp_statements.csv")
    (folder / "records500").symlink_to(source / "records500")
    cohort = open_cohort(make_ptbxl(folder, tmp_path / "cohort", sampling_rate=500))
    assert sum(cohort.card.recordings.values()) == 30
    assert set(cohort.column("train", "samples")) == {5000}
    assert check_cohort(cohort.path) == []


def test_real_leak_across_people_is_refused(real_data, tmp_path):
    """145 and 463 are one ECG under two patients; put into two splits it is found at 100 Hz."""
    source = real_data("ptbxl_500")
    folder = tmp_path / "cut"
    folder.mkdir()
    with (source / "ptbxl_database.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ecg_id"] in ("1", "145", "463")]
    rows[-1]["strat_fold"] = "10"
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "scp_statements.csv").symlink_to(source / "scp_statements.csv")
    (folder / "records100").symlink_to(source / "records100")
    with pytest.raises(InputError, match=r"145 \(train\) = 463 \(test\)"):
        make_ptbxl(folder, tmp_path / "cohort")
