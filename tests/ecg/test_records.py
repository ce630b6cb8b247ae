"""The reader against the wfdb library on real files, and against arrays that the tests wrote."""

import json
import shutil
import zlib

import numpy as np
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fm_med.ecg.gaps import fill_short_gaps
from fm_med.ecg.leads import LEADS, canonical_lead
from fm_med.ecg.records import RecordError, read_recording
from fm_med.ecg.wfdb_header import read_header

SAMPLES = 400


def make_digital(rows=12, samples=SAMPLES, seed=0):
    return np.random.default_rng(seed).integers(-3000, 3000, (rows, samples), dtype=np.int16)


def write_wfdb(folder, digital, *, name="record", leads=LEADS, gain="1000.0(0)/mV", rate=500, **kw):
    """Write a format-16 record; `gain` is one field or one per signal; `offset` bytes precede."""
    gains = [gain] * len(digital) if isinstance(gain, str) else gain
    offset, suffix = kw.get("offset", 0), kw.get("suffix", ".dat")
    length = "" if kw.get("no_length") else f" {digital.shape[1]}"
    lines = [f"{name} {len(digital)} {rate}{length}"]
    for row, lead, field in zip(digital, leads, gains, strict=True):
        checksum = int(row.sum(dtype=np.int64)) % 65536
        form = f"16x1+{offset}" if offset else "16"
        lines.append(f"{name}{suffix} {form} {field} 16 0 {row[0]} {checksum} 0 {lead}")
    path = folder / f"{name}.hea"
    path.write_text("\n".join([*lines, "# Age: 60", ""]), encoding=kw.get("encoding", "utf-8"))
    path.with_suffix(suffix).write_bytes(b"\7" * offset + digital.T.astype("<i2").tobytes())
    return path


def library(path):
    """The 12 leads as the wfdb library gives them, float64 mV, NaN where absent.

    Frames are averaged here: the library does so on integers, rounding down and taking the code
    for a missing sample as a voltage (-2048 in format 212).
    """
    record = wfdb.rdrecord(str(path).removesuffix(".hea"), smooth_frames=False)
    signal = np.full((12, record.sig_len), np.nan)
    for index, name in enumerate(record.sig_name):
        if canonical_lead(name) is not None:
            frames = record.e_p_signal[index].reshape(record.sig_len, -1)
            signal[LEADS.index(canonical_lead(name))] = frames.mean(axis=1)
    return signal


def assert_equal_where_measured(recording, expected):
    """Equal to the library but for the gaps that are repaired here."""
    present = recording.lead_mask
    measured = ~np.isnan(expected[present])
    assert measured.any(axis=1).all()
    seen = recording.signal[present]
    np.testing.assert_allclose(seen[measured], expected[present][measured], rtol=1e-6, atol=1e-7)
    assert recording.missing_samples == np.isnan(seen).sum() <= (~measured).sum()
    assert np.isnan(recording.signal[~present]).all()


# ---------------------------------------------------------------- records written by the tests


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_record_is_found_with_and_without_its_suffix(tmp_path, suffix):
    digital = make_digital()
    path = write_wfdb(tmp_path, digital, name="a.b")
    recording = read_recording(str(path).removesuffix(".hea") + suffix)
    assert recording.signal.dtype == np.float32 and recording.signal.shape == (12, SAMPLES)
    assert (recording.signal == (digital / 1000).astype(np.float32)).all()
    assert recording.sampling_rate == 500 and recording.lead_mask.all()
    assert recording.missing_samples == 0
    np.testing.assert_allclose(recording.resolution, 0.001)


def test_leads_are_ordered_by_name_and_other_signals_ignored(tmp_path):
    digital = make_digital(14)
    names = ["RESP", *reversed(LEADS), "PLETH"]
    path = write_wfdb(tmp_path, digital, leads=names, gain=["9/NU", *["1000/mV"] * 12, "7/NU"])
    recording = read_recording(path)
    assert (recording.signal == (digital[12:0:-1] / 1000).astype(np.float32)).all()


