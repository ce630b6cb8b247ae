"""MIMIC-IV-ECG: small trees of the layout that PhysioNet has."""

import csv

import numpy as np
import pytest

from fm_med.cohort import check_cohort, open_cohort
from fm_med.cohort.reading import read_skipped
from fm_med.errors import InputError
from fm_med.sources.mimic import MEASUREMENTS, make_mimic
from fm_med.sources.public import Making
from fm_med.sources.shards import merge_parts

COUNT = 60  # recordings of thirty people, two of each


def subject(number):
    return 10000032 + number // 2


def study(number):
    return 40689238 + 11 * number


def place(number):
    person = subject(number)
    return f"files/p{person // 10000}/p{person}/s{study(number)}/{study(number)}"


def record(number, **changes):
    # The second recording of a person is the earlier one.
    year = 2180 + number // 2 + (5 if number % 2 == 0 else 0)
    values = {
        "subject_id": subject(number),
        "study_id": study(number),
        "file_name": study(number),
        "ecg_time": f"{year}-07-23 08:44:00",
        "path": place(number),
    }
    return values | changes


def measured(number, **changes):
    values = {
        "subject_id": subject(number),
        "study_id": study(number),
        "cart_id": 6848296,
        "ecg_time": record(number)["ecg_time"],
        **{f"report_{index}": "" for index in range(18)},
        "report_0": "Sinus rhythm",
        "report_1": f"Statement, number {number}.",
        "report_17": "Abnormal ECG" if number % 2 else "",
        "bandwidth": "0.005-150 Hz",
        "filtering": "60 Hz notch Baseline filter",
        **dict.fromkeys(MEASUREMENTS, 100 + number),
        "p_axis": 29999,
        "t_axis": -30,
    }
    return values | changes


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def source(tmp_path, write_record):
    folder = tmp_path / "mimic"
    folder.mkdir()
    write_table(folder / "record_list.csv", [record(number) for number in range(COUNT)])
    # In another order, and without the last one.
    rows = [measured(number) for number in reversed(range(COUNT - 1))]
    write_table(folder / "machine_measurements.csv", rows)
    for number in range(COUNT):
        write_record(folder, place(number), seed=number, rate=500, samples=500)
    return folder


