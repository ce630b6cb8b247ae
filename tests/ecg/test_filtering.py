import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from fm_med.ecg import filtering
from fm_med.ecg.filtering import Band, output_samples, rate_ratio, resample_and_filter

BAND = Band(0.5, 40.0)
FINE = 4000  # Hz; fine enough that a digital Butterworth filter equals the analogue one


def ecg_like(rate, seconds=10.0, seed=0):
    """The same beats, wander and offset evaluated on any grid; 15 ms waves, so nothing > 50 Hz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    values = 0.8 + 0.02 * time + 0.2 * np.sin(2 * np.pi * 0.15 * time + rng.random())
    for beat in np.cumsum(0.7 + 0.2 * rng.random(40)):
        for delay, height, width in ((-0.17, 0.12, 0.025), (0, 1.1, 0.015), (0.28, 0.3, 0.05)):
            values += height * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
    return values


def apply(values, rate, target_rate, band=BAND):
    rows = torch.tensor(np.atleast_2d(values), dtype=torch.float32)
    return resample_and_filter(rows, rate=rate, target_rate=target_rate, band=band).numpy()


def forward_backward(values, rate):
    """The definition: Butterworth filters run forwards and backwards."""
    high = scipy_signal.butter(filtering.HIGH_PASS_ORDER, 0.5, "high", fs=rate, output="sos")
    low = scipy_signal.butter(filtering.LOW_PASS_ORDER, 40.0, "low", fs=rate, output="sos")
    return scipy_signal.sosfiltfilt(low, scipy_signal.sosfiltfilt(high, values))


@pytest.mark.parametrize("rate", [100, 128, 250, 257, 360, 400, 500, 1000])
def test_any_rate_equals_the_forward_backward_filter_in_the_interior(rate):
    truth = forward_backward(ecg_like(FINE, 30), FINE)[:: FINE // 100]
    ours = apply(ecg_like(rate, 30), rate, 100)[0]
    assert ours.shape == (3000,)
    assert np.abs(ours - truth)[500:-500].max() < 2e-3


def test_equals_scipy_filter_then_resample_at_the_stored_rate():
    stored = ecg_like(500, 30)
    scipy_way = scipy_signal.resample_poly(forward_backward(stored, 500), 1, 5)
    # The digital design bends towards 250 Hz and resample_poly has its own filter: 5 uV of 1 mV.
    assert np.abs(apply(stored, 500, 100)[0] - scipy_way)[500:-500].max() < 5e-3


@pytest.mark.parametrize("rate", [100, 257, 500])
def test_equals_the_written_out_definition_everywhere(rate):
    """Mirrored edges, |H|^2 bin by bin, and the inverse sum at the output's times."""
    values = ecg_like(rate, 4)
    plan = filtering._plan(len(values), float(rate), 100.0, BAND, torch.device("cpu"))
    right = (plan.length - len(values)) // 2
    left = plan.length - len(values) - right
    after = [values[len(values) - 2 - k] for k in range(right)]
    before = [values[k] for k in range(left, 0, -1)]
    padded = np.array([*before, *values, *after])
    spectrum = np.fft.rfft(padded)
    hertz = np.arange(len(spectrum)) * rate / len(padded)
    keep = hertz < 50.0 - 1e-9
    spectrum = np.where(keep, spectrum * BAND.gain(hertz), 0)
    times = left + np.arange(400) * rate / 100.0
    waves = np.exp(2j * np.pi * np.outer(times, np.arange(len(spectrum))) / len(padded))
    expected = (2 * (waves @ spectrum) - spectrum[0]).real / len(padded)
    np.testing.assert_allclose(apply(values, rate, 100)[0], expected, atol=2e-6)


def test_padding_is_long_enough(monkeypatch):
    """Three times the padding changes no sample by more than 2 uV; a fifth of it would."""

    def filtered():
        filtering._plan.cache_clear()
        return apply(ecg_like(500), 500, 100)[0]

    assert filtering.padding_seconds(BAND) == 2.0
    ours = filtered()
    monkeypatch.setattr(filtering, "PADDING_PERIODS", 3.0)
    longer = filtered()
    monkeypatch.setattr(filtering, "PADDING_PERIODS", 0.2)
    shorter = filtered()
    filtering._plan.cache_clear()
    assert np.abs(ours - longer).max() < 2e-3
    assert np.abs(shorter - longer).max() > 2e-3


def test_edges_are_better_than_scipy():
    """What lies beyond the edges is unknown to both; measured against the longer recording."""
    error = {"ours": [], "scipy": []}
    for seed in range(20):
        values = ecg_like(500, 30, seed)
        truth = apply(values, 500, 500)[0][5000:10000]
        part = values[5000:10000]
        error["ours"].append(apply(part, 500, 500)[0] - truth)
        error["scipy"].append(forward_backward(part, 500) - truth)
    size = {name: np.sqrt(np.square(one).mean()) for name, one in error.items()}
    assert size["ours"] < 0.6 * size["scipy"]


def test_offset_is_removed_or_kept():
    offset = np.full(5000, 3.0)
    assert np.abs(apply(offset, 500, 100)).max() < 1e-5
    for band in (Band(None, 40.0), Band(None, None)):
        np.testing.assert_allclose(apply(offset, 500, 100, band)[0], 3.0, atol=1e-5)


def test_recording_shorter_than_its_padding():
    assert np.isfinite(apply(ecg_like(100, 0.5), 100, 100)).all()
    assert np.abs(apply(np.ones(20), 100, 100)).max() < 1e-5


def test_mains_is_removed():
    time = np.arange(5000) / 500
    for mains in (50, 60):
        middle = apply(np.sin(2 * np.pi * mains * time), 500, 100)[0][300:-300]
        assert np.abs(middle).max() < 0.04


@settings(max_examples=40, deadline=None)
@given(
    rate=st.integers(90, 1000),
    target=st.sampled_from([100, 125, 250, 500]),
    hertz=st.floats(2.0, 38.0),
    phase=st.floats(0, 6.28),
)
def test_a_sine_keeps_its_times_and_takes_the_gain(rate, target, hertz, phase):
    time = np.arange(round(8 * rate)) / rate
    ours = apply(np.sin(2 * np.pi * hertz * time + phase), rate, target)[0]
    expected = np.sin(2 * np.pi * hertz * np.arange(8 * target) / target + phase)
    expected *= BAND.gain(np.array([hertz]))
    assert len(ours) == 8 * target
    assert np.abs(ours - expected)[2 * target : -2 * target].max() < 5e-3


def test_rows_do_not_depend_on_the_batch():
    rows = torch.randint(-3000, 3000, (70, 5000), dtype=torch.int16)
    whole = resample_and_filter(rows, rate=500.0, target_rate=100.0, band=BAND)
    for part in (slice(0, 1), slice(3, 16), slice(41, 70)):
        alone = resample_and_filter(rows[part], rate=500.0, target_rate=100.0, band=BAND)
        assert torch.equal(alone, whole[part])


def test_without_work_the_signal_comes_back():
    rows = torch.randn(3, 12, 50)
    same = resample_and_filter(rows, rate=100.0, target_rate=100.0, band=Band(None, None))
    assert torch.equal(same, rows) and same.data_ptr() != rows.data_ptr()


def test_lengths():
    assert output_samples(5000, rate_ratio(500, 100)) == 1000
    assert output_samples(2570, rate_ratio(257, 100)) == 1000
    assert output_samples(1000, rate_ratio(100, 500)) == 5000
    assert rate_ratio(float(np.float32(333.3)), 100).denominator <= 2000
