"""Discrete time and competing risks from a table to a page: train, save, load, judge, predict."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from forked import run
from in_process import launch

import fm_med
from fm_med.cli import main
from fm_med.cohort import open_cohort
from fm_med.folds import read_table

SIZES = {
    "num_members": 2,
    "hidden_size": 8,
    "embedding_size": 4,
    "dropout": 0.0,
    "sampling": "none",
}
FRESH = ("--encoder", "tabm", "--encoder_settings", json.dumps(SIZES), "--dropout", 0)
SHORT = ("--num_epochs", 2, "--per_device_batch_size", 32, "--horizons", "[12, 36]")
TASKS = ("competing_risks", "discrete_time")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("survival_tasks")


@pytest.fixture(scope="module")
def cohort(place):
    """240 persons; two causes with hazards of their own; made by the command line."""
    random = np.random.default_rng(0)
    x, age = random.normal(size=(240, 2)), random.normal(60, 10, 240)
    f = np.stack([1.2 * x[:, 0] - 3.4, 1.2 * x[:, 1] + 0.04 * (age - 60) - 3.7], 1)
    times, censored = random.exponential(np.exp(-f)), random.uniform(20, 70, 240)
    time = np.minimum(times.min(1), censored).round(3)
    cause = np.where(time >= censored.round(3), "", np.array(["stroke", "death"])[times.argmin(1)])
    with (place / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "age", "a", "b", "months", "why"])
        for row in range(240):
            numbers = (age[row].round(1), *x[row].round(4), time[row])
            writer.writerow([f"p{row}", *numbers, cause[row]])
    words = ["cohort", "table", place / "cohort", "--table", place / "rows.csv", "--subject", "id"]
    words += ["--time", "months", "--cause", "why", "--follow_up_unit", "months", "--stratify"]
    assert main([str(word) for word in words]) == 0
    return place / "cohort"


@pytest.fixture(scope="module")
def runs(place, cohort):
    """A finished run of each task: all of a new encoder, two folds, a covariate."""
    for task in TASKS:
        argv = ("--cohort", cohort, "--task", task, *FRESH, *SHORT, "--clinical", "age")
        assert launch("finetune", *argv, "--folds", 2, "--output", place / task) == 0
    return place


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def losses(folder, name="loss"):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return np.array([row[name] for row in lines if name in row])


def predicted(model, cohort, output):
    assert main(["predict", str(model), "--cohort", str(cohort), "--output", str(output)]) == 0
    with output.open() as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------ Fine-tuning


def test_metrics_and_tables_are_by_cause(runs):
    found = metrics(runs / "competing_risks" / "report")
    assert list(found["model"]) == ["c_index", "death", "stroke"]
    assert found["cross_validation"]["model"]["stroke"]["c_index"]["n"] == 216
    assert "c_index" in found["difference"]["clinical"]["death"]
    table = read_table(runs / "competing_risks" / "out_of_fold.csv")
    assert {"cause", "log_hazard_death", "clinical_log_hazard_stroke"} <= set(table)
    details = json.loads((runs / "competing_risks" / "model" / "task.json").read_text())
    events = details["training"]["events_by_cause"]
    assert sum(events.values()) == details["training"]["events"]
    assert list(details["baseline"]["causes"]) == details["task"]["classes"] == ["death", "stroke"]


def test_edges_are_of_the_rows_that_each_fit_saw(runs, cohort):
    details = json.loads((runs / "discrete_time" / "model" / "task.json").read_text())
    edges = details["task"]["edges"]
    train = open_cohort(cohort)
    time, event = (train.column("train", name) for name in ("time", "event"))
    assert len(edges) == 10 and edges == details["baseline"]["edges"]
    last = time[event].max()
    assert last <= edges[-1] <= last * 1.01
    counts = np.diff(np.searchsorted(np.sort(time[event]), edges, side="right"), prepend=0)
    assert counts.sum() == event.sum() and np.ptp(counts) <= 3
    table = read_table(runs / "discrete_time" / "out_of_fold.csv")
    assert len(table["log_cumulative_hazard"]) == 216
    assert metrics(runs / "discrete_time" / "report")["model"]["c_index"]["n"] == 24


def test_a_fresh_process_gives_the_same_risks(runs, cohort):
    code = (
        "import sys, json, fm_med; from fm_med.cohort import open_cohort\n"
        "rows = open_cohort(sys.argv[1]).splits['test']\n"
        "for model in sys.argv[2:]:\n"
        "    found = fm_med.load(model).predict(rows)\n"
        "    print(json.dumps({name: values.tolist() for name, values in found.items()}))"
    )
    models = [str(runs / task / "model") for task in TASKS]
    words = [sys.executable, "-W", "error", "-c", code, str(cohort), *models]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    fresh = [json.loads(line) for line in done.stdout.splitlines()]
    for model, found in zip(models, fresh):
        here = fm_med.load(model).predict(open_cohort(cohort).splits["test"])
        assert {name: values.tolist() for name, values in here.items()} == found
    competing, discrete = (
        {name: np.array(values) for name, values in found.items() if name.startswith("risk_")}
        for found in fresh
    )
    for risk in (*competing.values(), *discrete.values()):
        assert ((risk >= 0) & (risk <= 1)).all()
    causes = ("death", "stroke")
    assert list(competing) == [f"risk_{c}_{h}_months" for h in (12, 36) for c in causes]
    assert (competing["risk_death_36_months"] + competing["risk_stroke_36_months"] <= 1).all()
    assert list(discrete) == ["risk_12_months", "risk_36_months"]
    assert (discrete["risk_12_months"] < discrete["risk_36_months"]).all()


@pytest.mark.parametrize("task", TASKS)
def test_new_patients_get_the_same_risks(runs, cohort, tmp_path, task):
    rows = predicted(runs / task / "model", cohort, tmp_path / "new.csv")
    here = fm_med.load(runs / task / "model").predict(open_cohort(cohort).splits["test"])
    for name, values in here.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-4)
    assert not any(name.endswith(("_low", "_high")) for name in rows[0])


@pytest.mark.parametrize("task", TASKS)
def test_a_frozen_encoder_gets_a_ridge_head(runs, cohort, tmp_path, task, capsys):
    encoder = ("--encoder", runs / task / "model", "--peft", "none")
    argv = ("--cohort", cohort, "--task", task, *encoder, "--clinical", "age")
    assert launch("finetune", *argv, "--output", tmp_path / "run") == 0
    assert "c_index" in capsys.readouterr().out
    penalty = json.loads((tmp_path / "run" / "model" / "task.json").read_text())["training"]
    if task == "competing_risks":
        assert list(penalty["penalty"]) == ["death", "stroke"]
    assert metrics(tmp_path / "run" / "report")["model"]["c_index"]["value"] > 0.5


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_are_one(cohort, tmp_path, task):
    argv = ("--cohort", cohort, "--task", task, *FRESH, "--num_epochs", 2, "--patience", 9)
    for processes, size in ((1, 32), (2, 16)):
        flags = ("--per_device_batch_size", size, "--output", tmp_path / str(processes))
        log = tmp_path / f"log{processes}"
        done = run(*argv, *flags, log=log, processes=processes, recipe="finetune")
        assert done == [0] * processes, log.read_text()
    for name in ("loss", "validation_loss"):
        one, two = (losses(tmp_path / str(processes), name) for processes in (1, 2))
        assert len(one) > 1
        np.testing.assert_allclose(two, one, rtol=1e-4, err_msg=name)


# ------------------------------------------------------------------------------------- Evaluation


def test_the_page_of_competing_risks(runs, cohort, capsys):
    output = runs / "competing_page"
    model = runs / "competing_risks" / "model"
    argv = ("--model", model, "--cohort", cohort, "--output", output, "--horizons", "[1, 3, 30]")
    assert launch("evaluate", *argv) == 0
    printed = capsys.readouterr().out
    assert "C-index for stroke, Age and sex (Fine–Gray)" in printed
    assert "stroke: The horizon of 30 years was left out" in printed
    found = metrics(output)
    assert set(found) == {"model", "baselines", "difference"}
    assert set(found["model"]) == {"death", "stroke"}
    assert {"age_sex", "age_sex_fine_gray"} <= set(found["baselines"]) == set(found["difference"])
    one = found["model"]["stroke"]
    page = (output / "report.html").read_text()
    assert "<h1>Risk of death or stroke</h1>" in page
    for title in ("Stroke: does it rank patients rightly?", "Death: what happened to patients of"):
        assert title in page
    assert "Aalen-Johansen" in page and "Log-rank" not in page
    table = read_table(output / "predictions.csv")
    assert set(table["cause"]) == {"", "death", "stroke"}
    here = fm_med.load(model).predict(open_cohort(cohort).splits["test"])
    for suffix, horizon in (("1", 12), ("3", 36)):
        if f"brier_at_{suffix}" in one:
            assert 0 < one[f"brier_at_{suffix}"]["value"] < 0.5
            risk = here[f"risk_stroke_{horizon}_months"]
            np.testing.assert_allclose(table[f"risk_stroke_{suffix}"], risk, rtol=1e-4)


def test_the_page_of_discrete_time(runs, cohort):
    output = runs / "discrete_page"
    model = runs / "discrete_time" / "model"
    argv = ("--model", model, "--cohort", cohort, "--split", "train", "--output", output)
    assert launch("evaluate", *argv, "--horizons", "[1, 3]", "--outcome", "any event") == 0
    found = metrics(output)["model"]
    for name in ("c_index", "auroc_at_1", "brier_at_3", "ibs", "calibration_slope_at_3"):
        assert found[name]["value"] is not None
    page = (output / "report.html").read_text()
    assert "spread over it at a constant rate" in page and "too good" in page
    table = read_table(output / "predictions.csv")
    assert "risk_1_low" not in table and (table["risk_1"] < table["risk_3"]).all()
    order = np.argsort(table["log_cumulative_hazard"])
    assert np.corrcoef(np.argsort(order), np.argsort(np.argsort(table["risk_3"])))[0, 1] > 0.9


# -------------------------------------------------------------------------------------- Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "competing_risks", "--target", "time", "event"), "has 1 cause(s) in the"),
        (("--task", "competing_risks", "--target", "cause"), "two target columns, time and cause"),
        (("--task", "competing_risks", "--select_on", "c_index_death"), "has validation_loss, c"),
        (("--task", "competing_risks", "--imbalance", "sampler"), "would repeat events"),
        (("--task", "discrete_time", "--imbalance", "weight"), "needs no balance"),
        (("--task", "discrete_time", "--time_unit", "days"), "in months by its card"),
        (("--task", "discrete_time", "--loss", "efron"), "has no loss 'efron'"),
        (("--task", "discrete_time", "--head", "svm", "--peft", "none"), "--head svm is for"),
    ],
)
def test_what_makes_no_sense_is_one_line(cohort, tmp_path, capsys, words, message):
    argv = ("--cohort", cohort, *FRESH, *words, "--output", tmp_path / "run")
    assert launch("finetune", *argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_cause_that_the_model_does_not_know_is_refused(runs, place, cohort, tmp_path, capsys):
    text = (place / "rows.csv").read_text().replace("stroke", "accident")
    (tmp_path / "rows.csv").write_text(text)
    words = ["cohort", "table", tmp_path / "other", "--table", tmp_path / "rows.csv"]
    words += ["--subject", "id", "--time", "months", "--cause", "why", "--follow_up_unit", "months"]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    argv = ("--model", runs / "competing_risks" / "model", "--cohort", tmp_path / "other")
    assert launch("evaluate", *argv, "--output", tmp_path / "page") == 2
    assert "the training split lacks: accident" in capsys.readouterr().err