def table(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def rows_of(cohort):
    return {
        row["record_id"]: row
        for split in cohort.splits
        for row in cohort.rows(split, np.arange(cohort.card.recordings[split])).to_pylist()
    }


def test_rows(source, tmp_path):
    cohort = open_cohort(make_mimic(source, tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    assert sum(cohort.card.recordings.values()) == COUNT
    assert sum(cohort.card.subjects.values()) == COUNT // 2
    assert (cohort.card.sampling_rate, cohort.card.license) == (500, "odbl")
    assert (cohort.card.time, cohort.card.follow_up_unit) == (None, None)
    found = rows_of(cohort)
    assert found[str(study(3))]["subject_id"] == "10000033"
    assert found[str(study(3))]["report"] == "Sinus rhythm. Statement, number 3. Abnormal ECG"
    assert found[str(study(4))]["report"] == "Sinus rhythm. Statement, number 4"
    assert found[str(study(4))]["rr_interval"] == 104
    assert found[str(study(4))]["p_axis"] is None
    assert found[str(study(4))]["t_axis"] == -30
    last = found[str(study(COUNT - 1))]
    assert (last["report"], last["rr_interval"]) == (None, None)
    # Nothing that is a date, a cart or a path.
    kept = {"subject_id", "record_id", "split", "report", *MEASUREMENTS, "middle_hash"}
    assert kept == {name for name in last if name in kept}
    signal = {"signal", "samples", "sampling_rate", "gain", "lead_mask", "missing_samples"}
    assert set(last) == kept | signal | {"signal_hash"}
    text = (cohort.path / "README.md").read_text()
    assert "08:44" not in text and "ecg_time" not in text


def test_age_and_sex_of_mimic_iv(source, tmp_path):
    patients = table(
        tmp_path / "patients.csv",
        ["subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"]
        + [
            f"{subject(n)},{'FM'[n % 4 // 2]},{50 + n},2181,2014 - 2016,"
            for n in range(4, COUNT, 2)
        ],
    )
    cohort = open_cohort(make_mimic(source, tmp_path / "cohort", patients=patients, keep_time=True))
    found = rows_of(cohort)
    assert [found[str(study(n))]["sex"] for n in (0, 4, 6)] == [None, "female", "male"]
    assert [found[str(study(n))]["age"] for n in (0, 4, 5)] == [None, 54 + 6, 54 + 1]
    assert found[str(study(0))]["ecg_time"] == "2185-07-23 08:44:00"
    assert "anchor_age moved to the year" in cohort.card.columns["age"]


def test_outcomes_by_person_count_from_the_first_recording(source, tmp_path):
    outcomes = table(
        tmp_path / "outcomes.csv",
        ["subject_id,time,event", f"{subject(0)},12.5,1", f"{subject(6)},400,0", "99,1,1"],
    )
    cohort = open_cohort(
        make_mimic(source, tmp_path / "cohort", outcomes=outcomes, follow_up_unit="days")
    )
    assert check_cohort(cohort.path) == []
    assert (cohort.card.time, cohort.card.follow_up_unit) == ("time", "days")
    told = {key: (row["time"], row["event"]) for key, row in rows_of(cohort).items()}
    assert told.pop(str(study(1))) == (12.5, True)
    assert told.pop(str(study(7))) == (400, False)
    assert set(told.values()) == {(None, None)}


def test_outcomes_by_recording(source, tmp_path):
    outcomes = table(
        tmp_path / "outcomes.csv",
        ["subject_id,study_id,time,event", f"{subject(0)},{study(0)},3,0", f"1,{study(1)},,"],
    )
    folder = make_mimic(source, tmp_path / "cohort", outcomes=outcomes, follow_up_unit="days")
    told = {key: row["time"] for key, row in rows_of(open_cohort(folder)).items()}
    assert [key for key, time in told.items() if time is not None] == [str(study(0))]


def test_unreadable_recordings_are_listed(source, tmp_path):
    (source / f"{place(2)}.dat").unlink()
    path = source / f"{place(5)}.dat"
    path.write_bytes(path.read_bytes()[:700])
    cohort = open_cohort(make_mimic(source, tmp_path / "cohort"))
    reasons = dict(read_skipped(cohort.path))
    assert set(reasons) == {str(study(2)), str(study(5))}
    assert f"{study(2)}.dat is missing" in reasons[str(study(2))]
    assert "700 bytes; expected 12,000" in reasons[str(study(5))]


def test_parts_make_the_same_cohort(source, tmp_path):
    whole = open_cohort(make_mimic(source, tmp_path / "whole"))
    for shard in ("1/2", "2/2"):
        make_mimic(source, tmp_path / "cohort", making=Making(shard=shard))
    assert open_cohort(merge_parts(tmp_path / "cohort")).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study_id": study(0)}, rf"'study_id' is not unique in row 1 \('{study(0)}'\), 3"),
        ({"study_id": ""}, "'study_id' is blank in row 3"),
        ({"subject_id": ""}, "'subject_id' is blank in row 3"),
        ({"path": ""}, "'path' is blank in row 3"),
    ],
)
def test_bad_lists_are_refused(source, tmp_path, changes, message):
    rows = [record(number, **(changes if number == 2 else {})) for number in range(COUNT)]
    write_table(source / "record_list.csv", rows)
    with pytest.raises(InputError, match=message):
        make_mimic(source, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["mimic"]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("outcomes", ["subject_id,months,event", "1,2,3"], "has no column 'time'"),
        ("outcomes", ["subject_id,time,event", "99,1,1"], "has no person or study of record_list"),
        (
            "outcomes",
            ["subject_id,time,event", *2 * [f"{subject(0)},1,1"]],
            "an id of outcomes.csv is not unique in row 1",
        ),
        ("outcomes", ["subject_id,time,event", f"{subject(0)},-1,1"], "'time' is negative"),
        ("outcomes", ["subject_id,time,event", f"{subject(0)},,1"], "only one of 'time' and"),
        ("patients", ["subject_id,gender", "1,F"], "has no column 'anchor_age'"),
        (
            "patients",
            ["subject_id,gender,anchor_age,anchor_year", f"{subject(0)},X,50,2180"],
            r"'gender' is neither F nor M in row 1 \('X'\)",
        ),
    ],
)
def test_bad_tables_beside_it_are_refused(source, tmp_path, name, rows, message):
    settings = {name: table(tmp_path / f"{name}.csv", rows)}
    unit = "days" if name == "outcomes" else None
    with pytest.raises(InputError, match=message):
        make_mimic(source, tmp_path / "cohort", follow_up_unit=unit, **settings)


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no MIMIC-IV-ECG at .*nowhere: there is no such folder"):
        make_mimic(tmp_path / "nowhere", tmp_path / "cohort")
    with pytest.raises(InputError, match="follow_up_unit.* belong together"):
        make_mimic(source, tmp_path / "cohort", outcomes=source / "x.csv")
    path = source / "machine_measurements.csv"
    path.write_text(path.read_text().replace("report_0", "text"))
    with pytest.raises(InputError, match="machine_measurements.csv has no column 'report_0'; it"):
        make_mimic(source, tmp_path / "cohort")
    path.unlink()
    with pytest.raises(InputError, match="no table at .*machine_measurements.csv"):
        make_mimic(source, tmp_path / "cohort")
    rows = [record(n, ecg_time="23.07.2180") for n in range(COUNT)]
    write_table(source / "record_list.csv", rows)
    write_table(path, [measured(n) for n in range(COUNT)])
    patients = table(
        tmp_path / "p.csv", ["subject_id,gender,anchor_age,anchor_year", f"{subject(0)},F,50,2180"]
    )
    with pytest.raises(InputError, match="'ecg_time' is not a time such as 2150-01-31"):
        make_mimic(source, tmp_path / "cohort", patients=patients)
