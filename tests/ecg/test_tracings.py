"""Tracings in HDF5 files: whatever is asked for in whatever order, as read one by one."""

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.ecg.recording import RecordError
from fm_med.ecg.tracings import TracingReader, exam_ids, without_padding

ROWS = 150  # more than are read at once


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of short tracings and a MATLAB file; the row number is in every sample."""
    folder = tmp_path_factory.mktemp("#tracings")
    ramp = np.arange(1, 9)[:, None] * np.arange(1, 13)
    for part in range(2):
        tracings = np.zeros((ROWS, 16, 12), np.float32)
        tracings[:, 4:12] = ramp + (1000 * part + np.arange(ROWS))[:, None, None]
        tracings[7] = 0
        tracings[8, 5, 2] = np.inf
        with h5py.File(folder / f"part{part}.hdf5", "w") as file:
            file["exam_id"] = np.arange(ROWS) + 500
            file["tracings"] = tracings
    feats = np.random.default_rng(0).normal(size=(12, 300)).astype(np.float32)
    scipy.io.savemat(folder / "exam.mat", {"feats": feats, "org_sample_rate": 400})
    return folder


def read(folder, *names, unit=1.0):
    return list(TracingReader(unit)([str(folder / name) for name in names]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.one_of(st.none(), st.integers(0, ROWS - 1))), max_size=60
    )
)
def test_many_at_once_are_what_each_is_alone(files, wanted):
    names = [f"part{part}.hdf5#{'' if row is None else row}" for part, row in wanted]
    found = read(files, *names)
    assert len(found) == len(wanted)
    for (part, row), recording in zip(wanted, found):
        if row is None:
            assert str(recording).endswith(f"part{part}.hdf5: has no tracing of this exam")
        elif row == 7:
            assert str(recording).endswith("tracing 7: all samples are zero")
        else:
            assert recording.signal.shape == (12, 8)
            assert recording.signal[0, 0] == 1 + 1000 * part + row
            assert recording.sampling_rate == 400


def test_order_of_leads_and_missing_samples(files):
    (recording,) = read(files, "part1.hdf5#8")
    expected = np.arange(1, 13)[:, None] * np.arange(1, 9) + 1008.0
    np.testing.assert_allclose(recording.signal, expected)  # one infinity: a gap that is filled
    assert recording.lead_mask.all()


def test_the_unit_holds_for_files_of_one_recording_too(files):
    names = ("part0.hdf5#3", "exam.mat", "none.mat")
    tracing, exam, none = read(files, *names)
    half_tracing, half_exam, _ = read(files, *names, unit=0.5)
    np.testing.assert_array_equal(half_tracing.signal, tracing.signal / 2)
    np.testing.assert_array_equal(half_exam.signal, exam.signal / 2)
    assert exam.signal.shape == (12, 300)
    assert "none.mat: no such record" in str(none)


def test_padding_is_what_is_zero_in_all_leads_at_the_ends():
    tracing = np.zeros((9, 12))
    assert without_padding(tracing).shape == (0, 12)
    tracing[2, 3], tracing[6, 4] = 1, np.nan
    np.testing.assert_array_equal(without_padding(tracing), tracing[2:7])


def test_files_of_another_kind_are_refused(files, tmp_path):
    np.testing.assert_array_equal(exam_ids(files / "part0.hdf5"), np.arange(ROWS) + 500)
    text = tmp_path / "text.hdf5"
    text.write_text("no HDF5")
    other, flat = tmp_path / "other.hdf5", tmp_path / "flat.hdf5"
    with h5py.File(other, "w") as file:
        file["exam_id"], file["signal"] = [1], [2]
    with h5py.File(flat, "w") as file:
        file["exam_id"], file["tracings"] = [1, 2], np.zeros((2, 4096, 8))
    for path, message in (
        (text, "text.hdf5: cannot be read as HDF5"),
        (other, "has exam_id, signal; expected exam_id and tracings"),
        (flat, r"tracings \(2, 4096, 8\) of exam_id \(2,\); expected \(n, samples, 12\)"),
        (tmp_path / "none.hdf5", "none.hdf5: there is no such file"),
    ):
        with pytest.raises(RecordError, match=message):
            exam_ids(path)
    damaged, *foreign = read(tmp_path, "text.hdf5#0", "other.hdf5#0", "other.hdf5#1")
    assert "cannot be read as HDF5" in str(damaged)
    assert ["has no tracing of this exam" in str(problem) for problem in foreign] == [True, True]
