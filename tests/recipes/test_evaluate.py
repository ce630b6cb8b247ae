"""The evaluation recipe, from a saved model to its page."""

import json
import shutil
import subprocess
import sys

import pytest
from fitted_models import fitted, saved, small_cohort
from in_process import REPOSITORY, launch


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A model, its cohort and a report written by the recipe in the folder of a training run."""
    place = tmp_path_factory.mktemp("evaluate")
    cohort = small_cohort(place / "cohort", subjects=240)
    saved(place / "model", fitted(cohort), cohort)
    (place / "report").mkdir()
    (place / "report" / "metrics.json").write_text("{}")
    status = launch(
        "evaluate",
        *("--model", place / "model", "--cohort", place / "cohort", "--output", place / "report"),
        *("--horizons", "[3, 5]", "--outcome", "heart failure"),
    )
    assert status == 0
    return place


def test_files_and_names(evaluated):
    report = evaluated / "report"
    names = {path.name for path in report.iterdir()}
    files = {"report.html", "metrics.json", "predictions.csv", "training_metrics.json"}
    assert names == files | {"calibration.svg"}
    metrics = json.loads((report / "metrics.json").read_text())
    assert {"age_sex", "measurements", "random_encoder"} <= set(metrics["difference"])
    assert metrics["model"]["c_index"]["n"] == 48
    page = (report / "report.html").read_text()
    assert "<h1>Risk of heart failure</h1>" in page
    assert "http" not in page


def test_a_report_is_not_overwritten(evaluated, capsys):
    words = ("--model", evaluated / "model", "--cohort", evaluated / "cohort")
    assert launch("evaluate", *words, "--output", evaluated / "report") == 2
    assert "holds a report already" in capsys.readouterr().err


def test_wrong_input_is_one_line(evaluated, tmp_path, capsys):
    encoder = tmp_path / "encoder"
    shutil.copytree(evaluated / "model", encoder)
    (encoder / "task.json").unlink()
    cohort, model = evaluated / "cohort", evaluated / "model"
    for words, message in (
        (("--model", encoder, "--cohort", cohort), "is an encoder without a head"),
        (("--model", tmp_path / "none", "--cohort", cohort), "there is no folder"),
        (("--model", model, "--cohort", tmp_path), "is not a cohort"),
        (("--model", model, "--cohort", cohort, "--split", "exam"), "has no split 'exam'"),
    ):
        assert launch("evaluate", *words, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_needs_nothing_heavy():
    code = "import sys, runpy; sys.argv = ['evaluate.py', '--help']\ntry:\n"
    code += "    runpy.run_path('recipes/evaluate.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "--horizons" in done.stdout
    assert done.stderr.strip().endswith("False")
