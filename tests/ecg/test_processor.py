import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filtering import ecg_like

from fm_med.ecg.leads import LEADS
from fm_med.ecg.missing import fill_missing
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.recording import Recording
from fm_med.ecg.records import read_recording
from fm_med.ecg.storage import MISSING, StoredSignals
from fm_med.errors import InputError

RNG = np.random.default_rng(0)
SIZES = RNG.uniform(-1.5, 1.5, 12)


def recording(rate=500, seconds=10.0, absent=(), seed=0):
    signal = np.outer(SIZES, ecg_like(rate, seconds, seed)).astype(np.float32)
    mask = np.ones(12, dtype=bool)
    for lead in absent:
        mask[LEADS.index(lead)] = False
    signal[~mask] = np.nan
    return Recording(signal, float(rate), mask, 0, np.full(12, np.nan, np.float32))


def stored(recordings, gain=0.001):
    units = [np.rint(one.signal / gain) for one in recordings]
    codes = [np.where(np.isnan(one), MISSING, one).astype(np.int16) for one in units]
    mask = np.stack([one.lead_mask for one in recordings])
    missing = [int((one[there] == MISSING).sum()) for one, there in zip(codes, mask)]
    return StoredSignals(
        codes=[one.reshape(-1) for one in codes],
        missing_samples=np.array(missing, np.int32),
        gain=np.where(mask, gain, 0).astype(np.float32),
        sampling_rate=np.array([one.sampling_rate for one in recordings], np.float32),
        lead_mask=mask,
        samples=np.array([one.signal.shape[1] for one in recordings], np.int32),
    )


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def test_shapes_and_kinds():
    out = EcgProcessor()([recording(), recording(absent=["V1"])])
    assert out["signal"].shape == (2, 12, 1000) and out["signal"].dtype == torch.float32
    assert out["lead_mask"].dtype == torch.bool
    assert out["lead_mask"].sum(1).tolist() == [12, 11]
    assert not out["signal"][1, LEADS.index("V1")].any()
    assert out["signal"].isfinite().all()
    assert EcgProcessor()(recording())["signal"].shape == (1, 12, 1000)


@pytest.mark.parametrize("seconds", [10.0, 12.34, 31.0])
def test_same_recording_at_any_rate_is_the_same_input(seconds):
    processor = EcgProcessor()
    first = processor(recording(100, seconds))["signal"]
    for rate in (200, 250, 500, 1000):
        other = processor(recording(rate, seconds))["signal"]
        assert cosine(first, other) > 0.9999
        assert (first - other).abs().max() < 0.02 * first.abs().max()


def test_real_recordings_at_their_two_rates(real_data):
    """PTB-XL's own 100 Hz files lie 1.1 ms beside the 500 Hz ones and ring at their edges."""
    folder = real_data("ptbxl_500")
    processor = EcgProcessor()
    whole = []
    for slow in sorted(folder.glob("records100/*/*.hea"))[:12]:
        name = slow.stem.replace("_lr", "_hr") + ".hea"
        fast = next(folder.glob(f"records500/*/{name}"))
        one, two = (processor(read_recording(path))["signal"] for path in (slow, fast))
        whole.append(cosine(one, two))
        assert cosine(one[..., 200:-200], two[..., 200:-200]) > 0.99, name
    assert np.mean(whole) > 0.98


def test_permuted_leads_give_the_same_input_exactly():
    processor = EcgProcessor()
    signal = recording().signal
    order = np.random.default_rng(3).permutation(12)
    names = [LEADS[i].upper() if i % 2 else f"lead {LEADS[i]}" for i in order]
    plain = processor.from_array(signal, sampling_rate=500)
    permuted = processor.from_array(signal[order], sampling_rate=500, leads=names)
    assert torch.equal(plain["signal"], permuted["signal"])
    assert torch.equal(plain["signal"], processor(recording())["signal"])


def test_units_names_and_unknown_leads():
    processor = EcgProcessor()
    signal = recording().signal
    plain = processor.from_array(signal[:2], sampling_rate=500, leads=["I", "II"])
    micro = processor.from_array(
        np.concatenate([signal[:2], signal[:1]])[None] * 1000,
        sampling_rate=500,
        leads=["I", "II", "resp"],
        units="uV",
    )
    torch.testing.assert_close(plain["signal"], micro["signal"], atol=1e-5, rtol=0)
    assert micro["lead_mask"].sum() == 2
    with pytest.raises(InputError, match="'furlong'; expected mV, V"):
        processor.from_array(signal, sampling_rate=500, units="furlong")
    with pytest.raises(InputError, match="two signals are lead II"):
        processor.from_array(signal[:2], sampling_rate=500, leads=["II", "ii"])
    with pytest.raises(InputError, match="has shape"):
        processor.from_array(signal[:2], sampling_rate=500)