@pytest.mark.parametrize(
    "field, scale",
    [
        ("1000(0)/mV", 1000),
        ("1000/mv", 1000),
        ("2/uV", 2000),
        ("2/µV", 2000),
        ("2/μV", 2000),
        ("1e6/V", 1000),
        ("500", 500),
        ("0", 200),
        ("-250/mV", -250),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_units_become_millivolt(tmp_path, field, scale, encoding):
    if encoding == "latin-1" and "μ" in field:  # the Greek letter is not in Latin-1
        return
    digital = make_digital(2)
    path = write_wfdb(tmp_path, digital, leads=("I", "V6"), gain=field, encoding=encoding)
    recording = read_recording(path)
    np.testing.assert_allclose(recording.signal[[0, 11]], digital / scale, rtol=1e-6)
    np.testing.assert_allclose(recording.resolution[[0, 11]], 1 / abs(scale), rtol=1e-6)
    assert np.isnan(recording.resolution[1:11]).all()


@settings(max_examples=25, deadline=None)
@given(
    digital=arrays.arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(2, 60))),
    gain=st.sampled_from([1000.0, 204.8, 0.37, 2963.77]),
    baseline=st.integers(-2000, 2000),
    offset=st.sampled_from([0, 24]),
    order=st.permutations(LEADS),
)
def test_any_plain_record_equals_the_definition(
    tmp_path_factory, digital, gain, baseline, offset, order
):
    leads = order[: len(digital)]
    folder = tmp_path_factory.mktemp("record")
    field = f"{gain}({baseline})/mV"
    path = write_wfdb(folder, digital, leads=leads, gain=field, offset=offset, suffix=".mat")
    naive = np.where(digital == -32768, np.nan, (digital - float(baseline)) / gain)
    flat = [not (np.unique(row[~np.isnan(row)]).size > 1) for row in naive]
    if all(flat):
        with pytest.raises(RecordError, match="every lead is empty or flat"):
            read_recording(path)
        return
    recording = read_recording(path)
    expected = np.full((12, digital.shape[1]), np.nan)
    for lead, row, is_flat in zip(leads, naive, flat, strict=True):
        assert recording.lead_mask[LEADS.index(lead)] == (not is_flat)
        if not is_flat:
            expected[LEADS.index(lead)] = row
    measured = ~np.isnan(expected)
    assert (recording.signal[measured] == expected[measured].astype(np.float32)).all()


def test_signals_in_several_files(tmp_path):
    digital = make_digital(3)
    path = write_wfdb(tmp_path, digital, leads=("II", "vx", "I"))
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("record.dat", "other.dat")
    path.write_text("\n".join(lines))
    (tmp_path / "record.dat").write_bytes(digital[[0, 2]].T.tobytes())
    (tmp_path / "other.dat").write_bytes(digital[1].tobytes())
    recording = read_recording(path)
    np.testing.assert_allclose(recording.signal[:2], digital[[2, 0]] / 1000, rtol=1e-6)
    assert recording.lead_mask.tolist() == [True, True] + [False] * 10


def test_a_header_without_length_takes_it_from_the_file(tmp_path):
    digital = make_digital(2)
    path = write_wfdb(tmp_path, digital, leads=("I", "II"), no_length=True, offset=24)
    assert read_recording(path).signal.shape == (12, SAMPLES)


def test_short_gaps_are_filled_and_long_ones_counted(tmp_path):
    digital = make_digital(3)
    digital[0, 50:150] = -32768  # 200 ms at 500 Hz
    digital[1, 50:151] = -32768  # one sample more
    digital[2, :20] = digital[2, -5:] = -32768  # without a neighbour on one side
    recording = read_recording(write_wfdb(tmp_path, digital, leads=("I", "II", "III")))
    signal = recording.signal
    np.testing.assert_allclose(
        signal[0, 49:151], np.linspace(signal[0, 49], signal[0, 150], 102), atol=1e-6
    )
    assert np.isnan(signal[1]).sum() == 101 and np.isnan(signal[2]).sum() == 25
    assert recording.missing_samples == 126
    assert recording.lead_mask.tolist() == [True] * 3 + [False] * 9


def naive_fill(signal, longest):
    filled = signal.copy()
    for row in filled:
        missing = np.isnan(row)
        start = 0
        while start < len(row):
            stop = start
            while stop < len(row) and missing[stop]:
                stop += 1
            if 0 < stop - start <= longest and start > 0 and stop < len(row):
                line = np.linspace(row[start - 1], row[stop], stop - start + 2)
                row[start:stop] = line[1:-1]
            start = max(stop, start + 1)
    return filled


