"""The fine-tuning recipe from end to end: risk, labels, classes, numbers, folds, bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from in_process import REPOSITORY, launch
from transformers import AutoModel

import fm_med
from fm_med.cohort import open_cohort
from fm_med.folds import read_table
from fm_med.sources.simulated import make_simulated
from fm_med.survival.concordance import concordance_index

TINY = {"strides": [8, 4], "widths": [8, 8], "hidden_size": 16, "lead_heads": 2, "pooled_size": 24}
FRESH = ("--encoder", "dual_attention", "--encoder_settings", json.dumps(TINY))
SHORT = ("--num_epochs", 2, "--per_device_batch_size", 32, "--dropout", 0)
RECIPE = REPOSITORY / "recipes" / "finetune.py"


@pytest.fixture(scope="session")
def followed(place):
    """A simulated cohort of 120 persons of whom 40 % have the event."""
    return make_simulated(place / "followed", subjects=120, seed=4, event_share=0.4, workers=1)


@pytest.fixture(scope="session")
def risk(place, followed):
    """A finished run, started from a shell: all of a new encoder, two folds, clinical part."""
    folder = place / "risk"
    argv = ("--cohort", followed, "--clinical", "age", "sex", *FRESH, *SHORT)
    command = [sys.executable, "-W", "error", RECIPE, *argv, "--folds", 2, "--output", folder]
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return folder, argv, done.stdout


@pytest.fixture(scope="session")
def adapted(place, followed, risk):
    """LoRA on the encoder of `risk`, with the adapter kept alone."""
    folder = place / "adapted"
    argv = ("--cohort", followed, "--clinical", "age", "sex", "--encoder", risk[0] / "model")
    # A head with a hidden layer has no ridge fit that would be kept in place of the adapters.
    argv = (*argv, *SHORT, "--learning_rate", 0.01, "--head_hidden", 8)
    argv = (*argv, "--peft", "lora", "--save_adapter")
    assert launch("finetune", *argv, "--output", folder) == 0
    return folder


def metrics(folder):
    return json.loads((folder / "report" / "metrics.json").read_text())


def curve(folder, name="loss"):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return np.array([row[name] for row in map(json.loads, lines) if name in row])


def of_test(folder):
    table = read_table(folder / "report" / "predictions.csv")
    return {name: values[table["split"] == "test"] for name, values in table.items()}


def test_a_run_says_what_it_did_and_leaves_its_files(risk, followed):
    folder, _, printed = risk
    cohort = open_cohort(followed)
    assert "peft full: the encoder is new" in printed
    assert "warning: about" not in printed
    assert f"train      {cohort.splits['train'].num_rows:>7} rows" in printed
    for name in ("repeat-0-fold-0: c_index", "repeat-0-fold-1: c_index", "test split (95 %"):
        assert name in printed
    assert printed.count("process 1 of 1 on ") == 1
    found = metrics(folder)
    for group in (found, found["cross_validation"]):
        assert 0 <= group["model"]["c_index"]["value"] <= 1
        for node in (group["baselines"], group["difference"]):
            assert {"value", "low", "high", "n"} <= set(node["clinical"]["c_index"])
    assert yaml.safe_load((folder / "config.yaml").read_text())["folds"] == 2
    assert len(curve(folder)) == 2 * -(-cohort.splits["train"].num_rows // 32)


def test_predictions_of_the_folds_are_of_every_row_once(risk, followed):
    table = read_table(risk[0] / "out_of_fold.csv")
    cohort = open_cohort(followed)
    rows = [r for s in ("train", "validation") for r in cohort.column(s, "record_id")]
    assert sorted(table["record_id"]) == sorted(rows)
    assert np.isfinite(table["log_hazard"]).all()
    by_fold = [set(table["subject_id"][table["fold"] == k]) for k in (0, 1)]
    assert by_fold[0] and not by_fold[0] & by_fold[1]
    for k in (0, 1):
        fold = {name: values[table["fold"] == k] for name, values in table.items()}
        saved = json.loads((risk[0] / "folds" / f"repeat-0-fold-{k}" / "metrics.json").read_text())
        found = concordance_index(fold["time"], fold["event"], fold["log_hazard"])
        assert found == pytest.approx(saved["model"]["c_index"]["value"], abs=1e-12)


def test_the_clinical_baseline_is_coxs_on_age_and_sex(risk, followed):
    """As an independent implementation fits it, on the training rows alone."""
    lifelines = pytest.importorskip("lifelines")
    import warnings

    cohort = open_cohort(followed)
    frames = {}
    for split in ("train", "test"):
        frame = cohort.splits[split].select(["time", "event", "age", "sex"]).to_pandas()
        frame["sex"] = (frame["sex"] == "male").astype(float)
        frames[split] = frame.astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lifelines.CoxPHFitter().fit(frames["train"], "time", "event")
        expected = fit.predict_log_partial_hazard(frames["test"]).to_numpy()
    table = of_test(risk[0])
    assert table["record_id"].tolist() == cohort.column("test", "record_id")
    found = table["clinical_log_hazard"]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=1e-4)


def test_a_model_predicts_the_same_in_a_fresh_process(risk, followed, tmp_path):
    code = f"""