def test_mixed_batch_equals_single_recordings_bit_for_bit():
    mixed = [recording(500), recording(257, 8.0, ["V3"]), recording(500, 31.0), recording(100)]
    mixed.append(recording(500, seed=5))
    for processor in (EcgProcessor(), EcgProcessor(scaling="zscore", sampling_rate=250.0)):
        batch = processor(mixed)
        from_codes = processor.from_stored(stored(mixed))
        for row, one in enumerate(mixed):
            assert torch.equal(batch["signal"][row], processor(one)["signal"][0])
            alone = processor.from_stored(stored([one]))
            assert torch.equal(from_codes["signal"][row], alone["signal"][0])
        assert torch.equal(batch["lead_mask"], from_codes["lead_mask"])
        if processor.scaling == "millivolt":
            assert (batch["signal"] - from_codes["signal"]).abs().max() < 1e-3  # one unit is 1 uV


def test_voltage_is_kept_and_zscore_removes_it():
    small, large = recording(), recording()
    large = Recording(2 * small.signal, 500.0, small.lead_mask, 0, small.resolution)
    kept = EcgProcessor()([small, large])["signal"]
    torch.testing.assert_close(kept[1], 2 * kept[0])
    scores = EcgProcessor(scaling="zscore")([small, large])["signal"]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(scores.std(-1, correction=0), torch.ones(2, 12), atol=1e-3, rtol=0)


def test_short_recording_ends_in_zeros_and_long_one_gives_its_centre():
    processor = EcgProcessor()
    short = processor(recording(500, 6.0))["signal"]
    assert short[..., :600].abs().amax(-1).min() > 0.01
    assert not short[..., 600:].any()
    long = recording(500, 31.0)
    centre = processor(long)["signal"]
    whole = EcgProcessor(seconds=31.0)(long)["signal"][..., 1050:2050]
    assert (centre - whole).abs().max() < 2e-3


def test_missing_samples_are_interpolated_never_a_spike():
    whole = recording()
    holes = whole.signal.copy()
    holes[3, 1000:1150] = np.nan
    holes[4, :100] = np.nan
    holes[5, 2400:] = np.nan
    one = Recording(holes, 500.0, whole.lead_mask, 3000, whole.resolution)
    processor = EcgProcessor()
    clean, repaired = processor(whole)["signal"][0], processor(one)
    codes = processor.from_stored(stored([one]))
    assert repaired["lead_mask"][0].tolist() == [lead != "aVF" for lead in LEADS]
    assert torch.equal(repaired["lead_mask"], codes["lead_mask"])
    for out in (repaired["signal"][0], codes["signal"][0]):
        assert out.abs().max() < 1.1 * clean.abs().max()
        assert (out[3, 400:] - clean[3, 400:]).abs().max() < 0.05
        assert not out[5].any()
        assert (out[6:] - clean[6:]).abs().max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-100, 100)), min_size=1, max_size=30))
def test_fill_missing_is_linear_interpolation(values):
    missing = np.array([value is None for value in values])
    filled = np.array([0.0 if value is None else value for value in values])
    if not missing.all():
        index = np.arange(len(values))
        filled = np.interp(index, index[~missing], filled[~missing])
    rows = torch.tensor([[torch.nan if value is None else value for value in values]])
    ours = fill_missing(rows.float(), torch.tensor(missing)[None])
    np.testing.assert_allclose(ours[0].numpy(), filled, atol=1e-4)


def test_only_the_named_leads_are_used():
    out = EcgProcessor(leads=["I", "V2"])(recording())
    assert [lead for lead, on in zip(LEADS, out["lead_mask"][0]) if on] == ["I", "V2"]
    with pytest.raises(InputError, match="recording 1 of the batch has signal in none"):
        EcgProcessor(leads=["V2"])([recording(), recording(absent=["V2"])])


@pytest.mark.parametrize(
    "one, message",
    [
        (recording(50), "sampled at 50 Hz, too slow for the band up to 40 Hz"),
        (recording(80), "sampled at 80 Hz, too slow"),
        (recording(500, 2.4), r"lasts 2.40 s, expected at least 2.5 s"),
        (recording(absent=LEADS), "signal in none of the leads"),
    ],
)
def test_refused_recordings(one, message):
    with pytest.raises(InputError, match=message):
        EcgProcessor()(one)


