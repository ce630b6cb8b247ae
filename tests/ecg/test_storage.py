import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Recording
from fm_med.ecg.records import read_recording
from fm_med.ecg.storage import MISSING, SIGNAL_SCHEMA, decode, encode

SCHEMA = pa.schema(SIGNAL_SCHEMA)


def make_recording(samples=50, *, seed=0, absent=(), resolution=0.001, rate=100.0):
    """A recording whose voltages are multiples of its resolution, as those of a file are."""
    rng = np.random.default_rng(seed)
    signal = (rng.integers(-2000, 2000, (12, samples)) * 0.001).astype(np.float32)
    mask = np.ones(12, dtype=bool)
    mask[list(absent)] = False
    signal[~mask] = np.nan
    steps = np.where(mask, resolution, np.nan).astype(np.float32)
    return Recording(signal, rate, mask, int(np.isnan(signal[mask]).sum()), steps)


def to_table(recordings):
    return pa.Table.from_pylist([encode(recording) for recording in recordings], schema=SCHEMA)


def to_millivolt(stored):
    return np.where(
        stored.signal == MISSING, np.nan, stored.signal * stored.gain[:, :, None]
    ).astype(np.float32)


def test_the_integers_of_the_source_are_kept():
    recording = make_recording(absent=[2])
    recording.signal[5, 10:20] = np.nan
    stored = decode(to_table([recording]))
    expected = np.rint(recording.signal.astype(np.float64) / 0.001)
    expected[np.isnan(expected)] = MISSING
    assert stored.signal.dtype == np.int16 and (stored.signal[0] == expected).all()
    assert (stored.gain[0] == np.where(recording.lead_mask, np.float32(0.001), 0)).all()
    assert (stored.lead_mask[0] == recording.lead_mask).all() and stored.lead_mask.dtype == bool
    assert stored.missing_samples.tolist() == [10]  # as stored, whatever the recording says
    assert stored.samples.tolist() == [50] and stored.sampling_rate.tolist() == [100]


@settings(max_examples=50)
@given(
    samples=st.integers(1, 40),
    seed=st.integers(0, 1000),
    known=st.booleans(),
    scale=st.sampled_from([1e-4, 1.0, 50.0, 1e4]),
    absent=st.sets(st.integers(0, 11), max_size=11),
)
def test_what_was_stored_comes_back(samples, seed, known, scale, absent):
    recording = make_recording(samples, seed=seed, absent=absent)
    signal = recording.signal * np.float32(scale)
    signal[0, ::3] = np.nan
    steps = recording.resolution if known else np.full(12, np.nan, np.float32)
    recording = Recording(signal, 250.0, recording.lead_mask & (samples > 1), 0, steps)
    signal[~recording.lead_mask] = np.nan
    stored = decode(to_table([recording]))
    decoded = to_millivolt(stored)[0]
    assert (np.isnan(decoded) == np.isnan(signal)).all()
    # Half a unit of the stored resolution is the largest error that rounding may leave.
    error = np.nan_to_num(np.abs(decoded - signal))
    assert (error <= 0.5001 * stored.gain[0][:, None] + 1e-6 * scale).all()
    largest = np.fmax.reduce(np.abs(np.nan_to_num(signal)), axis=1)
    coarsest = np.maximum(largest / 32767 * 1.001, 0.001 * (known and scale >= 1e-4))
    assert (stored.gain[0] <= coarsest + 1e-12).all()


def test_values_beyond_16_bits_get_the_finest_gain_that_fits():
    recording = make_recording(resolution=1e-5)
    stored = decode(to_table([recording]))
    assert (np.abs(stored.signal.astype(int)).max(axis=2) == 32767).all()
    np.testing.assert_allclose(to_millivolt(stored)[0], recording.signal, atol=4e-5)


def test_recordings_of_other_lengths_are_padded():
    recordings = [make_recording(samples, seed=samples) for samples in (7, 30, 1, 30)]
    stored = decode(to_table(recordings))
    assert stored.signal.shape == (4, 12, 30) and stored.samples.tolist() == [7, 30, 1, 30]
    for row, recording in enumerate(recordings):
        length = recording.signal.shape[1]
        decoded = to_millivolt(stored)[row]
        np.testing.assert_allclose(decoded[:, :length], recording.signal, atol=1e-6)
        assert (stored.signal[row, :, length:] == MISSING).all()


@pytest.mark.parametrize("lengths", [[20] * 6, [20, 3, 20, 8, 20, 1]])
def test_chunks_slices_and_order_of_a_table(lengths):
    recordings = [make_recording(n, seed=i, absent=[i]) for i, n in enumerate(lengths)]
    table = pa.concat_tables([to_table(recordings[:1]), to_table(recordings[1:])])
    for rows in (table.slice(2, 3), table.take([4, 0, 5]), table.slice(0, 0)):
        stored = decode(rows)
        assert len(stored.signal) == rows.num_rows and stored.gain.shape == (rows.num_rows, 12)
    stored = decode(table.slice(2, 3))
    assert stored.samples.tolist() == lengths[2:5]
    assert (~stored.lead_mask).nonzero()[1].tolist() == [2, 3, 4]
    for row, recording in enumerate(recordings[2:5]):
        decoded = to_millivolt(stored)[row, :, : recording.signal.shape[1]]
        np.testing.assert_allclose(decoded, recording.signal, atol=1e-6)
    stored.signal[:] = 0  # the batch is the caller's own


def test_a_damaged_column_is_not_read():
    row = encode(make_recording())
    table = pa.Table.from_pylist([row | {"signal": row["signal"][:-2]}], schema=SCHEMA)
    with pytest.raises(ValueError, match="12 int16 values per sample"):
        decode(table)


def test_equal_recordings_have_an_equal_hash_and_others_another():
    hash_of = lambda recording: encode(recording)["signal_hash"]  # noqa: E731
    first = make_recording()
    assert hash_of(first) == hash_of(make_recording())
    changed = make_recording()
    changed.signal[3, 3] += 0.001
    other = [
        changed,
        make_recording(rate=101.0),
        make_recording(resolution=0.0005),
        make_recording(absent=[0]),
    ]
    assert len({hash_of(recording) for recording in [first, *other]}) == 5


def test_a_cohort_file_gives_back_its_rows(tmp_path):
    recordings = [make_recording(seed=seed) for seed in range(40)]
    table = to_table(recordings)
    with pa.ipc.new_file(tmp_path / "x.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=16)
    with pa.memory_map(str(tmp_path / "x.arrow")) as source:
        rows = np.random.default_rng(0).permutation(40)
        stored = decode(pa.ipc.open_file(source).read_all().take(rows))
    expected = np.stack([recordings[row].signal for row in rows])
    np.testing.assert_allclose(to_millivolt(stored), expected, atol=1e-6)


def test_real_records_are_stored_without_loss(real_data):
    paths = sorted(real_data("ptbxl_500").glob("records100/*/*.hea"))[::25]
    stored = decode(to_table([read_recording(path) for path in paths]))
    for row, path in enumerate(paths):
        digital = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12).T
        assert (stored.signal[row][stored.lead_mask[row]] == digital[stored.lead_mask[row]]).all()
    assert stored.signal.shape[1] == len(LEADS)


def test_duplicates_are_found_by_their_hash(real_data):
    folder = real_data("ptbxl_500") / "records100" / "00000"
    rows = [
        encode(read_recording(folder / f"{number}_lr")) for number in ("00456", "00457", "00458")
    ]
    hashes = [row["signal_hash"] for row in rows]
    assert hashes[0] == hashes[1] != hashes[2]
