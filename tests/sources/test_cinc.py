"""The Challenge's records: small trees as it has them, and fifty real ones."""

import numpy as np
import pytest

from fm_med.cohort import check_cohort, open_cohort
from fm_med.cohort.reading import read_skipped
from fm_med.errors import InputError
from fm_med.sources.cinc import diagnoses, make_cinc
from fm_med.sources.public import Making
from fm_med.sources.shards import merge_parts

COUNT = 40
SITES = ["georgia", "ningbo"]
NAMES = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def name(number):
    return f"{'EJ'[number % 2]}{number:05d}"


def place(folder, number):
    return folder / "training" / SITES[number % 2] / f"g{number // 20 + 1}" / name(number)


def write_challenge(path, seed, comments, *, unit="mV", rate=500, samples=500):
    """Write name.hea and name.mat as the Challenge does: 24 bytes of MATLAB 4, then format 16."""
    codes = np.random.default_rng(seed).integers(-2000, 2000, (12, samples)).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{path.name} 12 {rate} {samples}"]
    for lead, values in zip(NAMES, codes):
        total = int(values.sum(dtype=np.int64)) % 65536
        gain = f"{path.name}.mat 16x1+24 1000.0(0)/{unit}"
        lines.append(f"{gain} 16 0 {values[0]} {total} 0 {lead}")
    path.with_suffix(".hea").write_text("\n".join([*lines, *comments]) + "\n")
    header = np.array([0, 12, samples, 0, 4], "<i4").tobytes() + b"val\0"
    path.with_suffix(".mat").write_bytes(header + codes.T.tobytes())
    return codes


def comments(age="56", sex="Female", dx="426783006"):
    return [f"# Age: {age}", f"# Sex: {sex}", f"# Dx: {dx}", "# Rx: Unknown"]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "challenge"
    for number in range(COUNT):
        write_challenge(place(folder, number), number, comments(age=30 + number))
    return folder


def rows_of(cohort):
    return {
        row["record_id"]: row
        for split in cohort.splits
        for row in cohort.rows(split, np.arange(cohort.card.recordings[split])).to_pylist()
    }


