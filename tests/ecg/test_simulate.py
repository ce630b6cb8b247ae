"""Simulated ECGs: physics, reproducibility, what each finding must look like, known survival."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate import FINDINGS, HOSPITALS, Hospital, simulate
from fm_med.ecg.simulate.subjects import EXCLUSIVE
from fm_med.ecg.storage import encode
from fm_med.errors import InputError
from fm_med.metrics.ranking import auroc

L1, L2, L3, AVR, AVL, AVF, V1, V2, V3, V4, V5, V6 = range(12)
QUIET = replace(HOSPITALS["a"], noise=0.0)


def only(finding, noise=1.0):
    """A hospital in which everybody has this finding and no other (None: nobody has any)."""
    prevalence = {name: float(name == finding) for name in FINDINGS}
    return Hospital(prevalence=prevalence, noise=noise)


def assert_equal(left, right, rows=slice(None)):
    for name, value in vars(left).items():
        other = getattr(right, name)
        value = value if np.isscalar(value) else value[rows]
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other), err_msg=name)


def concordance(risk, time, event):
    """Harrell's C by its definition."""
    agree = pairs = 0.0
    for i in np.flatnonzero(event):
        difference = risk[i] - risk[time > time[i]]
        agree += (difference > 0).sum() + 0.5 * (difference == 0).sum()
        pairs += len(difference)
    return agree / pairs


@pytest.fixture(scope="module")
def batch():
    return simulate(600, seed=3)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    first=st.integers(0, 10**6),
    rate=st.sampled_from([100, 250, 333, 500, 1000]),
    seconds=st.sampled_from([2.0, 7.3, 10.0]),
    hospital=st.sampled_from(["a", "b"]),
)
def test_the_leads_obey_einthoven_and_goldberger_with_noise(seed, first, rate, seconds, hospital):
    made = simulate(
        3,
        seed=seed,
        first_subject=first,
        sampling_rate=rate,
        seconds=seconds,
        hospital=hospital,
    )
    s = made.signal
    assert s.shape == (3, 12, round(rate * seconds)) and s.dtype == np.float32
    assert np.isfinite(s).all() and 0.1 < np.abs(s).max() < 15
    np.testing.assert_array_equal(s[:, L3], s[:, L2] - s[:, L1])
    np.testing.assert_array_equal(s[:, AVR], -(s[:, L1] + s[:, L2]) / 2)
    np.testing.assert_array_equal(s[:, AVL], s[:, L1] - s[:, L2] / 2)
    np.testing.assert_array_equal(s[:, AVF], s[:, L2] - s[:, L1] / 2)
    assert made.subject.tolist() == [first, first + 1, first + 2]
    assert ((made.time > 0) & (made.time <= 88)).all()


def test_storing_keeps_the_identities_in_integers(batch):
    row = encode(batch.recording(0))
    codes = np.frombuffer(row["signal"], "<i2").reshape(12, -1).astype(int)
    np.testing.assert_array_equal(codes[L3], codes[L2] - codes[L1])
    np.testing.assert_array_equal(2 * codes[AVR], -(codes[L1] + codes[L2]))
    np.testing.assert_array_equal(2 * codes[AVF], 2 * codes[L2] - codes[L1])