@given(
    missing=arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 30))),
    longest=st.integers(0, 8),
)
def test_gaps_are_filled_as_one_by_one(missing, longest):
    signal = np.random.default_rng(0).normal(size=missing.shape)
    signal[missing] = np.nan
    expected = naive_fill(signal, longest)
    fill_short_gaps(signal, longest)
    np.testing.assert_allclose(signal, expected, atol=1e-12)


@pytest.mark.parametrize("value", [-32768, 0, 713])
def test_a_lead_without_signal_is_absent(tmp_path, value):
    digital = make_digital()
    digital[3] = value
    recording = read_recording(write_wfdb(tmp_path, digital))
    assert np.flatnonzero(~recording.lead_mask).tolist() == [3]
    assert np.isnan(recording.signal[3]).all() and np.isnan(recording.resolution[3])
    assert recording.missing_samples == 0


def test_one_lead_is_enough(tmp_path):
    recording = read_recording(write_wfdb(tmp_path, make_digital(1), leads=("V2",)))
    assert recording.lead_mask.sum() == 1 and recording.lead_mask[LEADS.index("V2")]


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BROKEN_HEADERS = [
    ("/mV", "/mmHg", "lead I is in 'mmHg'; expected mV"),
    ("record.dat 16", "../record.dat 16", r"'\.\./record.dat'; expected one inside"),
    ("record.dat 16", "/etc/passwd 16", "'/etc/passwd'; expected one inside"),
    ("record.dat 16", "..\\record.dat 16", "expected one inside"),
    ("record.dat 16", "absent.dat 16", "signal file absent.dat is missing"),
    ("record.dat 16", "record.dat 999", "signal format 999; expected"),
    ("record.dat 16", "record.dat sixteen", "not a line of a WFDB header: 'record.dat sixteen"),
    ("record 2 500 400", "record 3 500 400", "lists 2 signals; expected 3"),
    ("record 2 500 400", "record 2 nan 400", "not a line of a WFDB header"),
    ("record 2 500 400", "record 2 0 400", "not a line of a WFDB header"),
    ("record 2 500 400", "", "not a line of a WFDB header"),
    ("record 2 500 400", "record 2 500 900000", "900,000 samples expand to 86,400,000 bytes"),
    ("record 2 500 400", "record 2 500 401", "record.dat has 1,600 bytes; expected 1,604"),
    ("record 2 500 400", "record 2 500 399", r"signal I of record.dat has checksum \d+; expected"),
    ("0 II\n", "0 I\n", "two signals are lead I"),
    ("1000.0(0)", "inf(0)", "not a line of a WFDB header"),
]


