"""CODE-15%: small copies of the layout that Zenodo has, damaged ones, and ten real exams."""

import csv
import shutil

import h5py
import numpy as np
import pytest

from fm_med.cohort import check_cohort, describe_cohort, open_cohort
from fm_med.cohort.reading import read_skipped
from fm_med.errors import InputError
from fm_med.sources.code15 import ABNORMALITIES, make_code15
from fm_med.sources.public import Making
from fm_med.sources.shards import merge_parts
from fm_med.tasks import make_task

COLUMNS = (
    "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,"
    "normal_ecg,trace_file"
).split(",")
LENGTHS = [2800, 4000, 4096]
EXAMS = [1000 + 7 * number for number in range(30)]


def exam(number, **changes):
    """The number-th exam; every third is a person's second one and has no follow-up."""
    first = number % 3 < 2
    values = {
        "exam_id": EXAMS[number],
        "age": 20 + number,
        "is_male": number % 2 == 0,
        "nn_predicted_age": 44.2,
        **{name: number % 6 == index for index, name in enumerate(ABNORMALITIES)},
        "patient_id": 500 + number // 3 * 3 + number % 3 % 2,
        "death": number % 3 == 1 if first else "",
        "timey": 0.5 + number if first else "",
        "normal_ecg": False,
        "trace_file": f"exams_part{number % 3}.hdf5",
    }
    return values | changes


def tracing(number):
    """(samples, 12) millivolt; shorter than 4096 samples in two of three exams."""
    samples = LENGTHS[number % 3]
    time = np.arange(samples) / 400
    wave = np.sin(2 * np.pi * (1 + number / 50) * time)[:, None] * np.linspace(0.5, 1.2, 12)
    return (wave + 0.01).astype(np.float32)


def padded(signal):
    before = (4096 - len(signal)) // 2
    after = 4096 - len(signal) - before
    return np.pad(signal, ((before, after), (0, 0)))


def write_table(folder, rows):
    with (folder / "exams.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_source(folder, factor=1.0):
    """Thirty exams in three files, each of which ends in a row that belongs to no exam."""
    folder.mkdir()
    # The table is not in the order of the files, and in none of the two.
    write_table(folder, [exam(number) for number in reversed(range(30))])
    for part in range(3):
        numbers = [number for number in range(30) if number % 3 == part]
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            tracings = np.stack([padded(tracing(number)) for number in numbers])
            tracings = np.concatenate([tracings, np.zeros((1, 4096, 12), np.float32)])
            file["exam_id"] = [EXAMS[number] for number in numbers] + [0]
            file.create_dataset("tracings", data=tracings * factor, compression="gzip", chunks=True)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("code15") / "source")


@pytest.fixture
def source(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "source")


def records(cohort):
    """All rows by exam, with the signal in millivolt."""
    found = {}
    for split in cohort.splits:
        for row in cohort.rows(split, np.arange(cohort.card.recordings[split])).to_pylist():
            codes = np.frombuffer(row["signal"], "<i2").reshape(12, -1)
            found[row["record_id"]] = row | {"mv": codes * np.array(row["gain"])[:, None]}
    return found