import sys, json, numpy, fm_med
from fm_med.cohort import open_cohort
model = fm_med.load({str(risk[0] / "model")!r})
columns = model.predict(open_cohort({str(followed)!r}).splits["test"])
numpy.savez({str(tmp_path / "found.npz")!r}, **columns)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=dict(os.environ))
    found = np.load(tmp_path / "found.npz")
    table = of_test(risk[0])
    np.testing.assert_allclose(found["log_hazard"], table["log_hazard"], atol=1e-6)
    c_index = concordance_index(table["time"], table["event"], found["log_hazard"])
    assert c_index == pytest.approx(metrics(risk[0])["model"]["c_index"]["value"], abs=1e-12)
    for name in ("risk_12_months", "risk_36_months", "risk_60_months"):
        assert ((found[name] > 0) & (found[name] < 1)).all()
    assert (found["risk_12_months"] < found["risk_60_months"]).all()


def test_the_folder_holds_encoder_head_task_and_baseline(risk, followed):
    model = fm_med.load(risk[0] / "model")
    assert (model.task.name, model.task.unit) == ("survival", "months")
    assert [covariate.name for covariate in model.coding] == ["age", "sex"]
    assert model.horizons == (12, 36, 60)
    training = model.details["training"]
    train = open_cohort(followed).splits["train"]
    assert (training["peft"], training["rows"]) == ("full", train.num_rows)
    assert training["fitted_on"] == ["train"]
    rows = open_cohort(followed).splits["test"].slice(0, 3)
    encoder = AutoModel.from_pretrained(risk[0] / "model").eval()
    with torch.inference_mode():
        features = encoder(**model.processor.from_rows(rows)).pooler_output
    np.testing.assert_array_equal(model.embed(rows), features.numpy())
    # The baseline's own check: expected events of the training rows are those observed, but for
    # the coarse steps in which it is saved.
    targets = {name: np.asarray(train.column(name)) for name in ("time", "event")}
    predicted = model.predict(train)["log_hazard"]
    time = np.minimum(targets["time"], model.baseline.follow_up)
    hazard = model.baseline.cumulative(time) * np.exp(predicted)
    assert hazard.sum() == pytest.approx(targets["event"].sum(), rel=0.1)
    assert not set(targets["time"][targets["event"]]) & set(model.baseline.time)


def test_missing_covariates_are_filled_and_absent_ones_refused(risk, followed):
    model = fm_med.load(risk[0] / "model")
    rows = open_cohort(followed).splits["test"].slice(0, 2)
    bare = rows.drop_columns(["age", "sex"])
    filled = model.predict(bare, clinical={"age": [None, 60.0], "sex": ["male", None]})
    medians = {covariate.name: covariate.fill for covariate in model.coding}
    sex = "male" if medians["sex"] else "female"
    stated = {"age": [medians["age"], 60.0], "sex": ["male", sex]}
    np.testing.assert_array_equal(
        filled["log_hazard"], model.predict(bare, clinical=stated)["log_hazard"]
    )
    with pytest.raises(fm_med.errors.InputError, match="no column 'age', which the model needs"):
        model.predict(bare)