@pytest.mark.parametrize("old, new, message", BROKEN_HEADERS)
def test_a_broken_header_is_refused_in_one_sentence(tmp_path, old, new, message):
    path = write_wfdb(tmp_path, make_digital(2), leads=("I", "II"))
    rewrite(path, old, new)
    with pytest.raises(RecordError, match=message) as error:
        read_recording(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_or_damaged_file_is_refused(tmp_path):
    path = write_wfdb(tmp_path, make_digital())
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(data[:-3])
    with pytest.raises(RecordError, match=r"record.dat has 9,597 bytes; expected 9,600"):
        read_recording(path)
    path.with_suffix(".dat").write_bytes(b"\1\1" + data[2:])
    with pytest.raises(RecordError, match="signal I of record.dat has checksum"):
        read_recording(path)


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no such record"):
        read_recording(tmp_path / "nothing")
    with pytest.raises(RecordError, match=r"no standard lead among its signals \(MLII, RESP\)"):
        read_recording(write_wfdb(tmp_path, make_digital(2), leads=("MLII", "RESP")))
    digital = np.full((12, 50), -32768, np.int16)
    with pytest.raises(RecordError, match="every lead is empty or flat"):
        read_recording(write_wfdb(tmp_path, digital))


def test_the_limit_of_expansion_can_be_set(tmp_path):
    path = write_wfdb(tmp_path, make_digital())
    with pytest.raises(RecordError, match="at most 38,399 are read"):
        read_recording(path, max_bytes=SAMPLES * 12 * 8 - 1)
    assert read_recording(path, max_bytes=SAMPLES * 12 * 8).lead_mask.all()


BITS = {"80": 8, "212": 12, "16": 16, "24": 24, "32": 32, "508": 8, "516": 16, "524": 24}


@pytest.mark.parametrize("form", list(BITS))
def test_formats_that_the_library_writes(tmp_path, form):
    bound = 2 ** (BITS[form] - 1) - 1
    rng = np.random.default_rng(0)
    digital = rng.integers(-bound, bound, (100, 2))
    wfdb.wrsamp(
        "record",
        fs=250,
        units=["mV", "uV"],
        sig_name=["V1", "avf"],
        d_signal=digital,
        fmt=[form] * 2,
        adc_gain=[200.0, 0.5],
        baseline=[10, 0],
        write_dir=str(tmp_path),
    )
    recording = read_recording(tmp_path / "record")
    np.testing.assert_allclose(recording.signal[6], (digital[:, 0] - 10) / 200, rtol=1e-6)
    np.testing.assert_allclose(recording.signal[5], digital[:, 1] / 500, rtol=1e-6)


def test_a_truncated_packed_file_is_refused(tmp_path):
    digital = np.arange(99)[:, None]
    wfdb.wrsamp(
        "record",
        fs=250,
        units=["mV"],
        sig_name=["I"],
        d_signal=digital,
        fmt=["212"],
        adc_gain=[200.0],
        baseline=[0],
        write_dir=str(tmp_path),
    )
    file = tmp_path / "record.dat"
    file.write_bytes(file.read_bytes()[:147])
    with pytest.raises(RecordError, match=r"record.dat has 147 bytes; expected 149"):
        read_recording(tmp_path / "record")


@pytest.mark.parametrize(
    "form, samples, size",
    # 212: 2 samples in 3 bytes; 310 and 311: 3 samples in 4 bytes, which differ in the last group
    [("80", 9, 9), ("212", 3, 5), ("310", 4, 6), ("310", 5, 8), ("311", 4, 6), ("311", 5, 7)],
)
def test_packed_formats_need_their_bytes(tmp_path, form, samples, size):
    (tmp_path / "record.hea").write_text(
        f"record 1 250 {samples}\nrecord.dat {form} 200/mV 12 0 0 0 0 I\n"
    )
    (tmp_path / "record.dat").write_bytes(bytes(size - 1))
    with pytest.raises(RecordError, match=f"{size - 1} bytes; expected {size}$"):
        read_recording(tmp_path / "record")
    (tmp_path / "record.dat").write_bytes(bytes(size))
    with pytest.raises(RecordError, match="checksum|every lead is empty or flat"):
        read_recording(tmp_path / "record")


def test_a_truncated_flac_stream_is_refused(tmp_path):
    digital = make_digital(1, 5000).T.astype(int)
    wfdb.wrsamp(
        "record",
        fs=250,
        units=["mV"],
        sig_name=["I"],
        d_signal=digital,
        fmt=["516"],
        adc_gain=[200.0],
        baseline=[0],
        write_dir=str(tmp_path),
    )
    file = tmp_path / "record.dat"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(RecordError, match=r"record.hea: "):
        read_recording(tmp_path / "record")


def test_several_samples_per_frame_are_averaged_and_skew_undone(tmp_path):
    frames = make_digital(3, 50).astype(np.int16)  # column 0: lead I; columns 1, 2: lead II
    (tmp_path / "record.dat").write_bytes(frames.T.tobytes())
    (tmp_path / "record.hea").write_text(
        "record 2 250 50\nrecord.dat 16:3 100/mV 16 0 0 "
        f"{int(frames[0].sum(dtype=int)) % 65536} 0 I\nrecord.dat 16x2 100/mV 16 0 0 "
        f"{int(frames[1:].sum(dtype=int)) % 65536} 0 II\n"
    )
    recording = read_recording(tmp_path / "record")
    np.testing.assert_allclose(recording.signal[0, :47], frames[0, 3:] / 100, rtol=1e-6)
    assert np.isnan(recording.signal[0, 47:]).all() and recording.missing_samples == 3
    np.testing.assert_allclose(recording.signal[1], frames[1:].mean(axis=0) / 100, rtol=1e-6)
    np.testing.assert_allclose(recording.resolution[:2], [0.01, 0.005])


def write_segments(folder, master):
    first = make_digital(2, 100)
    second = make_digital(2, 60, seed=1)
    write_wfdb(folder, first, name="s1", leads=("I", "II"), gain="1000/mV")
    write_wfdb(folder, second, name="s2", leads=("V1", "II"), gain=["1000/mV", "500/mV"])
    (folder / "record.hea").write_text(master)
    return first, second


def test_segments_may_differ_in_leads_and_gain(tmp_path):
    (tmp_path / "layout.hea").write_text("layout 2 500 0\n~ 0 1/mV 0 0 0 0 0 I\n~ 0 1/mV\n")
    master = "record/4 3 500 300\nlayout 0\ns1 100\n~ 140\ns2 60\n"
    first, second = write_segments(tmp_path, master)
    recording = read_recording(tmp_path / "record")
    expected = np.full((12, 300), np.nan)
    expected[[0, 1], :100] = first / 1000
    expected[6, 240:] = second[0] / 1000
    expected[1, 240:] = second[1] / 500
    np.testing.assert_allclose(recording.signal, expected, rtol=1e-6)
    assert np.flatnonzero(recording.lead_mask).tolist() == [0, 1, 6]
    np.testing.assert_allclose(recording.resolution[[0, 1, 6]], [0.001, np.nan, 0.001])
    assert recording.missing_samples == np.isnan(expected[[0, 1, 6]]).sum()


@pytest.mark.parametrize(
    "master, message",
    [
        ("record/2 3 500 300\ns1 100\ns2 60\n", "segments have 160 samples; expected 300"),
        ("record/2 3 500 160\ns1 60\ns2 100\n", "s1.hea: 100 samples at 500 Hz; the record"),
        ("record/2 3 250 160\ns1 100\ns2 60\n", "s1.hea: 100 samples at 500 Hz; the record"),
        ("record/2 3 500 200\ns1 100\nabsent 100\n", "segment absent is missing"),
        ("record/2 3 500 260\ns1 100\nrecord 160\n", "in one segment"),
        ("record/2 3 500 160\ns1 100\n../s2 60\n", r"'\.\./s2'; expected one inside"),
        ("record/1 3 500 900000\n~ 900000\n", "900,000 samples expand"),
        ("record/1 3 500 900\n~ 900\n", "no standard lead among its signals"),
    ],
)
def test_broken_segments_are_refused(tmp_path, master, message):
    write_segments(tmp_path, master)
    with pytest.raises(RecordError, match=message):
        read_recording(tmp_path / "record")


# ---------------------------------------------------------------- arrays


def write_npy(folder, array, **header):
    np.save(folder / "record.npy", array)
    header = {"sampling_rate": 250, "units": "mV", "leads": ["V1", "I", "x"]} | header
    (folder / "record.json").write_text(json.dumps(header))
    return folder / "record.npy"


@pytest.mark.parametrize("transpose", [False, True])
def test_npy_with_header(tmp_path, transpose):
    array = np.random.default_rng(0).normal(size=(3, 100))
    array[1, 7] = np.inf
    path = write_npy(tmp_path, array.T if transpose else array, units=["uV", "mV", "bpm"])
    recording = read_recording(path if transpose else tmp_path / "record")
    assert recording.sampling_rate == 250 and np.isnan(recording.resolution).all()
    np.testing.assert_allclose(recording.signal[6], array[0] / 1000, rtol=1e-6)
    np.testing.assert_allclose(recording.signal[0, 7], (array[1, 6] + array[1, 8]) / 2, rtol=1e-6)
    assert recording.lead_mask.sum() == 2


def test_npy_of_integers_with_gain(tmp_path):
    array = make_digital(3)
    array[0, 100:300] = 9999
    path = write_npy(tmp_path, array, gain=[400, 200, 1], missing=9999)
    recording = read_recording(path)
    np.testing.assert_allclose(recording.signal[0], array[1] / 200, rtol=1e-6)
    np.testing.assert_allclose(recording.signal[6, :100], array[0, :100] / 400, rtol=1e-6)
    assert recording.missing_samples == 200
    np.testing.assert_allclose(recording.resolution[[0, 6]], [1 / 200, 1 / 400])


@pytest.mark.parametrize(
    "header, message",
    [
        ({"leads": ["I", "II"]}, r"shape \(3, 100\); expected numbers, \(2 leads, samples\)"),
        ({"leads": "I"}, "leads is 'I'; expected a list"),
        ({"units": "bpm"}, "lead V1 is in 'bpm'; expected mV|lead I is in 'bpm'; expected mV"),
        ({"units": ["mV"]}, "units has 1 entries; expected 3"),
        ({"gain": 0}, "gain is 0; expected positive"),
        ({"sampling_rate": "fast"}, "sampling rate is 'fast'; expected Hz"),
        ({"sampling_rate": 0}, "sampling rate is 0; expected Hz"),
    ],
)
def test_a_header_that_does_not_fit_its_array_is_refused(tmp_path, header, message):
    path = write_npy(tmp_path, np.random.default_rng(0).normal(size=(3, 100)), **header)
    with pytest.raises(RecordError, match=message):
        read_recording(path)


def test_npy_without_a_usable_header_or_array_is_refused(tmp_path):
    path = write_npy(tmp_path, np.zeros((3, 5), dtype="U3"))
    with pytest.raises(RecordError, match="array of <U3"):
        read_recording(path)
    path.write_bytes(b"no array")
    with pytest.raises(RecordError, match="not an array file"):
        read_recording(path)
    for text, message in [("{", "not JSON"), ("[]", "expected an object with sampling_rate")]:
        path.with_suffix(".json").write_text(text)
        with pytest.raises(RecordError, match=message):
            read_recording(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(RecordError, match="header record.json is missing"):
        read_recording(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_in_the_style_of_code_15(tmp_path, compressed):
    feats = np.random.default_rng(0).normal(size=(12, 300)).astype(np.float32)
    path = tmp_path / "exam.mat"
    scipy.io.savemat(path, {"feats": feats, "org_sample_rate": 400}, do_compression=compressed)
    recording = read_recording(tmp_path / "exam")
    assert (recording.signal == feats).all() and recording.sampling_rate == 400
    assert np.isnan(recording.resolution).all()


def test_a_matlab_file_that_expands_too_far_is_refused_unread(tmp_path):
    path = tmp_path / "exam.mat"
    scipy.io.savemat(
        path, {"feats": np.zeros((12, 10**6)), "org_sample_rate": 400}, do_compression=True
    )
    assert path.stat().st_size < 200_000
    with pytest.raises(RecordError, match="expands to more than the 67,108,864 bytes"):
        read_recording(path)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"val": np.zeros((12, 5))}, "no header exam.hea and the variables val; expected feats"),
        ({"feats": np.zeros((5, 12)), "org_sample_rate": 400}, r"shape \(5, 12\); expected"),
        ({"feats": np.zeros((12, 5)), "org_sample_rate": -1}, "sampling rate is -1; expected"),
        ({"feats": np.zeros((12, 5)), "org_sample_rate": 400}, "every lead is empty or flat"),
    ],
)
def test_other_matlab_files_are_refused(tmp_path, variables, message):
    scipy.io.savemat(tmp_path / "exam.mat", variables)
    with pytest.raises(RecordError, match=message):
        read_recording(tmp_path / "exam.mat")


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"MATLAB" * 100, zlib.compress(b"x" * 900)])
def test_what_is_no_matlab_file_is_refused(tmp_path, content):
    (tmp_path / "exam.mat").write_bytes(content)
    with pytest.raises(RecordError, match="exam.mat"):
        read_recording(tmp_path / "exam.mat")


