"""The bootstrap over patients: what it draws, how wide it is, and what it does with gaps."""

import math

import numpy as np
import pytest

from fm_med.metrics import Interval, auroc, bootstrap, macro_auroc, mean, paired_difference
from fm_med.metrics.interval import _draw_patients


def test_all_rows_of_a_patient_are_drawn_together():
    patient = np.array([0, 1, 0, 2, 2, 2, 1])
    (multiplicity,) = _draw_patients(patient, resamples=50, seed=3)
    for subject in range(3):
        own = multiplicity[patient == subject]
        assert (own == own[0]).all()
    first_rows = [0, 1, 3]
    assert (multiplicity[first_rows].sum(0) == 3).all()  # three patients in every resample
    assert multiplicity.std(1).min() > 0


def test_draws_do_not_depend_on_the_chunk_size(monkeypatch):
    patient = np.arange(7)
    whole = np.concatenate(list(_draw_patients(patient, 20, seed=1)), axis=1)
    monkeypatch.setattr("fm_med.metrics.interval.CHUNK_ELEMENTS", 21)
    parts = list(_draw_patients(patient, 20, seed=1))
    assert len(parts) == 7
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_fast_and_plain_statistics_agree():
    generator = np.random.default_rng(0)
    subject = generator.integers(0, 30, 80).astype(str)
    label = generator.random((80, 3)) < 0.4
    score = np.round(generator.normal(size=(80, 3)) + label, 1)  # rounded: with ties

    def plain(label, score):
        return macro_auroc(label, score)

    fast = bootstrap(macro_auroc, subject, label, score, resamples=40)
    slow = bootstrap(plain, subject, label, score, resamples=40)
    assert (fast.n, fast.dropped) == (slow.n, slow.dropped) == (len(set(subject)), 0)
    np.testing.assert_allclose(
        [fast.value, fast.low, fast.high], [slow.value, slow.low, slow.high], rtol=1e-12
    )


def test_interval_of_a_mean_covers_the_truth_and_clusters_widen_it():
    """Patients share an effect: only patient resampling keeps the stated coverage."""
    generator = np.random.default_rng(1)
    subject = np.repeat(np.arange(60), 5)
    covered = {"patients": 0, "rows": 0}
    for seed in range(200):
        value = generator.normal(size=60)[subject] + 0.3 * generator.normal(size=300)
        for unit, ids in (("patients", subject), ("rows", np.arange(300))):
            interval = bootstrap(mean, ids, value, resamples=200, seed=seed)
            covered[unit] += interval.low <= 0.0 <= interval.high
    assert 0.88 <= covered["patients"] / 200 <= 0.99
    assert covered["rows"] / 200 < 0.75


def test_resamples_without_a_value_are_dropped_and_counted():
    label, score = np.array([1, 0, 0, 0, 0, 0]), np.arange(6.0)
    interval = bootstrap(auroc, np.arange(6), label, score, resamples=500)
    assert 100 < interval.dropped < 250  # (5/6)^6 = 0.335 of the resamples miss the positive
    assert interval.low <= interval.value <= interval.high


def test_undefined_value_has_no_interval():
    interval = bootstrap(auroc, np.arange(4), np.ones(4), np.arange(4.0), resamples=20)
    assert math.isnan(interval.value)
    assert math.isnan(interval.low)
    assert interval.dropped == 20
    assert interval.as_dict() == {"value": None, "low": None, "high": None, "n": 4}
    assert str(interval) == "not defined"


def test_paired_difference_cancels_what_is_shared():
    generator = np.random.default_rng(2)
    label = generator.random(200) < 0.5
    score = generator.normal(size=200) + label
    same = paired_difference(auroc, np.arange(200), score, score, label)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = paired_difference(auroc, np.arange(200), score + label, score, label)
    alone = bootstrap(auroc, np.arange(200), label, score)
    assert better.low > 0
    assert better.high - better.low < alone.high - alone.low + 0.05
    assert better.value == pytest.approx(auroc(label, score + label) - auroc(label, score))


def test_centred_interval_lies_around_the_value():
    def distinct(value):
        return float(len(np.unique(value)))  # a resample holds 63 % of the rows

    rows = np.arange(100)
    assert bootstrap(distinct, rows, rows).high < 100
    centred = bootstrap(distinct, rows, rows, centred=True)
    assert centred.low < 100 < centred.high


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one length"):
        bootstrap(mean, ["a", "b"], np.zeros(3))
    with pytest.raises(ValueError, match="one length"):
        bootstrap(mean, [], np.zeros(0))


def test_leaf_of_metrics_json():
    leaf = Interval(0.5, 0.25, 0.75, n=10, dropped=1).as_dict()
    assert leaf == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 10}
    assert str(Interval(0.5, 0.25, 0.75, n=10)) == "0.500 [0.250, 0.750]"