@settings(max_examples=8, deadline=None)
@example(seed=1, first=4, count=1, repeats=1.0, dropout=0.0)
@given(
    seed=st.integers(0, 10**6),
    first=st.integers(1, 40),
    count=st.integers(1, 9),
    repeats=st.sampled_from([1.0, 1.7, 2.5]),
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_a_person_does_not_depend_on_the_others(seed, first, count, repeats, dropout):
    options = {"seed": seed, "recordings_per_subject": repeats, "lead_dropout": dropout}
    everybody = simulate(first + count, **options)
    rows = np.flatnonzero(everybody.subject >= first)
    part = simulate(count, first_subject=first, **options)
    everybody.report = np.array(everybody.report)
    everybody.language = np.array(everybody.language)
    assert_equal(everybody, part, rows)


def test_another_seed_is_another_cohort(batch):
    other = simulate(20, seed=4)
    assert not np.isclose(other.age, batch.age[:20]).any()
    assert np.abs(other.signal - batch.signal[:20]).max(axis=(1, 2)).min() > 0.1


def test_every_sampling_rate_samples_the_same_heart():
    fast = simulate(8, seed=2, sampling_rate=1000, hospital=QUIET)
    for rate in (100, 200, 500):
        slow = simulate(8, seed=2, sampling_rate=rate, hospital=QUIET)
        step = 1000 // rate
        np.testing.assert_allclose(slow.signal, fast.signal[:, :, ::step], atol=0.003)
        assert slow.report == fast.report


def test_the_first_beat_is_whole():
    """The recording begins in the middle of a heart that already beats."""
    long = simulate(40, seed=5, seconds=10, hospital=QUIET)
    start = np.abs(long.signal[:, :, :250]).max(axis=(1, 2))
    end = np.abs(long.signal[:, :, -250:]).max(axis=(1, 2))
    assert (start > 0.25).all() and (end > 0.25).all()


def test_prevalence_rises_with_age_and_differs_by_hospital():
    many, other = simulate(4000, seconds=2), simulate(4000, seconds=2, hospital="b")
    share = (many.severity > 0).mean(axis=0)
    assert (share > 0.035).all() and (share < 0.125).all(), dict(zip(FINDINGS, share))
    count = (many.severity > 0).sum(axis=1)
    assert count[many.age > 70].mean() > 1.4 * count[many.age < 50].mean()
    fibrillation = FINDINGS.index("AFIB")
    assert (other.severity[:, fibrillation] > 0).mean() > 1.3 * share[fibrillation]
    assert np.mean([x == "de" for x in other.language]) == pytest.approx(0.85, abs=0.03)
    for group in EXCLUSIVE:
        columns = [FINDINGS.index(name) for name in group]
        assert ((many.severity[:, columns] > 0).sum(axis=1) <= 1).all()
    assert many.severity.max() <= 1


def test_reports_repeat_hedge_omit_and_err():
    many = simulate(6000, seed=1, seconds=2)
    unique = len(set(many.report)) / len(many.report)
    assert 0.20 < unique < 0.32, unique
    present = many.severity > 0
    assert 1 - many.mentioned[present].mean() == pytest.approx(0.10, abs=0.015)
    assert 0.004 < many.mentioned[~present].mean() < 0.012
    alone = many.mentioned.sum(axis=1) == 1
    mild = (np.where(many.mentioned, many.severity, 0).sum(axis=1) < 0.5) & alone
    hedged = np.array(
        [
            r.split()[0] in {"Possible", "Probable", "Wahrscheinlich", "Möglicherweise"}
            for r in many.report
        ]
    )
    np.testing.assert_array_equal(hedged[alone], mild[alone])


def test_recordings_of_one_person_share_the_heart_but_not_the_beats():
    many = simulate(800, seed=6, recordings_per_subject=1.6, seconds=2)
    assert len(many) / 800 == pytest.approx(1.6, abs=0.08)
    again = np.flatnonzero(many.repeat > 0)
    assert set(many.repeat.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(many.severity[again], many.severity[again - 1])
    np.testing.assert_array_equal(many.time[again], many.time[again - 1])
    assert np.abs(many.signal[again] - many.signal[again - 1]).max(axis=(1, 2)).min() > 0.05
    assert np.mean([many.report[r] != many.report[r - 1] for r in again]) > 0.3


def test_lost_chest_electrodes_take_only_their_lead():
    some = simulate(400, seed=7, lead_dropout=0.3, seconds=2)
    lost = (~some.lead_mask).sum(axis=1)
    assert some.lead_mask[:, :6].all() and set(lost.tolist()) == {0, 1, 2, 3}
    assert (lost > 0).mean() == pytest.approx(0.3, abs=0.07)
    np.testing.assert_array_equal(np.isnan(some.signal).all(axis=2), ~some.lead_mask)
    np.testing.assert_array_equal(np.isnan(some.signal).any(axis=2), ~some.lead_mask)


def peaks(signal, rate=250):
    """R peaks of one recording: where the steepness over all leads stands out, 250 ms apart."""
    steep = np.sqrt((np.diff(signal, axis=1) ** 2).sum(axis=0))
    steep = np.convolve(steep, np.ones(rate // 20), "same")
    found = []
    for index in np.argsort(steep)[::-1]:
        if steep[index] < 0.4 * steep.max():
            break
        if all(abs(index - other) > rate // 4 for other in found):
            found.append(index)
    return np.sort(found)


def measure(batch):
    """Crude measurements per recording: rate, RR irregularity, sizes, axis, QRS width."""
    rows = []
    for signal in batch.signal:
        found = peaks(signal)
        interval = np.diff(found) / 250
        middle = found[(found > 60) & (found < 2400)]
        beat = np.median([signal[:, p - 50 : p + 50] for p in middle], axis=0)
        beat = beat - np.median(beat, axis=1, keepdims=True)
        swing = np.sqrt((np.diff(beat, axis=1) ** 2).sum(axis=0))
        limb = np.ptp(beat[:6, 20:80], axis=1).max()
        net_i = beat[L1, 30:70].max() + beat[L1, 30:70].min()
        net_avf = beat[AVF, 30:70].max() + beat[AVF, 30:70].min()
        rows.append(
            [
                60 / np.mean(interval),
                np.std(np.diff(interval)) / np.mean(interval),
                limb,
                net_i,
                net_avf,
                (swing > 0.12 * swing.max()).sum() * 4,
                beat[V5].max() - beat[V1].min(),
                np.median(np.abs(np.diff(interval))) / np.mean(interval),
            ]
        )
    return np.array(rows)


RATE, IRREGULAR, LIMB, NET_I, NET_AVF, WIDTH, SOKOLOW, USUALLY_IRREGULAR = range(8)


@pytest.fixture(scope="module")
def measured():
    """Measurements of 24 people without and with each of some findings."""
    names = (None, "SBRAD", "STACH", "AFIB", "LBBB", "RBBB", "LVOLT", "LAD", "PVC", "LVH")
    return {
        name: measure(simulate(24, seed=8, sampling_rate=250, hospital=only(name, 0.3)))
        for name in names
    }


def test_rate_findings_are_what_they_say(measured):
    normal = measured[None][:, RATE]
    assert ((normal > 56) & (normal < 102)).all()
    assert (measured["SBRAD"][:, RATE] < 61).all()
    assert (measured["STACH"][:, RATE] > 99).all()


def test_fibrillation_is_irregular_and_extrasystoles_come_early(measured):
    assert measured[None][:, IRREGULAR].max() < 0.10
    assert measured["AFIB"][:, IRREGULAR].min() > 0.10
    assert np.median(measured["PVC"][:, IRREGULAR]) > 0.15


def test_voltage_axis_and_width_separate_their_findings(measured):
    normal = measured[None]
    for name, column, sign in (
        ("LVOLT", LIMB, -1),
        ("LVH", SOKOLOW, 1),
        ("LBBB", WIDTH, 1),
        ("RBBB", WIDTH, 1),
    ):
        both = sign * np.concatenate([measured[name][:, column], normal[:, column]])
        assert roc_auc_score(np.arange(48) < 24, both) > 0.9, name
    assert (measured["LAD"][:, NET_I] > 0).all()
    assert (measured["LAD"][:, NET_AVF] < 0).mean() > 0.9
    assert (normal[:, NET_AVF] > 0).mean() > 0.9


def test_a_logistic_regression_on_crude_measurements_finds_the_strong_findings():
    people = simulate(500, seed=9, sampling_rate=250)
    features = measure(people)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    features = np.column_stack([features, features**2])
    fit, test = np.arange(500) < 300, np.arange(500) >= 300
    # Extrasystoles make the rhythm irregular too, so fibrillation is not read off it perfectly.
    for name, least in (("AFIB", 0.8), ("SBRAD", 0.9), ("STACH", 0.9), ("LAD", 0.9)):
        label = people.severity[:, FINDINGS.index(name)] > 0
        model = LogisticRegression(max_iter=500).fit(features[fit], label[fit])
        score = model.decision_function(features[test])
        assert auroc(label[test], score) > least, name


def mean_beat(finding):
    """Mean clean beat (12, samples at 500 Hz), aligned to the R peak, and its baseline removed."""
    made = simulate(1, seed=11, sampling_rate=500, hospital=only(finding, 0.0))
    signal = made.signal[0]
    found = peaks(signal, 500)
    found = found[(found > 200) & (found < 4600)]
    beat = np.mean([signal[:, p - 150 : p + 300] for p in found], axis=0)
    return beat, made.severity.max()


def test_r_waves_grow_across_the_chest():
    beat, _ = mean_beat(None)
    r = beat[V1:, 100:200].max(axis=1)
    assert r[0] < r[2] < r[3] and r[5] > r[0]
    s = beat[V1:, 100:200].min(axis=1)
    assert s[1] < s[4] < 0


def test_the_shapes_are_those_of_the_textbook():
    normal, _ = mean_beat(None)
    qrs, t = slice(100, 210), slice(240, 330)
    rbbb, _ = mean_beat("RBBB")
    assert rbbb[V1, qrs].max() > normal[V1, qrs].max() + 0.2  # R'
    lbbb, _ = mean_beat("LBBB")
    assert lbbb[V1, qrs].min() < -0.8 and lbbb[V1, 100:150].max() < 0.1  # QS
    assert lbbb[V6, t].min() < -0.1 < normal[V6, t].min()  # T opposite to QRS
    imi, _ = mean_beat("IMI")
    assert imi[AVF, 100:150].min() < normal[AVF, 100:150].min() - 0.15  # Q
    ami, _ = mean_beat("AMI")
    assert ami[V2, qrs].max() < normal[V2, qrs].max() - 0.1  # lost R
    std, _ = mean_beat("STD")
    assert std[V5, 190:215].mean() < normal[V5, 190:215].mean() - 0.05
    tinv, _ = mean_beat("TINV")
    assert tinv[V4, t].mean() < 0.4 * normal[V4, t].mean()


def test_the_trait_is_in_the_ecg_and_not_in_the_report():
    people = simulate(1500, seed=12, hospital=only(None, 0.0), seconds=4)
    # By the size of the T wave against the size of the QRS complex alone:
    energy = np.sort(np.abs(people.signal[:, V5]), axis=1)
    ratio = np.log(energy[:, 365] / energy[:, -1])
    assert abs(np.corrcoef(ratio, people.trait)[0, 1]) > 0.3
    for words in ("Normal ECG.", "Normales EKG."):
        said = np.array([report == words for report in people.report])
        assert abs(people.trait[said].mean()) < 0.2


@pytest.fixture(scope="module")
def follow_up():
    return simulate(4000, seed=13, seconds=2)


def test_the_ladder_of_oracles(follow_up):
    assert follow_up.event.mean() == pytest.approx(0.10, abs=0.015)
    wanted = {"all": 0.764, "ecg": 0.736, "findings": 0.666, "age": 0.668}
    for name, value in wanted.items():
        risk = getattr(follow_up, f"log_hazard_{name}")
        c = concordance(risk, follow_up.time, follow_up.event)
        # 400 events: the standard error of C is about .013 besides the tolerance of .03.
        assert c == pytest.approx(value, abs=0.03 + 0.02), name
    total = follow_up.log_hazard_ecg + follow_up.log_hazard_age
    np.testing.assert_allclose(follow_up.log_hazard_all, total)


def test_in_a_null_cohort_nothing_predicts():
    null = simulate(4000, seed=13, seconds=2, effect=0.0, event_share=0.2)
    assert null.event.mean() == pytest.approx(0.2, abs=0.02)
    for name in ("all", "ecg", "findings", "age"):
        risk = getattr(null, f"log_hazard_{name}")
        assert concordance(risk, null.time, null.event) == pytest.approx(0.5, abs=0.035), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampling_rate", 50),
        ("seconds", 1),
        ("seed", -1),
        ("event_share", 0),
        ("recordings_per_subject", 3),
        ("hospital", "c"),
        ("lead_dropout", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        simulate(2, **{name: value})


def test_nobody_is_simulated_when_nobody_is_asked_for():
    assert simulate(0).signal.shape == (0, len(LEADS), 1000)


def test_the_simulation_needs_no_torch():
    code = "import sys, fm_med.ecg.simulate; print({'torch', 'scipy', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.strip() == "set()"