# ---------------------------------------------------------------- real data


def test_the_fast_path_equals_the_library_on_plain_records(real_data):
    plain = sorted(real_data("ptbxl_500").glob("records*/*/*.hea"))[::12]
    plain += sorted(real_data("cinc2021_sample").glob("*.hea"))[::3]
    assert len(plain) > 60
    for path in plain:
        recording = read_recording(path)
        expected = library(path).astype(np.float32)
        assert (recording.signal[recording.lead_mask] == expected[recording.lead_mask]).all()
        constant = (expected == expected[:, :1]).all(axis=1)
        assert (constant == ~recording.lead_mask).all(), path


def test_headers_equal_those_of_the_library(real_data):
    paths = sorted(real_data("wfdb_formats").rglob("*.hea"))
    for path in paths:
        header, expected = read_header(str(path)), wfdb.rdheader(str(path).removesuffix(".hea"))
        assert header.sampling_rate == pytest.approx(expected.fs)
        if header.segments:
            assert [name for name, _ in header.segments] == expected.seg_name
            assert [length for _, length in header.segments] == expected.seg_len
            continue
        assert (header.samples or 0) == (expected.sig_len or 0)
        for signal, *fields in zip(
            header.signals,
            expected.file_name,
            expected.fmt,
            expected.samps_per_frame,
            expected.adc_gain,
            expected.baseline,
            expected.units,
            expected.sig_name or [None] * expected.n_sig,
            strict=True,
        ):
            seen = signal.file, str(signal.format), signal.samples_per_frame, signal.gain
            assert [*seen, signal.baseline, signal.unit, signal.name or None] == fields


