"""Evaluation of fitted models against numbers worked out another way."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from fitted_models import fitted, small_cohort

from fm_med.errors import InputError
from fm_med.evaluation import (
    evaluate_survival,
    free_report_folder,
    survival,
)
from fm_med.evaluation.baselines import designs, unwrapped
from fm_med.evaluation.model import predict, untrained_encoder
from fm_med.evaluation.participants import participants
from fm_med.evaluation.survival_scores import Outcome, RiskScore, usable_horizons
from fm_med.examples import read_examples
from fm_med.survival.baseline import breslow_baseline
from fm_med.survival.concordance import concordance_index


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("evaluation") / "cohort")


@pytest.fixture(scope="module")
def model(cohort):
    return fitted(cohort)


@pytest.fixture(scope="module")
def evaluated(model, cohort):
    return evaluate_survival(model, cohort, split="test", years=[2, 3, 20], event="heart failure")


@pytest.fixture
def without_page(monkeypatch):
    """Leave out drawings, which other tests look at."""
    monkeypatch.setattr(survival, "survival_sections", lambda results: [])
    monkeypatch.setattr(survival, "patient_figures", lambda *given: [])


def test_metrics_have_the_names_of_the_design(evaluated):
    metrics = evaluated.metrics
    assert set(metrics) == {"model", "baselines", "difference"}
    rivals = {"age_sex", "measurements", "random_encoder", "oracle"}
    assert set(metrics["baselines"]) == set(metrics["difference"]) == rivals
    for name in ("c_index", "c_index_uno", "auroc_at_2", "auroc_at_3", "ibs", "calibration_slope"):
        assert name in metrics["model"]
    for name in ("observed_expected_at_3", "ici_at_3", "brier_at_3", "scaled_brier"):
        assert name in metrics["model"]
    assert "ibs" not in metrics["baselines"]["oracle"]  # the truth's hazard is not known
    assert not any(name.endswith("_at_20") for name in metrics["model"])
    assert any("20 years was left out" in sentence for sentence in evaluated.cautions)


def test_c_index_is_that_of_the_first_recordings(evaluated, model, cohort):
    test = read_examples(cohort, model.task, model.coding, splits=["test"])
    first = np.sort(np.unique(test.subject_id, return_index=True)[1])
    assert len(first) < len(test)
    rows = test.take(first)
    expected = concordance_index(rows.targets["time"], rows.targets["event"], predict(model, rows))
    assert evaluated.metrics["model"]["c_index"].value == pytest.approx(expected)
    gain = evaluated.metrics["difference"]["age_sex"]["c_index"]
    rival = evaluated.metrics["baselines"]["age_sex"]["c_index"]
    assert gain.value == pytest.approx(expected - rival.value)


def test_predictions_hold_the_stored_risks(evaluated, model):
    columns = evaluated.predictions
    expected = model.baseline.risk(columns["log_hazard"], 36.0)
    np.testing.assert_allclose(columns["risk_3"], expected)
    assert (columns["risk_3_low"] <= columns["risk_3"]).all()
    assert (columns["risk_3"] <= columns["risk_3_high"]).all()
    assert len(set(columns["subject_id"].tolist())) == len(columns["time"])


def test_everything_is_written_and_a_training_run_s_files_are_kept(evaluated, tmp_path):
    (tmp_path / "metrics.json").write_text('{"old": 1}')
    evaluated.write(tmp_path)
    leaf = json.loads((tmp_path / "metrics.json").read_text())["model"]["c_index"]
    assert set(leaf) == {"value", "low", "high", "n"}
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == leaf["n"]
    assert {row["event"] for row in rows} == {"0", "1"}
    assert (tmp_path / "training_metrics.json").read_text() == '{"old": 1}'
    drawn = (tmp_path / "calibration.svg").read_text()  # for a model's card
    assert drawn.startswith("<svg ") and "3 years" in drawn
    page = (tmp_path / "report.html").read_text()
    assert "Patient with the highest predicted risk" in page
    assert "These patients are simulated" in page
    with pytest.raises(InputError, match="holds a report already"):
        free_report_folder(tmp_path)


def test_summary_tells_the_gap_to_the_truth(evaluated):
    lines = evaluated.summary()
    assert "C-index, model" in lines
    assert "share of the gap from age and sex to the truth" in lines


def test_an_untrained_encoder_is_random_and_the_same_each_time(model):
    one, two = untrained_encoder(model), untrained_encoder(model)
    for a, b in zip(one.parameters(), two.parameters()):
        assert (a == b).all()
    assert any((a != own).any() for a, own in zip(one.parameters(), model.encoder.parameters()))


def test_baselines_are_fitted_on_training_rows_only(model, cohort):
    people = participants(cohort, model.task, model.coding, split="test", one_per_person=True)
    made = {design.name: design for design in designs(model, people.train, people.test)}
    assert made["age_sex"].features is None
    for design in made.values():
        train, test = design.clinical
        assert (len(train), len(test)) == (len(people.train), len(people.test))
    features = made["measurements"].features
    assert np.isfinite(features[0]).all()
    assert np.isfinite(features[1]).all()
    assert not set(people.train.subject_id) & set(people.test.subject_id)


def test_axes_do_not_jump_at_180_degrees():
    from fm_med.ecg.measurements import MEASUREMENTS

    measured = np.zeros((2, len(MEASUREMENTS)))
    measured[:, list(MEASUREMENTS).index("qrs_axis")] = -179.9, 179.9
    one, two = unwrapped(measured)
    np.testing.assert_allclose(one, two, atol=0.01)


def test_follow_up_in_another_unit_is_converted(model, cohort, without_page):
    rows = participants(cohort, model.task, model.coding, split="test", one_per_person=True)
    cohort.card.follow_up_unit = "days"
    try:
        found = evaluate_survival(model, cohort, split="test", years=[], event="death")
    finally:
        cohort.card.follow_up_unit = "months"
    expected = rows.test.targets["time"] * 12 / 365.25
    np.testing.assert_allclose(found.predictions["time"], expected)


def test_trained_rows_are_named(model, cohort, without_page):
    found = evaluate_survival(model, cohort, split="train", years=[3], event="death")
    assert "was trained on the split “train”" in found.cautions[0]
    assert found.metrics["baselines"].keys() == {"oracle"}  # no other rows to fit baselines on


def test_horizons_need_events_and_followed_persons():
    generator = np.random.default_rng(0)
    time = generator.uniform(1, 60, 300)
    event = generator.random(300) < 0.5
    outcome = Outcome(time, event, np.arange(300).astype(str))
    hazard = breslow_baseline(np.zeros(300), time=time, event=event)
    found = usable_horizons([0.1, 1, 4.99, 50], "months", outcome, hazard)
    assert dict(found.times) == {"1": 12.0}
    assert dict(found.names) == {"1": "1 year"}
    reasons = " ".join(found.left_out)
    assert "fewer than 10 persons had the event by then" in reasons  # small cells are not told
    assert "training follow-up ends" in reasons


def test_a_model_without_hazard_ranks_only(model, cohort, without_page):
    bare = replace(model, baseline=None)
    found = evaluate_survival(bare, cohort, split="test", years=[3], event="death")
    assert "auroc_at_3" in found.metrics["model"]
    assert "calibration_slope" not in found.metrics["model"]
    assert "risk_3" not in found.predictions
    assert any("no baseline hazard" in sentence for sentence in found.cautions)


def test_a_score_needs_a_hazard_for_curves():
    with pytest.raises(ValueError, match="no baseline hazard"):
        RiskScore("oracle", np.zeros(3), None).survival(np.array([1.0]))