def test_rows(whole, tmp_path):
    cohort = open_cohort(make_code15(whole, tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    assert sum(cohort.card.recordings.values()) == 30
    assert sum(cohort.card.subjects.values()) == 20
    assert read_skipped(cohort.path) == []
    assert cohort.card.sampling_rate == 400
    assert cohort.card.label_sets == {
        "abnormalities": list(ABNORMALITIES),
        "normal": ["normal_ecg"],
    }
    assert (cohort.card.follow_up_unit, cohort.card.license) == ("years", "cc-by-4.0")
    assert "a stored unit was read as 1 mV" in cohort.card.columns["signal"]
    found = records(cohort)
    for number in range(30):
        row = found[str(EXAMS[number])]
        assert row["samples"] == LENGTHS[number % 3]  # the zeros are no signal
        np.testing.assert_allclose(row["mv"], tracing(number).T, atol=5e-5)
        assert [row[name] for name in ABNORMALITIES] == [number % 6 == k for k in range(6)]
        assert row["sex"] == ("female" if number % 2 else "male")
        assert (row["age"], row["normal_ecg"]) == (20 + number, False)
        expected = (None, None) if number % 3 == 2 else (0.5 + number, number % 3 == 1)
        assert (row["time"], row["event"]) == expected
    assert not {"exam_id", "trace_file", "nn_predicted_age"} & set(found["1000"])


def test_exams_without_follow_up_are_told_and_left_out(whole, tmp_path):
    cohort = open_cohort(make_code15(whole, tmp_path / "cohort"))
    assert " without follow-up" in describe_cohort(cohort.path)
    task = make_task("survival", cohort)
    rows = [task.usable(task.targets(cohort, split)).sum() for split in cohort.splits]
    assert sum(rows) == 20


def test_another_unit(tmp_path):
    source = write_source(tmp_path / "source", factor=10)  # stored in 0.1 mV
    with pytest.raises(InputError, match=r"1 mV per stored unit .* 30 recordings span 17.* give"):
        make_code15(source, tmp_path / "cohort")
    folder = make_code15(source, tmp_path / "cohort", millivolt_per_unit=0.1)
    cohort = open_cohort(folder)
    assert "a stored unit was read as 0.1 mV" in cohort.card.columns["signal"]
    np.testing.assert_allclose(records(cohort)["1007"]["mv"], tracing(1).T, atol=5e-5)
    with pytest.raises(InputError, match="0.001 mV per stored unit"):
        make_code15(source, tmp_path / "other", millivolt_per_unit=0.001)
    with pytest.raises(InputError, match="millivolt_per_unit is -1; expected a number above 0"):
        make_code15(source, tmp_path / "other", millivolt_per_unit=-1)


def test_damage_is_listed_exam_by_exam(source, tmp_path):
    path = source / "exams_part1.hdf5"
    path.write_bytes(path.read_bytes()[:20_000])  # a download that was cut
    (source / "exams_part2.hdf5").unlink()
    with h5py.File(source / "exams_part0.hdf5", "r+") as file:
        file["tracings"][3] = 0
        file["exam_id"][4] = 77  # an exam that the table does not have
    cohort = open_cohort(make_code15(source, tmp_path / "cohort", making=Making(seed=2)))
    assert sum(cohort.card.recordings.values()) == 8
    reasons = {int(record): reason for record, reason in read_skipped(cohort.path)}
    assert len(reasons) == 22
    assert "exams_part0.hdf5, tracing 3: all samples are zero" in reasons[EXAMS[9]]
    assert "exams_part0.hdf5: has no tracing of this exam" in reasons[EXAMS[12]]
    assert "exams_part1.hdf5: cannot be read as HDF5 (" in reasons[EXAMS[1]]
    assert "exams_part2.hdf5: there is no such file" in reasons[EXAMS[2]]


def test_a_damaged_block_spoils_its_own_exams_only(source, tmp_path):
    path = source / "exams_part0.hdf5"
    with h5py.File(path, "r") as file:
        chunks = file["tracings"]
        info = next(
            info
            for info in map(chunks.id.get_chunk_info, range(chunks.id.get_num_chunks()))
            if info.chunk_offset[0] > 0 and info.size > 1000
        )
        damaged = range(info.chunk_offset[0], info.chunk_offset[0] + chunks.chunks[0])
    content = bytearray(path.read_bytes())
    content[info.byte_offset : info.byte_offset + info.size] = bytes(info.size)
    path.write_bytes(content)
    cohort = open_cohort(make_code15(source, tmp_path / "cohort"))
    skipped = read_skipped(cohort.path)
    assert {int(record) for record, _ in skipped} == {EXAMS[3 * row] for row in damaged if row < 10}
    assert all("cannot be read (" in reason for _, reason in skipped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exam_id": 1007}, r"'exam_id' is not unique in row"),
        ({"exam_id": "x"}, r"'exam_id' is not a whole number in row 28 \('x'\)"),
        ({"patient_id": ""}, "'patient_id' is blank in row 28"),
        ({"is_male": "m"}, r"'is_male' is neither true nor false in row 28 \('m'\)"),
        ({"age": 200}, r"'age' is no age in row 28 \('200'\)"),
        ({"AF": "maybe"}, r"'AF' is neither true nor false in row 28"),
        ({"timey": -1, "death": True}, r"follow-up time 'timey' is negative in row 28 \('-1'\)"),
        ({"timey": 2, "death": ""}, "only one of 'timey' and 'death' is blank in row 28"),
        ({"timey": "", "death": True}, "only one of 'timey' and 'death' is blank in row 28"),
    ],
)
def test_bad_tables_are_refused(source, tmp_path, changes, message):
    rows = [exam(number, **(changes if number == 2 else {})) for number in reversed(range(30))]
    write_table(source, rows)
    with pytest.raises(InputError, match=message):
        make_code15(source, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no CODE-15 at .*nowhere: there is no such folder"):
        make_code15(tmp_path / "nowhere", tmp_path / "cohort")
    path = source / "exams.csv"
    text = path.read_text()
    path.write_text(text.replace("timey", "years"))
    with pytest.raises(InputError, match="exams.csv has no column 'timey'; it has exam_id, age"):
        make_code15(source, tmp_path / "cohort")
    path.write_text(text)
    for part in range(3):
        with h5py.File(source / f"exams_part{part}.hdf5", "w") as file:
            file["signals"] = np.zeros((2, 3))
    with pytest.raises(InputError, match="none of 30 recordings could be used, first .*no tracing"):
        make_code15(source, tmp_path / "cohort")
    for part in range(3):
        (source / f"exams_part{part}.hdf5").unlink()
    with pytest.raises(InputError, match="neither a .*hdf5 file nor a table with 'save_file'"):
        make_code15(source, tmp_path / "cohort")
    path.unlink()
    with pytest.raises(InputError, match="no table at .*exams.csv"):
        make_code15(source, tmp_path / "cohort")


def test_workers_shards_and_parts_make_the_same_cohort(whole, tmp_path):
    one = open_cohort(make_code15(whole, tmp_path / "one", making=Making(workers=1)))
    many = make_code15(whole, tmp_path / "two", making=Making(workers=2, rows_per_shard=9))
    assert open_cohort(many).fingerprint == one.fingerprint
    for shard in ("1/2", "2/2"):
        make_code15(whole, tmp_path / "three", making=Making(shard=shard))
    assert open_cohort(merge_parts(tmp_path / "three")).fingerprint == one.fingerprint


def test_copies_are_left_out(source, tmp_path):
    with h5py.File(source / "exams_part0.hdf5", "r+") as file:
        file["tracings"][1:] = file["tracings"][:1]  # one ECG under eleven ids
    with pytest.raises(InputError, match="more than one split: .*1021"):
        make_code15(source, tmp_path / "cohort", making=Making(duplicates="refuse"))
    cohort = open_cohort(make_code15(source, tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    skipped = read_skipped(cohort.path)
    assert skipped
    assert {reason for _, reason in skipped} == {"the same recording as 1021 (train)"}
    allowed = make_code15(source, tmp_path / "all", making=Making(duplicates="allow"))
    assert sum(open_cohort(allowed).card.recordings.values()) == 30


def test_real_exams(real_data, tmp_path):
    """Ten exams as MATLAB files: seven with follow-up, one death."""
    source = real_data("code15_sample10")
    cohort = open_cohort(make_code15(source, tmp_path / "cohort", making=Making(seed=26)))
    assert check_cohort(cohort.path) == []
    found = records(cohort)
    assert len(found) == 10
    assert sum(row["time"] is not None for row in found.values()) == 7
    assert [record for record, row in found.items() if row["event"]] == ["795649"]
    assert found["795649"]["time"] == 1.208218
    assert {row["samples"] for row in found.values()} == {2934, 4096}
    with pytest.raises(InputError, match="0.1 mV per stored unit .* 10 recordings span 0.2"):
        make_code15(source, tmp_path / "other", millivolt_per_unit=0.1)