FORMAT_RECORDS = """03700181 100_3chan 3000003_0003 310derive 310derive_2 310derive_3 311derive
311derive_2 311derive_3 311derive_4 a103l a103l-no-len binformats flacformats mixedsignals s0010_re
test01_00s test01_00s_frame test01_00s_skew test01_00s_skewframe v102s""".split()


@pytest.mark.parametrize("name", FORMAT_RECORDS)
def test_every_format_equals_the_library(real_data, tmp_path, name):
    """Signals are named as leads and their units left out, so that every one is read."""
    source = real_data("wfdb_formats")
    lines = [x for x in (source / f"{name}.hea").read_text().splitlines() if x and x[0] != "#"]
    for index, lead in enumerate(LEADS[: len(lines) - 1], start=1):
        fields = lines[index].split()
        fields[2] = fields[2].partition("/")[0]
        lines[index] = " ".join([*fields[:8], lead])
    (tmp_path / f"{name}.hea").write_text("\n".join(lines))
    for file in {line.split()[0] for line in lines[1:]}:
        shutil.copyfile(source / file, tmp_path / file)
    recording = read_recording(tmp_path / name)
    assert recording.lead_mask.sum() == min(len(lines) - 1, 12)
    assert_equal_where_measured(recording, library(tmp_path / name))