def test_without_low_pass_the_band_is_the_output_rate():
    processor = EcgProcessor(sampling_rate=250.0, low_pass=None, high_pass=None)
    assert processor(recording(250))["signal"].shape == (1, 12, 2500)
    raw = processor(recording(250))["signal"][0].numpy()
    np.testing.assert_array_equal(raw, recording(250).signal)
    with pytest.raises(InputError, match="too slow for the band up to 125 Hz"):
        processor(recording(200))


@pytest.mark.parametrize(
    "setting",
    [
        {"leads": ["II", "I"]},
        {"leads": ["MLII"]},
        {"leads": []},
        {"units": "uV"},
        {"scaling": "minmax"},
        {"sampling_rate": 0.0},
        {"seconds": float("nan")},
        {"low_pass": 60.0},
        {"high_pass": 41.0},
        {"high_pass": 0.0},
        {"low_pass": -1.0},
    ],
)
def test_refused_settings(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        EcgProcessor(**setting)


def test_saved_and_loaded(tmp_path):
    processor = EcgProcessor(leads=["I", "II"], sampling_rate=250.0, seconds=5.0, low_pass=None)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "EcgProcessor"
    again = EcgProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    one = recording(500)
    assert torch.equal(again(one)["signal"], processor(one)["signal"])
    assert EcgProcessor.from_pretrained(tmp_path, seconds=4.0).samples == 1000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"low_pass": ...}, "lacks the keys low_pass|lacks keys low_pass"),
        ({"lowpass": 30}, "has unknown keys lowpass"),
    ],
)
def test_file_with_missing_or_unknown_keys_is_refused(tmp_path, change, message):
    EcgProcessor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in saved.items() if value is not ...}))
    with pytest.raises(InputError, match=message):
        EcgProcessor.from_pretrained(tmp_path)


def test_arrow_buffers_that_are_read_only_are_taken():
    batch = stored([recording()])
    batch.signal.setflags(write=False)
    assert EcgProcessor().from_stored(batch)["signal"].isfinite().all()


@pytest.mark.parametrize("gain", [0.001, "per lead"])
@pytest.mark.parametrize(
    "settings_",
    [{}, {"scaling": "zscore"}, {"leads": ("I", "V1", "V6")}],
    ids=["millivolt", "zscore", "leads"],
)
def test_recordings_that_only_need_a_factor_take_a_short_cut(monkeypatch, settings_, gain):
    """Bit for bit what the long way gives, which is taken wherever a sample is missing."""
    recordings = [recording(100, seed=0), recording(100, absent=["II", "V2"], seed=1)] * 150
    batch = stored(recordings)
    if gain == "per lead":
        batch.gain = batch.gain * np.linspace(0.5, 2.0, 12, dtype=np.float32)
    gap = stored([recording(100, seed=2)])
    gap.codes[0].reshape(12, -1)[4, 100:150] = MISSING
    gap.missing_samples[:] = 50
    processor = EcgProcessor(high_pass=None, low_pass=None, **settings_)
    taken = []
    short_cut = EcgProcessor._only_scaled
    monkeypatch.setattr(
        EcgProcessor, "_only_scaled", lambda self, s: taken.append(1) or short_cut(self, s)
    )
    ours = processor.from_stored(batch)
    assert len(taken) == 1
    repaired = processor.from_stored(gap)
    assert len(taken) == 1 and repaired["signal"].isfinite().all()
    assert repaired["signal"].abs().max() < 100 and repaired["signal"].shape == (1, 12, 1000)
    for other in ({"sampling_rate": 50.0}, {"seconds": 9.0}, {"low_pass": 40.0}):
        EcgProcessor(**({"high_pass": None, "low_pass": None} | other)).from_stored(batch)
    assert len(taken) == 1
    monkeypatch.setattr(EcgProcessor, "_takes_as_it_is", lambda *_: False)
    plain = processor.from_stored(batch)
    assert len(taken) == 1
    for name in ("signal", "lead_mask"):
        assert ours[name].numpy().tobytes() == plain[name].numpy().tobytes()


def test_a_batch_that_is_held_is_not_overwritten_by_the_next_one():
    processor = EcgProcessor(high_pass=None, low_pass=None)
    first, second = (stored([recording(100, seed=seed)] * 40) for seed in (0, 1))
    held = processor.from_stored(first)["signal"]
    copy = held.clone()
    assert not torch.equal(processor.from_stored(second)["signal"], copy)
    assert torch.equal(held, copy)
