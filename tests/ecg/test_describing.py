"""Aggregates of ECGs: planted faults of quality are counted, whole recordings are not."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from fm_med.ecg.describing import fits, row_facts, steps
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.recording import Recording
from fm_med.ecg.simulate import simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode

BATCH = simulate(2, seed=5)


def recording(change=lambda signal: signal, rate=100.0):
    signal = change(BATCH.signal[0].copy()).astype(np.float32)
    return Recording(
        signal=signal,
        sampling_rate=rate,
        lead_mask=np.isfinite(signal).any(1),
        missing_samples=0,
        resolution=np.full(12, 0.001, np.float32),
    )


def stored(*recordings):
    return pa.Table.from_pylist([encode(one) for one in recordings], pa.schema(SIGNAL_SCHEMA))


def flattened(signal):
    signal[4, 200:320] = signal[4, 200]
    return signal


def clipped(signal):
    return np.clip(signal, -0.3, 0.3)


def without_v1(signal):
    signal[LEADS.index("V1")] = np.nan
    return signal


def noisy(signal):
    return signal + 0.2 * np.sin(2 * np.pi * 40 * np.arange(signal.shape[1]) / 100)


def wandering(signal):
    return signal + 2.0 * np.sin(2 * np.pi * 0.2 * np.arange(signal.shape[1]) / 100)


def test_each_planted_fault_is_counted_and_nothing_else():
    changes = (lambda signal: signal, flattened, clipped, without_v1, noisy, wandering)
    facts = row_facts(stored(*map(recording, changes)))
    assert facts.yes["signal: flat for 1 s"].tolist() == [0, 1, 0, 0, 0, 0]
    assert facts.yes["signal: clipped"].tolist() == [0, 0, 1, 0, 0, 0]
    assert facts.yes["absent lead: V1"].tolist() == [0, 0, 0, 1, 0, 0]
    assert not facts.yes["absent lead: II"].any()
    noise = facts.numbers["noise, 30 to 50 Hz (% of power)"]
    assert noise.argmax() == 4 and noise[4] > 10 * noise[0]
    wander = facts.numbers["baseline wander (% of power)"]
    assert wander.argmax() == 5 and wander[5] > 80
    amplitude = facts.numbers["amplitude (mV)"]
    assert amplitude[2] < 0.61 < amplitude[0]


def test_lengths_rates_and_missing_samples_are_each_rows_own():
    holes = recording()
    holes.signal[:, 100:200] = np.nan
    short = recording(lambda signal: signal[:, :400], rate=50.0)
    facts = row_facts(stored(holes, short))
    assert facts.numbers["missing samples (%)"].tolist() == [10.0, 0.0]
    assert facts.numbers["length (s)"].tolist() == [10.0, 8.0]
    assert facts.numbers["sampling rate (Hz)"].tolist() == [100.0, 50.0]
    assert np.isnan(facts.numbers["noise, 30 to 50 Hz (% of power)"]).tolist() == [False, True]


def test_a_recording_without_any_lead_is_described():
    nothing = recording(lambda signal: np.full_like(signal, np.nan))
    facts = row_facts(stored(nothing))
    assert facts.yes["absent lead: II"].tolist() == [1]
    assert np.isnan(facts.yes["signal: clipped"]).all()


@pytest.mark.parametrize(
    ("settings", "leads", "rows", "topic", "words"),
    [
        ({}, LEADS[:6], [recording()], "leads", "without V1, V2, V3, V4, V5, V6"),
        ({}, LEADS, [recording(rate=50.0)], "rate the model reads", "100% are too slow"),
        ({"seconds": 60.0}, LEADS, [recording()], "length the model reads", "too short"),
        ({"seconds": 20.0}, LEADS, [recording()], "length the model reads", "filled with zeros"),
    ],
)
def test_what_the_model_expects_and_the_cohort_lacks_is_told(settings, leads, rows, topic, words):
    card = SimpleNamespace(leads=list(leads), units="mV")
    found = {line.topic: line for line in fits(EcgProcessor(**settings), card, stored(*rows))}
    assert found[topic].state == "attention"
    assert words in found[topic].cohort + found[topic].advice
    assert [line.topic for line in found.values() if line.state != "ok"] == [topic]


def test_every_setting_of_the_processor_is_in_the_steps():
    text = " ".join(steps(EcgProcessor(sampling_rate=250.0, seconds=5.0, low_pass=45.0)))
    for word in ("250 Hz", "5 s", "0.5 Hz", "45 Hz", "1250", "mV", "lead_mask"):
        assert word in text
    assert "deviation 1" in " ".join(steps(EcgProcessor(scaling="zscore")))
