"""Measurements against waves that were drawn, the simulator's truth, and real labelled ECGs."""

import ast
import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.ecg.leads import LEADS
from fm_med.ecg.measurements import MEASUREMENTS, measure, measure_stored
from fm_med.ecg.records import read_recording
from fm_med.ecg.simulate import FINDINGS, simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, decode, encode
from fm_med.metrics import auroc

NAMES = list(MEASUREMENTS)


def named(signal, sampling_rate=100, **kinds):
    found = measure(signal, sampling_rate=sampling_rate, **kinds)
    assert found.shape == (len(signal), len(NAMES))
    return dict(zip(NAMES, found.T))


def limb_leads(axis, size):
    """I, II, III, aVR, aVL, aVF of a frontal dipole of `size` mV in lead I's scale."""
    x, y = size * np.cos(np.radians(axis)), size * np.sin(np.radians(axis))
    i, avf = x, y * np.sqrt(3) / 2
    ii, iii = avf + i / 2, avf - i / 2
    return np.array([i, ii, iii, -(i + ii) / 2, i - ii / 2, avf])


def drawn(axis=40.0, rate=75, t_axis=20.0, pr=0.16, seconds=10, sampling_rate=500, size=1.0):
    """An ECG of Gaussians: P and QRS with known onsets, one dipole direction for each wave."""
    time = np.arange(seconds * sampling_rate) / sampling_rate
    signal = np.zeros((12, len(time)))
    for peak in np.arange(0.3, seconds + 1, 60 / rate):
        qrs_onset = peak - 0.04
        for centre, width, angle, height in (
            (qrs_onset - pr + 0.05, 0.02, 50.0, 0.15),
            (peak, 0.014, axis, 1.0),
            (peak + 0.26, 0.04, t_axis, 0.3),
        ):
            wave = np.exp(-0.5 * ((time - centre) / width) ** 2)
            chest = np.array([-0.5, -0.2, 0.4, 1.0, 1.2, 0.9]) * height
            leads = np.concatenate([limb_leads(angle, height), chest])
            signal += size * leads[:, None] * wave
    return signal[None].astype(np.float32)


def test_names_have_units_and_meanings():
    assert all(unit in {"/min", "ms", "mV", "degrees", ""} for unit, _ in MEASUREMENTS.values())
    assert all(meaning for _, meaning in MEASUREMENTS.values())


@settings(max_examples=12, deadline=None)
@given(
    axis=st.floats(-170, 170),
    t_axis=st.floats(-170, 170),
    rate=st.integers(50, 88),
    pr=st.floats(0.14, 0.24),
)
def test_drawn_waves_are_found(axis, t_axis, rate, pr):
    found = named(drawn(axis, rate, t_axis, pr), 500)
    assert found["heart_rate"] == pytest.approx(rate, abs=0.3)
    # Tangents to a Gaussian meet the baseline at two standard deviations, 10 ms inside its onset.
    assert found["pr_interval"] == pytest.approx(1000 * pr - 10, abs=14)
    assert found["qrs_duration"] == pytest.approx(80, abs=14)  # +- 3 standard deviations
    assert found["qt_interval"] == pytest.approx(300 + 80, abs=20)
    assert found["rr_sd"] < 4
    for name, angle in (("qrs_axis", axis), ("t_axis", t_axis)):
        assert abs((found[name][0] - angle + 180) % 360 - 180) < 4
    assert found["ectopic_share"] == 0


def test_voltages_of_drawn_waves():
    found = named(drawn(axis=-40.0), 500)
    assert found["r_V5"] == pytest.approx(1.2, abs=0.1)
    assert found["s_V1"] == pytest.approx(0.5, abs=0.06)
    assert found["sokolow_lyon"] == pytest.approx(found["s_V1"] + found["r_V5"])
    assert found["cornell"] == pytest.approx(found["r_aVL"] + found["s_V3"])
    assert found["t_V4"] == pytest.approx(0.3, abs=0.05)
    assert abs(found["st_V4"]) < 0.05
    assert found["t_V1"] == pytest.approx(-0.15, abs=0.03)


def test_voltages_scale_and_intervals_do_not():
    one, two = (named(drawn(size=size), 500) for size in (1.0, 2.0))
    for name, (unit, _) in MEASUREMENTS.items():
        factor = 2 if unit == "mV" else 1
        np.testing.assert_allclose(two[name], factor * one[name], atol=1e-3, rtol=1e-3)


def test_what_cannot_be_measured_is_nan():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(1, 12, 1000)) * 0.05
    flat = np.zeros((1, 12, 1000))
    missing = np.full((1, 12, 1000), np.nan)
    assert np.isnan(measure(np.concatenate([noise, flat, missing]), sampling_rate=100)).all()
    assert measure(np.empty((0, 12, 1000)), sampling_rate=100).shape == (0, len(NAMES))