def test_adapter_and_merged_model_are_one(adapted, risk, followed):
    merged, alone = (fm_med.load(adapted / name) for name in ("model", "model/adapter"))
    rows = open_cohort(followed).splits["test"]
    np.testing.assert_array_equal(
        merged.predict(rows)["log_hazard"], alone.predict(rows)["log_hazard"]
    )
    base = fm_med.load(risk[0] / "model")
    assert np.abs(merged.embed(rows) - base.embed(rows)).max() > 1e-3
    config = json.loads((adapted / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(risk[0] / "model")
    size = sum(f.stat().st_size for f in (adapted / "model" / "adapter").glob("*.safetensors"))
    assert size < 0.5 * (adapted / "model" / "model.safetensors").stat().st_size


def test_an_unfinished_fold_is_fitted_again_and_the_others_are_read(place, risk):
    folder = place / "resumed"
    shutil.copytree(risk[0], folder)
    shutil.rmtree(folder / "model")
    (folder / "folds" / "repeat-0-fold-1" / "metrics.json").unlink()
    kept = folder / "folds" / "repeat-0-fold-0" / "predictions.csv"
    kept.write_text(kept.read_text())  # newer than all that is not touched
    before = kept.stat().st_mtime_ns
    argv = (*risk[1], "--folds", 2, "--output", folder, "--resume")
    assert launch("finetune", *argv) == 0
    assert kept.stat().st_mtime_ns == before
    for name in ("out_of_fold.csv", "model/model.safetensors", "model/head/model.safetensors"):
        assert (folder / name).read_bytes() == (risk[0] / name).read_bytes(), name
    assert metrics(folder) == metrics(risk[0])


def test_a_run_that_was_cut_goes_on_to_the_same_bits(place, risk, followed):
    argv = ("--cohort", followed, "--clinical", "age", "--encoder", risk[0] / "model", *SHORT)
    argv = (*argv, "--peft", "lora", "--dropout", 0.3, "--checkpoint_every", 3)
    argv = (*argv, "--keep_checkpoints", 9)
    whole, cut = place / "whole", place / "cut"
    assert launch("finetune", *argv, "--output", whole) == 0
    shutil.copytree(whole, cut)
    for name in ("model", "report", "checkpoints/step-000006", "checkpoints/step-000008"):
        shutil.rmtree(cut / name)
    assert launch("finetune", *argv, "--output", cut, "--resume") == 0
    for name in ("model/model.safetensors", "model/head/model.safetensors", "model/task.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    np.testing.assert_array_equal(curve(cut), curve(whole))


def test_two_processes_have_the_loss_curve_of_one(place, risk):
    folder = place / "two"
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", 2, RECIPE]
    flags = ("--per_device_batch_size", 16, "--micro_batch_size", 7, "--output", folder)
    command = [str(word) for word in (*torchrun, *risk[1], *flags)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    for name in ("loss", "validation_loss"):
        np.testing.assert_allclose(curve(folder, name), curve(risk[0], name), rtol=1e-3)
    # Cox's loss does not fix the level of the log-hazards, so rounding moves all of them alike.
    one, two = (of_test(path)["log_hazard"] for path in (risk[0], folder))
    np.testing.assert_allclose(two - two.mean(), one - one.mean(), atol=2e-3)


def test_few_events_keep_a_saved_encoder_frozen(place, risk, followed, capsys):
    folder = place / "frozen"
    argv = ("--cohort", followed, "--clinical", "age", "--encoder", risk[0] / "model")
    assert launch("finetune", *argv, "--folds", 5, "--output", folder) == 0
    printed = capsys.readouterr().out
    assert "peft none:" in printed and "below 100 the encoder stays frozen" in printed
    assert "warning: about" in printed and "fewer than 10" in printed
    assert not (folder / "metrics.jsonl").exists()  # no step was taken
    model, base = fm_med.load(folder / "model"), fm_med.load(risk[0] / "model")
    rows = open_cohort(followed).splits["test"].slice(0, 4)
    np.testing.assert_array_equal(model.embed(rows), base.embed(rows))
    assert model.details["training"]["fitted_on"] == ["train", "validation"]


OTHERS = {
    "multilabel": (("--target", "AFIB", "LBBB", "LVH", "--imbalance", "weight"), "macro_auroc"),
    "classification": (("--target", "sex", "--imbalance", "sampler"), "balanced_accuracy"),
    "regression": (("--target", "heart_rate", "--head_hidden", "[4]"), "mean_absolute_error"),
}


@pytest.mark.parametrize("method", ["full", "none"])
@pytest.mark.parametrize("task", OTHERS)
def test_the_other_tasks_run_through_the_same_recipe(task, method, place, followed):
    folder = place / f"{task}-{method}"
    flags, name = OTHERS[task]
    argv = ("--cohort", followed, "--task", task, *flags, "--peft", method, *FRESH, *SHORT)
    assert launch("finetune", *argv, "--clinical", "age", "--output", folder) == 0
    assert metrics(folder)["model"][name]["n"] > 0
    model = fm_med.load(folder / "model")
    rows = open_cohort(followed).splits["test"]
    table = of_test(folder)
    predicted = model.predict(rows)
    called = predicted.pop("predicted", None)
    for column, values in predicted.items():
        np.testing.assert_allclose(values, table[column], rtol=1e-4, atol=1e-5)
    if task == "classification":
        likeliest = np.stack(list(predicted.values())).argmax(0)
        assert called.tolist() == [model.task.classes[k] for k in likeliest]
    if task == "multilabel":
        assert set(model.details["thresholds"]) == {"AFIB", "LBBB", "LVH"}


def test_balance_has_its_effect_where_there_is_no_loop(place, followed):
    argv = ("--cohort", followed, "--task", "multilabel", "--target", "AFIB", *FRESH)
    argv = (*argv, "--peft", "none", "--imbalance", "sampler", "--output", place / "balance")
    assert launch("finetune", *argv) == 0
    assert not (place / "balance" / "metrics.jsonl").exists()  # no step was taken
    share = np.mean(open_cohort(followed).column("train", "AFIB"))
    found = of_test(place / "balance")["probability_AFIB"].mean()
    assert found > 3 * share


PUBLISHED = ("--encoder", "dual_attention_paper", "--encoder_settings", '{"samples": 96}')


@pytest.mark.parametrize("network", [FRESH, PUBLISHED], ids=["corrected", "literal"])
def test_the_published_protocol_runs_from_its_preset(network, followed, tmp_path):
    preset = REPOSITORY / "recipes" / "presets" / "chen2024.yaml"
    folder = tmp_path / "chen"
    short = ("--repeats", 1, "--num_epochs", 1, "--per_device_batch_size", 48)
    argv = ("--config", preset, "--cohort", followed, *network, *short, "--output", folder)
    assert launch("finetune", *argv) == 0
    assert set(metrics(folder)) >= {"model", "cross_validation"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["augment"], config["reconstruction_weight"]) == ("published", 1.0)


def test_presets_are_short_and_known_to_the_recipe():
    from in_process import recipe

    from fm_med.settings import parse_settings

    for name in ("hf_risk", "chen2024"):
        path = REPOSITORY / "recipes" / "presets" / f"{name}.yaml"
        assert len(path.read_text().splitlines()) <= 20
        parse_settings(recipe("finetune").Config, ["--config", str(path)])


# ----------------------------------------------------------------------------------- Bad input


def changed(source, folder, edit):
    """Copy a cohort and edit its tables behind the back of the writer, who refuses such values."""
    shutil.copytree(source, folder)
    for file in (folder / "data").glob("*.arrow"):
        table = edit(pa.ipc.open_file(file.read_bytes()).read_all())
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return folder


def with_column(name, values):
    def edit(table):
        place = table.column_names.index(name)
        field = table.schema.field(name)
        return table.set_column(place, field, pa.array(values(table), field.type))

    return edit


@pytest.fixture(scope="session")
def bad(place, followed):
    """Cohorts whose follow-up cannot be used, by name."""

    def times(wrong):
        return lambda table: [wrong, *table.column("time").to_pylist()[1:]]

    edits = {
        "no events": with_column("event", lambda table: [False] * table.num_rows),
        "all events": with_column("event", lambda table: [True] * table.num_rows),
        "negative": with_column("time", times(-1.0)),
        "nan": with_column("time", times(float("nan"))),
    }
    return {
        name: changed(followed, place / f"bad-{k}", edit)
        for k, (name, edit) in enumerate(edits.items())
    }


REFUSED = {
    "no events": ((), "has no events"),
    "all events": ((), "has nothing but events"),
    "negative": ((), "'time' is negative"),
    "nan": ((), "'time' is missing or not finite"),
    "unit": (("--time_unit", "days"), "in months by its card, but --time_unit says days"),
    "covariate": (("--clinical", "bmi"), "no column 'bmi'"),
    "text covariate": (("--clinical", "report"), "expected female, male or null"),
    "encoder": (("--encoder", "nobody/absent"), "no model that the Hub can give"),
    "setting": ((*FRESH[:2], "--encoder_settings", '{"widhts": [8]}'), "no setting 'widhts'"),
    "value": ((*FRESH[:2], "--encoder_settings", '{"widths": "wide"}'), "cannot be built"),
    "sizes": ((*FRESH[:2], "--encoder_settings", '{"widths": [8]}'), "cannot be built"),
    "processor": (("--processor_settings", '{"rate": 1}'), "no setting 'rate'"),
    "rate": (("--processor_settings", '{"sampling_rate": 500, "low_pass": 100}'), "too slow"),
    "score": ((*FRESH, "--select_on", "auroc"), "the task survival has validation_loss, c_index"),
    "augment": ((*FRESH, "--augment", "strong"), "has no augmentation 'strong'"),
    "balance": ((*FRESH, "--imbalance", "weight"), "likelihood of a follow-up needs no balance"),
    "target": (("--lora_targets", "nothing", "--peft", "lora", *FRESH), "matches no layer"),
    "adapter": (("--save_adapter", "--peft", "lora", *FRESH), "needs a saved encoder"),
    "no adapter": (("--save_adapter", "--peft", "none", *FRESH), "needs --peft lora or dora"),
    "loss": (("--loss", "bce"), "has no loss 'bce'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_leaves_no_folder(case, bad, followed, tmp_path, capsys):
    flags, message = REFUSED[case]
    cohort = bad.get(case, followed)
    argv = ("--cohort", cohort, *flags, "--output", tmp_path / "run")
    assert launch("finetune", *argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and message in error
    assert not (tmp_path / "run").exists()


def test_a_saved_encoder_keeps_its_settings(risk, followed, tmp_path, capsys):
    argv = ("--cohort", followed, "--encoder", risk[0] / "model", "--encoder_settings", "{a: 1}")
    assert launch("finetune", *argv, "--output", tmp_path / "run") == 2
    assert "keeps its own settings; 'a' cannot be changed" in capsys.readouterr().err


def test_an_encoder_resamples_what_another_rate_was_recorded_at(risk, place, tmp_path):
    """Trained at 100 Hz; the new cohort is recorded at 250 Hz."""
    other = make_simulated(
        tmp_path / "fast", subjects=40, seed=5, event_share=0.5, sampling_rate=250, workers=1
    )
    argv = ("--cohort", other, "--encoder", risk[0] / "model", "--output", tmp_path / "run")
    assert launch("finetune", *argv) == 0
    assert fm_med.load(tmp_path / "run" / "model").processor.sampling_rate == 100


def test_runs_of_several_seeds_can_have_the_same_folds(place, followed):
    argv = ("--cohort", followed, "--task", "multilabel", "--target", "AFIB", "LVH", *FRESH)
    argv = (*argv, "--peft", "none", "--folds", 2)
    found = {}
    for seed, cut in ((0, None), (5, 0), (5, None)):
        flags = ("--seed", seed, *(() if cut is None else ("--fold_seed", cut)))
        folder = place / f"seed{seed}-{cut}"
        assert launch("finetune", *argv, *flags, "--output", folder) == 0
        found[seed, cut] = read_table(folder / "out_of_fold.csv")
    members = {key: set(zip(t["fold"], t["record_id"])) for key, t in found.items()}
    assert members[0, None] == members[5, 0] != members[5, None]
    first, other = (found[key]["probability_AFIB"] for key in ((0, None), (5, 0)))
    assert not np.array_equal(first, other)  # other weights