def test_rows(source, tmp_path):
    said = {
        0: comments(sex="Male", dx="713427006,59118001, 67741000119109,164889003"),
        1: ["#Age: NaN", "#Sex: Unknown", "#Dx: 733534002,999999990"],
        2: comments(age=300, dx="63593006,17338001"),
        3: comments(age=-1, dx=""),
        4: ["# Hx: Unknown"],
    }
    for number, lines in said.items():
        codes = write_challenge(place(source, number), number, lines, unit="mv")
    cohort = open_cohort(make_cinc(source, tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    assert sum(cohort.card.recordings.values()) == COUNT
    assert (cohort.card.sampling_rate, cohort.card.license) == (500, "cc-by-4.0")
    assert cohort.card.label_sets == {"dx": ["AF", "LBBB", "RBBB", "NSR", "PAC", "PVC"]}
    assert "without a name: 999999990 (1 times)" in cohort.card.columns["dx_codes"]
    assert "may be in two splits" in cohort.card.columns["subject_id"]
    assert "left bundle branch block" in cohort.card.columns["LBBB"]
    found = rows_of(cohort)
    labels = {
        key: [label for label in cohort.card.label_sets["dx"] if row[label]]
        for key, row in found.items()
    }
    # Codes that the Challenge scores as one diagnosis are one label.
    assert set(labels[name(0)]) == {"RBBB", "AF"}
    assert labels[name(1)] == ["LBBB"]
    assert set(labels[name(2)]) == {"PAC", "PVC"}
    assert labels[name(7)] == ["NSR"]
    assert found[name(7)]["LBBB"] is False
    # Nothing stated is not a "no".
    assert {found[name(n)][label] for n in (3, 4) for label in ("AF", "NSR")} == {None}
    first, second, last = (found[name(n)] for n in (0, 1, 4))
    assert first["dx_codes"] == ["713427006", "59118001", "67741000119109", "164889003"]
    assert first["report"] == (
        "complete right bundle branch block. right bundle branch block. left atrial enlargement."
        " atrial fibrillation"
    )
    assert second["report"] == "complete left bundle branch block"
    assert (last["report"], last["dx_codes"]) == (None, [])
    ages = [found[name(n)]["age"] for n in range(5)]
    assert ages == [56, None, None, None, None]
    assert [found[name(n)]["sex"] for n in (0, 1, 2, 4)] == ["male", None, "female", None]
    assert [found[name(n)]["site"] for n in (0, 1, 22)] == ["georgia", "ningbo", "georgia"]
    assert (first["subject_id"], first["split"] in cohort.splits) == (name(0), True)
    stored = np.frombuffer(last["signal"], "<i2").reshape(12, -1)
    np.testing.assert_array_equal(stored, codes)


def test_damaged_and_long_records_are_listed(source, tmp_path):
    path = place(source, 2).with_suffix(".mat")
    path.write_bytes(path.read_bytes()[:-1])
    place(source, 3).with_suffix(".hea").write_bytes(b"\xff\x00\x01")
    write_challenge(place(source, 5), 5, comments(), samples=1501)
    cohort = open_cohort(make_cinc(source, tmp_path / "cohort", max_seconds=3))
    reasons = dict(read_skipped(cohort.path))
    assert set(reasons) == {name(2), name(3), name(5)}
    assert "12,023 bytes; expected 12,024" in reasons[name(2)]
    assert "not a line of a WFDB header" in reasons[name(3)]
    assert "is 3 s long; at most 3 s" in reasons[name(5)]


def test_rates_differ_between_the_data_sets(source, tmp_path):
    write_challenge(place(source, 5), 5, comments(), rate=257)
    cohort = open_cohort(make_cinc(source, tmp_path / "cohort"))
    assert cohort.card.sampling_rate == 0
    assert {row["sampling_rate"] for row in rows_of(cohort).values()} == {257, 500}


def test_parts_make_the_same_cohort(source, tmp_path):
    whole = open_cohort(make_cinc(source, tmp_path / "whole"))
    for shard in ("1/2", "2/2"):
        make_cinc(source, tmp_path / "cohort", making=Making(shard=shard))
    assert open_cohort(merge_parts(tmp_path / "cohort")).fingerprint == whole.fingerprint


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no Challenge records at .*: there is no such folder"):
        make_cinc(tmp_path / "nowhere", tmp_path / "cohort")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no record: no \*.hea in it or its folders"):
        make_cinc(tmp_path / "empty", tmp_path / "cohort")
    with pytest.raises(InputError, match="max_seconds is 0; expected a number above 0"):
        make_cinc(source, tmp_path / "cohort", max_seconds=0)
    write_challenge(source / "again" / name(3), 3, comments())
    with pytest.raises(InputError, match=f"two records are named {name(3)}: .*again.* and .*g1"):
        make_cinc(source, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def is_snomed(code):
    """Verhoeff's check digit, which every SNOMED CT identifier ends in."""
    product = [
        [(a + b) % 5 + 5 * (b > 4) if a < 5 else (a - b) % 5 + 5 * (b < 5) for b in range(10)]
        for a in range(10)
    ]
    turn = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for place, digit in enumerate(reversed(code)):
        value = int(digit)
        for _ in range(place % 8):
            value = turn[value]
        check = product[check][value]
    return check == 0


def test_the_table_of_diagnoses():
    table = diagnoses().values()
    assert len(table) == 133  # as many as the Challenge of 2021 has
    assert [one.code for one in table if not is_snomed(one.code)] == []
    assert not is_snomed("426783007")
    assert len({one.abbreviation for one in table}) == len({one.name for one in table}) == 133
    scored = [one for one in table if one.scored]
    assert len(scored) == 30
    assert len({one.scored for one in scored}) == 26
    by_label = {one.abbreviation: one.scored for one in scored if one.scored != one.abbreviation}
    assert by_label == {"CLBBB": "LBBB", "CRBBB": "RBBB", "SVPB": "PAC", "VPB": "PVC"}


def test_real_records(real_data, tmp_path):
    cohort = open_cohort(make_cinc(real_data("cinc2021_sample"), tmp_path / "cohort"))
    assert check_cohort(cohort.path) == []
    # One ECG of the Georgia set has two names.
    assert read_skipped(cohort.path) == [("E07509", "the same recording as E07510 (train)")]
    found = rows_of(cohort)
    assert len(found) == 49
    assert cohort.card.columns["dx_codes"] == "SNOMED CT codes"  # all of them have names
    assert found["E07500"]["report"] == "left atrial enlargement. sinus bradycardia"
    assert (found["E07500"]["age"], found["E07500"]["sex"]) == (78, "male")
    assert (found["E07500"]["SB"], found["E07500"]["NSR"]) == (True, False)
    assert sum(bool(row["STach"]) for row in found.values()) == 23
    assert {row["samples"] for row in found.values()} == {5000}
    making = Making(duplicates="refuse")
    with pytest.raises(InputError, match=r"E07510 \(train\) = E07509 \("):
        make_cinc(real_data("cinc2021_sample"), tmp_path / "other", making=making)
