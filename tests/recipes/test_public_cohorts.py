"""Recipes on the only open recordings with follow-up at hand: ten exams of CODE-15%, one death."""

import json
import warnings

import pytest
from fitted_models import fitted, saved, small_cohort
from in_process import launch

from fm_med.cohort import open_cohort
from fm_med.sources.code15 import make_code15
from fm_med.sources.public import Making


@pytest.fixture
def exams(real_data, tmp_path):
    return make_code15(
        real_data("code15_sample10"), tmp_path / "code15", making=Making(seed=26, workers=1)
    )


def test_one_death_is_too_few_to_fit_a_risk(exams, tmp_path, capsys):
    words = ("--cohort", exams, "--encoder", "resnet1d", "--num_epochs", 1)
    for peft, message in (
        ("auto", "none of 2 validation rows has an event, so no epoch can be chosen"),
        ("none", "choosing among 8 penalties needs events in 2 subjects, there are in 1"),
    ):
        assert launch("finetune", *words, "--peft", peft, "--output", tmp_path / peft) == 2
        told = capsys.readouterr()
        assert "left out         3 rows without a usable target" in told.out
        assert message in told.err
        assert told.err.splitlines()[-1].startswith("error: ")


def test_labels_of_the_exams_are_learnt(exams, tmp_path):
    words = ("--cohort", exams, "--encoder", "resnet1d", "--num_epochs", 1)
    task = ("--task", "multilabel", "--target", "1dAVb")
    assert launch("finetune", *words, *task, "--output", tmp_path / "run") == 0
    recordings = open_cohort(exams).card.recordings
    rows = (tmp_path / "run" / "report" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + recordings["validation"] + recordings["test"]


def test_a_risk_model_is_judged_on_the_exams(exams, tmp_path, capsys):
    """The model knows months, the exams have years; three exams without follow-up stay away."""
    cohort = small_cohort(tmp_path / "simulated", subjects=120)
    saved(tmp_path / "model", fitted(cohort), cohort)
    words = ("--model", tmp_path / "model", "--cohort", exams, "--output", tmp_path / "report")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one event is separated by any risk
        assert launch("evaluate", *words, "--split", "train") == 0
    assert "Only 1 events: no number on this page is worth much." in capsys.readouterr().out
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["model"]["c_index"]["n"] == 4
    assert "without a target that can be used" in (tmp_path / "report/report.html").read_text()
    assert launch("evaluate", *words[:-1], tmp_path / "other", "--split", "test") == 2
    assert "nobody in the split 'test' has the event" in capsys.readouterr().err