@pytest.mark.parametrize(
    "name, leads",
    [("041s/041s", "I III"), ("fixed1/v102s", "II"), ("s25047/s25047-2704-05-04-10-44", "II")],
)
def test_segmented_records_equal_the_library(real_data, name, leads):
    path = real_data("wfdb_formats") / "multi-segment" / name
    recording = read_recording(path)
    assert [LEADS[i] for i in np.flatnonzero(recording.lead_mask)] == leads.split()
    assert_equal_where_measured(recording, library(path))


def test_fifteen_leads_give_the_twelve(real_data):
    recording = read_recording(real_data("wfdb_formats") / "s0010_re")
    assert recording.lead_mask.all() and recording.sampling_rate == 1000


@pytest.mark.parametrize(
    "name, message",
    [
        ("1003", "its signal file 1003.dat is missing"),
        ("flac_3_constant", "5,600,000 samples expand to 537,600,000 bytes"),
        ("03700181", r"no standard lead among its signals \(MCL1, ABP, RESP\)"),
        ("multi-segment/s25047/3234460_layout", "lists no signal that is stored"),
    ],
)
def test_real_files_that_cannot_be_used(real_data, name, message):
    with pytest.raises(RecordError, match=message):
        read_recording(real_data("wfdb_formats") / name)


def test_code_15(real_data):
    paths = sorted(real_data("code15_sample10").glob("*.mat"))
    assert len(paths) == 10
    for path in paths:
        recording = read_recording(path)
        assert recording.sampling_rate == 400 and recording.lead_mask.all()
        # Einthoven: II = I + III holds for the ten but for what their filter left
        limb = recording.signal[:3]
        assert np.abs(limb[0] + limb[2] - limb[1]).mean() < 0.01