def test_an_absent_lead_takes_only_what_needs_it():
    signal = drawn()
    without = signal.copy()
    without[:, LEADS.index("V1")] = np.nan
    whole, part = named(signal, 500), named(without, 500)
    lost = {name for name in NAMES if np.isnan(part[name][0]) and not np.isnan(whole[name][0])}
    assert lost == {"r_V1", "s_V1", "st_V1", "t_V1", "sokolow_lyon"}
    assert part["pr_interval"] == pytest.approx(whole["pr_interval"], abs=4)
    without[:, LEADS.index("I")] = np.nan
    assert np.isnan(named(without, 500)["qrs_axis"])
    mask = np.ones((1, 12), dtype=bool)
    mask[0, LEADS.index("V1")] = False
    masked = named(signal, 500, lead_mask=mask)
    assert np.isnan(masked["t_V1"])


def test_a_recording_is_measured_alone_and_gaps_are_bridged():
    batch = simulate(70, seed=5).signal
    batch[3, 2, 100:103] = np.nan
    together = measure(batch, sampling_rate=100)
    np.testing.assert_allclose(measure(batch[3:4], sampling_rate=100)[0], together[3], rtol=1e-4)
    assert np.isfinite(together[3, NAMES.index("t_III")])


def test_sampling_rates_agree():
    slow, fast = (
        named(simulate(60, seed=8, sampling_rate=rate).signal, rate) for rate in (100, 500)
    )
    for name, near in (("heart_rate", 0.5), ("qrs_duration", 12), ("pr_interval", 12)):
        gap = np.abs(slow[name] - fast[name])
        assert np.nanquantile(gap, 0.9) <= near, name


def test_simulated_truth():
    batch = simulate(500, seed=3)
    found = named(batch.signal)
    severity = dict(zip(FINDINGS, batch.severity.T))
    regular = (severity["AFIB"] == 0) & (severity["PVC"] == 0)
    # Breathing and the cut of ten seconds move a recording's mean rate off the person's.
    assert np.quantile(np.abs(found["heart_rate"] - batch.heart_rate)[regular], 0.9) < 1
    for finding, name, sign in (
        ("LBBB", "qrs_duration", 1),
        ("1AVB", "pr_interval", 1),
        ("LAD", "qrs_axis", -1),
        ("LVH", "sokolow_lyon", 1),
        ("AFIB", "rr_rmssd", 1),
        ("STD", "st_V5", -1),
        ("LNGQT", "qtc_fridericia", 1),
        ("PVC", "ectopic_share", 1),
    ):
        known = ~np.isnan(found[name])
        assert known[severity[finding] == 0].mean() > 0.7
        assert auroc((severity[finding] > 0)[known], sign * found[name][known]) > 0.9, finding
    slow = severity["1AVB"] > 0
    true_pr = 215 + 125 * severity["1AVB"][slow]
    assert np.nanmedian(np.abs(found["pr_interval"][slow] - true_pr)) < 10
    assert np.isnan(found["pr_interval"][severity["AFIB"] > 0]).mean() > 0.95
    assert (found["qrs_duration"][severity["LBBB"] > 0] > 120).mean() > 0.95


def test_stored_recordings_give_the_same():
    import pyarrow as pa

    batch = simulate(5, seed=2, lead_dropout=0.5)
    rows = [encode(batch.recording(row)) for row in range(5)]
    short = batch.recording(4)
    short = type(short)(short.signal[:, :700], 100.0, short.lead_mask, 0, short.resolution)
    rows.append(encode(short))
    stored = decode(pa.Table.from_pylist(rows, pa.schema(SIGNAL_SCHEMA)))
    found = measure_stored(stored)
    np.testing.assert_allclose(
        found[:5], measure(batch.signal, sampling_rate=100), rtol=1e-3, atol=1e-5
    )
    alone = measure(short.signal[None], sampling_rate=100)[0]
    np.testing.assert_allclose(found[5], alone, rtol=1e-3, atol=1e-5)


def test_real_labels(real_data):
    folder = real_data("ptbxl_500")
    with (folder / "ptbxl_database.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = named(np.stack([read_recording(folder / row["filename_lr"]).signal for row in rows]))
    codes = [set(ast.literal_eval(row["scp_codes"])) for row in rows]

    def score(wanted, name, sign=1):
        label = np.array([bool(wanted & code) for code in codes])
        known = ~np.isnan(found[name])
        return auroc(label[known], sign * found[name][known])

    assert score({"CLBBB", "CRBBB"}, "qrs_duration") > 0.97
    assert score({"1AVB"}, "pr_interval") > 0.94
    assert score({"AFIB"}, "rr_rmssd") > 0.9
    assert score({"STACH"}, "heart_rate") > 0.96
    assert score({"SBRAD"}, "heart_rate", -1) > 0.95
    assert score({"LVH"}, "sokolow_lyon") > 0.9
    left = np.array([row["heart_axis"] in ("LAD", "ALAD") for row in rows])
    assert np.median(found["qrs_axis"][left]) < -15
    assert np.isnan(found["qrs_duration"]).mean() < 0.01
