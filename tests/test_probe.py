"""Probes on features whose information is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fm_med.probe import (
    LabelledFeatures,
    cross_validated_probe,
    difference,
    linear_scores,
    patient_folds,
    probe,
    zero_shot,
)

NAMES = ("first", "second", "third")


def features_of(patients, *, seed, signal=2.0, rows_per_patient=2):
    """Features of 12 numbers, of which the first three carry one label each."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.random((patients, 3)) < [0.5, 0.3, 0.2], rows_per_patient, axis=0)
    features = generator.normal(size=(len(labels), 12))
    features[:, :3] += signal * labels
    subject = np.repeat([f"s{seed}-{i}" for i in range(patients)], rows_per_patient)
    return LabelledFeatures(features * 100 + 5, labels, subject, NAMES)


def test_probe_finds_the_signal_and_nothing_else():
    train, test = features_of(120, seed=0), features_of(100, seed=1)
    found = probe(train, test)
    assert found.score.shape == (1, 200, 3)
    interval = found.macro_auroc()
    assert interval.value == pytest.approx(roc_auc_score(test.labels, found.score[0]))
    assert interval.value > 0.85
    assert interval.n == 100  # patients, not rows
    noise = probe(features_of(120, seed=0, signal=0.0), features_of(100, seed=1, signal=0.0))
    assert 0.4 < noise.macro_auroc().value < 0.6
    gain = difference(found, noise)
    assert gain.low > 0
    assert gain.value == pytest.approx(interval.value - noise.macro_auroc().value)


def test_budget_draws_patients_and_averages_over_draws():
    train, test = features_of(100, seed=0), features_of(60, seed=1)
    few = probe(train, test, budget=20, draws=3)
    assert few.score.shape == (3, 120, 3)
    each = [roc_auc_score(test.labels, score) for score in few.score]
    assert len(set(each)) == 3
    assert few.macro_auroc().value == pytest.approx(np.mean(each))
    again = probe(train, test, budget=20, draws=3)
    np.testing.assert_array_equal(few.score, again.score)
    first = np.mean([roc_auc_score(test.labels[:, 0], score[:, 0]) for score in few.score])
    assert few.per_label()["first"].value == pytest.approx(first)
    with pytest.raises(ValueError, match="101 labelled patients"):
        probe(train, test, budget=101)


def test_same_patients_are_drawn_for_every_encoder(monkeypatch):
    seen = []

    def record(train, features, *, seed):
        seen.append(sorted(set(train.subject_id)))
        return np.zeros((len(features), 3))

    monkeypatch.setattr("fm_med.probe.linear_scores", record)
    test = features_of(10, seed=1)
    probe(features_of(40, seed=0), test, budget=7, draws=2)
    shuffled = features_of(40, seed=0).take(np.random.default_rng(0).permutation(80))
    probe(shuffled, test, budget=7, draws=2)
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]
    assert all(len(patients) == 7 for patients in seen)


def test_test_rows_do_not_reach_the_fit():
    train, test = features_of(60, seed=0), features_of(30, seed=1)
    alone = linear_scores(train, test.features[:1])
    together = linear_scores(train, np.concatenate([test.features[:1], test.features * 1e3]))
    np.testing.assert_allclose(alone[0], together[0])


def test_label_of_one_class_scores_zero_and_is_skipped():
    train, test = features_of(60, seed=0), features_of(30, seed=1)
    train.labels[:, 2] = False
    assert (linear_scores(train, test.features)[:, 2] == 0).all()
    test.labels[:, 1] = True
    result = probe(train, test)
    assert result.skipped() == ["second"]
    assert np.isnan(result.per_label()["second"].value)
    assert result.per_label()["third"].value == 0.5


def test_cross_validation_never_scores_a_patient_it_was_trained_on():
    """Features that only name the patient let a leaking probe score perfectly."""
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.random((40, 1)) < 0.5, 3, axis=0)
    patient = np.repeat(np.arange(40), 3)
    data = LabelledFeatures(np.eye(40)[patient], labels, patient.astype(str), ("any",))
    leaked = linear_scores(data, data.features)
    assert roc_auc_score(labels[:, 0], leaked[:, 0]) > 0.99
    assert cross_validated_probe(data).macro_auroc().value < 0.65


def test_cross_validation_scores_every_row_once_per_repeat():
    data = features_of(60, seed=3)
    result = cross_validated_probe(data, folds=4, repeats=2)
    assert result.score.shape == (2, 120, 3)
    assert (result.score != 0).all()
    assert not np.array_equal(result.score[0], result.score[1])
    assert result.macro_auroc().value > 0.85


def test_folds_keep_patients_whole_and_balance_labels():
    generator = np.random.default_rng(0)
    patient = generator.integers(0, 50, 200).astype(str)
    labels = generator.random((200, 3)) < [0.5, 0.2, 0.05]
    fold = patient_folds(labels, patient, folds=5, seed=1)
    assert all(len(set(fold[patient == person])) == 1 for person in set(patient))
    counts = np.array([labels[fold == k].sum(0) for k in range(5)])
    assert (np.abs(counts[:, 2] - counts[:, 2].mean()) <= 2).all()
    assert np.ptp(np.bincount(fold)) < 40
    assert not np.array_equal(fold, patient_folds(labels, patient, folds=5, seed=2))
    with pytest.raises(ValueError, match="5 folds need as many patients"):
        patient_folds(labels[:3], patient[:3], folds=5)


def test_zero_shot_is_the_difference_of_two_cosines():
    generator = np.random.default_rng(0)
    data = features_of(30, seed=0)
    present, absent = generator.normal(size=(3, 12)), generator.normal(size=(3, 12))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    score = zero_shot(data, present, absent).score[0]
    row, label = 7, 2
    expected = cosine(data.features[row], present[label]) - cosine(
        data.features[row], absent[label]
    )
    assert score[row, label] == pytest.approx(expected)
    alone = zero_shot(data, present).score[0]
    assert alone[row, label] == pytest.approx(cosine(data.features[row], present[label]))


def test_difference_refuses_other_rows():
    small, large = features_of(30, seed=0), features_of(40, seed=0)
    with pytest.raises(ValueError, match="different rows or labels"):
        difference(zero_shot(small, np.eye(3, 12)), zero_shot(large, np.eye(3, 12)))
