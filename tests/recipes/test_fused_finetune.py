"""Fine-tuning on ECGs and a table together: from a shell, evaluated, predicted, and worth it."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from forked import run
from in_process import REPOSITORY, launch
from joined_cohorts import joined

import fm_med
from fm_med import cli
from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.rna.storage import encode, expression_fields
from fm_med.sources.join import join_cohorts
from fm_med.sources.join_sides import JoinRules
from fm_med.sources.simulated import make_simulated
from fm_med.survival.concordance import concordance_index

TINY = {"strides": [8, 4], "widths": [8, 8], "hidden_size": 16, "lead_heads": 2, "pooled_size": 24}
SMALL_TABLE = {"second": {"hidden_size": 8, "num_members": 2}}
SHORT = ("--num_epochs", 2, "--per_device_batch_size", 32, "--dropout", 0)
ORACLE = ("log_hazard_all", "log_hazard_ecg", "log_hazard_findings", "log_hazard_age")


@pytest.fixture(scope="module")
def both(place):
    """ECGs of 120 persons of whom 40 % have the event, and a table of four of five of them."""
    ecgs = make_simulated(place / "fused-ecgs", subjects=120, seed=4, event_share=0.4, workers=1)
    return joined(place / "fused", ecgs, JoinRules(drop_first=ORACLE))


@pytest.fixture(scope="module")
def ecg_run(place, both):
    """An ECG encoder fine-tuned alone."""
    settings = ("--encoder", "dual_attention", "--encoder_settings", json.dumps(TINY))
    argv = ("--cohort", place / "fused-ecgs", *settings, "--num_epochs", 1, "--dropout", 0)
    assert launch("finetune", *argv, "--output", place / "ecg-run") == 0
    return place / "ecg-run"


@pytest.fixture(scope="module")
def mixed(place, both, ecg_run):
    """A run from a shell: adapters on the saved ECG encoder, a new one of the table."""
    argv = ("--cohort", both.path, "--encoder", ecg_run / "model", "--second_encoder", "tabm")
    argv = (*argv, "--encoder_settings", json.dumps(SMALL_TABLE), "--peft", "lora", *SHORT)
    recipe = REPOSITORY / "recipes" / "finetune.py"
    output = ("--learning_rate", 0.01, "--output", place / "mixed")
    words = [str(w) for w in (sys.executable, "-W", "error", recipe, *argv, *output)]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return place / "mixed", done.stdout


def weights(folder, part=""):
    model = fm_med.load(folder / "model").encoder
    return {k: v for k, v in (getattr(model, part) if part else model).state_dict().items()}


def test_adapters_on_what_is_saved_and_all_of_what_is_new(mixed, ecg_run):
    folder, printed = mixed
    assert "peft lora, as asked; tabm is new, so all of it is trained" in printed
    before, after = weights(ecg_run), weights(folder, "first")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and len(changed) < len(before)
    assert all("proj" in name or "fc" in name or "patch" in name for name in changed), changed
    told = json.loads((folder / "model" / "task.json").read_text())["training"]
    assert told["encoder"].endswith("model+tabm") and told["peft"] == "lora"


def test_a_saved_fusion_predicts_and_is_evaluated(mixed, both, tmp_path, capsys):
    folder, _ = mixed
    report = tmp_path / "report"
    argv = ("--model", folder / "model", "--cohort", both.path, "--output", report)
    assert launch("evaluate", *argv) == 0, capsys.readouterr().err
    found = json.loads((report / "metrics.json").read_text())
    assert {"age_sex", "random_encoder"} <= found["baselines"].keys()
    words = ["predict", folder / "model", "--cohort", both.path, "--output", tmp_path / "p.csv"]
    assert cli.main([str(word) for word in words]) == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    predicted = fm_med.load(folder / "model").predict(both.splits["test"])["log_hazard"]
    np.testing.assert_allclose([float(r["log_hazard"]) for r in rows], predicted, atol=1e-5)
    with (folder / "report" / "predictions.csv").open() as file:
        told = [float(r["log_hazard"]) for r in csv.DictReader(file) if r["split"] == "test"]
    np.testing.assert_allclose(told, predicted, atol=1e-5)
    capsys.readouterr()
    ecgs = both.path.with_name("fused-ecgs")
    words = ["predict", folder / "model", "--cohort", ecgs, "--output", tmp_path / "q.csv"]
    assert cli.main([str(word) for word in words]) == 2
    assert "fused-ecgs holds ecg, which" in capsys.readouterr().err
    assert launch("evaluate", *argv[:2], "--cohort", ecgs, "--output", tmp_path / "r") == 2
    assert "holds ecg, but the model was trained on" in capsys.readouterr().err


def test_a_frozen_encoder_beside_a_new_one_keeps_every_bit(place, both, ecg_run, mixed, capsys):
    argv = ("--cohort", both.path, "--encoder", ecg_run / "model", "--second_encoder", "tabm")
    argv = (*argv, "--encoder_settings", json.dumps(SMALL_TABLE), "--peft", "none", *SHORT)
    assert launch("finetune", *argv, "--output", place / "half") == 0
    assert "peft none, as asked; tabm is new, so all of it is trained" in capsys.readouterr().out
    before, after = weights(ecg_run), weights(place / "half", "first")
    assert all(torch.equal(before[name], after[name]) for name in before)
    model = fm_med.load(place / "half" / "model")
    assert model.details["training"]["peft"] == "none"
    assert (place / "half" / "metrics.jsonl").read_text().count('"loss"') > 2  # there was a loop


def test_two_frozen_encoders_share_their_features_between_the_folds(place, both, mixed):
    """And what the folds report is what the saved model predicts."""
    argv = ("--cohort", both.path, "--encoder", mixed[0] / "model", "--peft", "none", "--folds", 2)
    assert launch("finetune", *argv, "--output", place / "fused_frozen") == 0
    before, after = weights(mixed[0]), weights(place / "fused_frozen")
    assert all(torch.equal(before[name], after[name]) for name in before)
    model = fm_med.load(place / "fused_frozen" / "model")
    rows = both.splits["test"]
    with (place / "fused_frozen" / "report" / "predictions.csv").open() as file:
        told = [float(r["log_hazard"]) for r in csv.DictReader(file) if r["split"] == "test"]
    np.testing.assert_allclose(model.predict(rows)["log_hazard"], told, atol=1e-5)
    found = json.loads((place / "fused_frozen" / "report" / "metrics.json").read_text())
    c = concordance_index(np.asarray(rows["time"]), np.asarray(rows["event"]), np.array(told))
    assert c == pytest.approx(found["model"]["c_index"]["value"], abs=1e-9)


def test_two_processes_are_one_although_rows_lack_a_table(place, both, tmp_path):
    """Few rows for each, of which one in five has a table: often one process has none."""
    rare = joined(tmp_path / "rare", place / "fused-ecgs", leave_out=lambda k: k % 5 > 0)
    settings = SMALL_TABLE | {"first": TINY, "modality_dropout": 0.0}
    settings["second"] = settings["second"] | {"dropout": 0.0, "sampling": "none"}
    argv = ("--cohort", rare.path, "--encoder", "dual_attention+tabm", "--dropout", 0)
    argv = (*argv, "--encoder_settings", json.dumps(settings), "--num_epochs", 1)
    losses = []
    for number, size in ((1, 4), (2, 2)):
        folder, log = tmp_path / str(number), tmp_path / "log"
        more = ("--per_device_batch_size", size, "--output", folder)
        ended = run(*argv, *more, log=log, processes=number, recipe="finetune")
        assert ended == [0] * number, log.read_text()
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) > 10
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_bad_names_are_refused_in_one_line(both, place, ecg_run, tmp_path, capsys):
    ecgs, saved = place / "fused-ecgs", ("--encoder", ecg_run / "model")
    kept = ("--save_adapter", "--peft", "lora")
    for words, message in (
        (("--cohort", ecgs, "--second_encoder", "tabm"), "holds ecg alone"),
        (("--cohort", both.path, "--encoder", "vit1d"), "name the other one in --second_encoder"),
        (
            ("--cohort", both.path, *saved, "--second_encoder", "tabm", *kept),
            "an adapter belongs to one saved encoder",
        ),
        (
            ("--cohort", both.path, "--encoder", "vit1d+tabm", "--reconstruction_weight", 0.5),
            "ecg+tabular has no decoder",
        ),
    ):
        assert launch("finetune", *words, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------- An outcome that depends on both


def make_halves(place):
    """Expression and a table, each of which explains half of a number; apart and joined."""
    rng = np.random.default_rng(1)
    rows, genes = 500, [f"ENSG{k:011d}" for k in range(1, 9)]
    expression, table = rng.normal(size=(rows, 8)), rng.normal(size=(rows, 3))
    target = expression[:, :2].sum(1) + table[:, 0] * 1.4 + rng.normal(size=rows) * 0.3
    splits = np.array(["train"] * 340 + ["validation"] * 60 + ["test"] * 100)
    ids = [f"p{k}" for k in range(rows)]
    columns = {"subject_id": pa.array(ids), "record_id": pa.array(ids)}
    fields = [pa.field(name, pa.string()) for name in ("subject_id", "record_id", "split")]
    of_rna = [*fields, *expression_fields(genes, "log1p_tpm"), pa.field("target", pa.float64())]
    encoded = columns | encode(expression + 5) | {"target": pa.array(target)}
    of_table = fields + [
        pa.field(name, pa.float64(), metadata={"input": "numeric"}) for name in "abc"
    ]
    cells = columns | {name: pa.array(table[:, k]) for k, name in enumerate("abc")}
    for name, modality, schema, values in (
        ("rna", "rna", of_rna, encoded),
        ("table", "tabular", of_table, cells | {"target": pa.array(target)}),
    ):
        schema = pa.schema(
            [*schema, pa.field("target", pa.float64())] if name == "table" else schema
        )
        card = CohortCard(name=name, modality=modality, units="log1p_tpm")
        every = pa.table({k: v for k, v in values.items() if k in schema.names})
        with CohortWriter(place / f"half-{name}", card, schema) as writer:
            for split in dict.fromkeys(splits):
                writer.write(str(split), every.filter(pa.array(splits == split)))
    folder = join_cohorts(
        place / "half-rna",
        place / "half-table",
        place / "halves",
        JoinRules(drop_second=("target",)),
    )
    return open_cohort(folder)


@pytest.fixture(scope="module")
def halves(place):
    return make_halves(place)


def r2(folder, rows):
    predicted = fm_med.load(folder / "model").predict(rows)["value"]
    target = np.asarray(rows["target"])
    return 1 - np.square(predicted - target).mean() / target.var()


def test_both_together_know_more_than_either_alone(halves, place):
    argv = ("--task", "regression", "--num_epochs", 12, "--per_device_batch_size", 32)
    argv = (*argv, "--learning_rate", 0.005, "--dropout", 0)
    gene = {"num_tokens": 2, "hidden_size": 8, "num_heads": 2, "linear_size": 8}
    gene |= {"gene_dropout": 0.0, "dropout": 0.0}
    table = {"hidden_size": 16, "num_members": 4, "dropout": 0.0}
    scores = {}
    for name, encoder, settings in (
        ("half-rna", "gene_attention", gene),
        ("half-table", "tabm", table),
        ("halves", "gene_attention+tabm", {"first": gene, "second": table}),
    ):
        more = ("--encoder", encoder, "--encoder_settings", json.dumps(settings))
        output = place / f"run-{name}"
        assert launch("finetune", "--cohort", place / name, *argv, *more, "--output", output) == 0
        scores[name] = r2(output, open_cohort(place / name).splits["test"])
    assert scores["halves"] > max(scores["half-rna"], scores["half-table"]) + 0.2
    assert scores["halves"] > 0.8
    # Trained on persons who have both; one who lacks one is predicted by the other.
    rows = halves.splits["test"]
    nothing = pa.array([False] * rows.num_rows)
    for absent, other in (("tabular", "half-rna"), ("rna", "half-table")):
        column = rows.column_names.index(f"has_{absent}")
        hidden = rows.set_column(column, f"has_{absent}", nothing)
        assert r2(place / "run-halves", hidden) > scores[other] - 0.1
