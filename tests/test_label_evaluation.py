"""Evaluation of labels, classes and numbers, on what the baselines must be able to find."""

import numpy as np
import pytest
from fitted_models import fitted, small_cohort

from fm_med.evaluation import evaluate_labels
from fm_med.evaluation.label_scores import STATISTICS


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("labels") / "cohort", subjects=240)


def test_labels(cohort):
    columns = ["AFIB", "LBBB", "STACH"]
    model = fitted(cohort, "multilabel", clinical=("age",), columns=columns)
    found = evaluate_labels(model, cohort, split="test", what="findings")
    assert {"macro_auroc", "average_precision", "brier", "per_label"} <= set(found.metrics["model"])
    assert set(found.metrics["model"]["per_label"]) == set(columns)
    # Rate and rhythm are what measurements measure: they must find these labels.
    assert found.metrics["baselines"]["measurements"]["macro_auroc"].value > 0.9
    assert found.metrics["baselines"]["age_sex"]["macro_auroc"].value < 0.9
    assert "probability_LBBB" in found.predictions


def test_classes_and_numbers(cohort, tmp_path):
    classes = fitted(cohort, "classification", clinical=("age",), columns=["sex"])
    found = evaluate_labels(classes, cohort, split="test", what="the sex")
    assert found.metrics["baselines"]["age_sex"]["accuracy"].value == 1.0  # sex is given to it
    numbers = fitted(cohort, "regression", clinical=(), columns=["heart_rate"])
    found = evaluate_labels(numbers, cohort, split="test", what="the heart rate")
    assert found.metrics["baselines"]["measurements"]["r2"].value > 0.8
    found.write(tmp_path)
    assert "Observed against predicted" in (tmp_path / "report.html").read_text()


def test_statistics_on_resamples_are_those_of_the_drawn_rows():
    """Every statistic with multiplicities equals itself on the repeated rows."""
    generator = np.random.default_rng(0)
    label = (generator.random((40, 3)) < 0.4).astype(float)
    unknown = label.copy()
    unknown[generator.random((40, 3)) < 0.1] = np.nan
    number = generator.integers(3, size=40)
    score = generator.normal(size=(40, 3))
    probability = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    forms = {"score": score, "probability": probability, "class": score.argmax(1)}
    given = {
        "multilabel": (unknown, forms),
        "classification": (number, forms),
        "regression": (label[:, 0] + score[:, 1], {"score": score[:, 0]}),
    }
    count = generator.integers(3, size=(40, 4))
    for task, (truth, form) in given.items():
        for name, (statistic, kind) in STATISTICS[task].items():
            found = statistic(truth, form[kind], multiplicity=count.astype(float))
            rows = [np.repeat(np.arange(40), one) for one in count.T]
            expected = [statistic(truth[drawn], form[kind][drawn]) for drawn in rows]
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=name)
