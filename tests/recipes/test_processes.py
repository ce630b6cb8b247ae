"""Two processes are one run: the same losses as one process with the double batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import run
from in_process import REPOSITORY

# One step's rounding errors differ between ways to cut a batch; these runs take twelve steps.
TOLERANCE = 1e-3


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder, name):
    return np.array([row[name] for row in rows(folder) if name in row])


def values(node):
    """Every value of a nested metrics.json, in its order."""
    if isinstance(node, dict):
        own = [node["value"]] if isinstance(node.get("value"), float) else []
        return own + [value for child in node.values() for value in values(child)]
    return []


def environment(folder):
    return json.loads((folder / "env.json").read_text())


@pytest.fixture(scope="module")
def argv(simulated, bert):
    return ("--cohort", simulated, "--text_encoder", bert, "--probe_labels", 30)


def test_torchrun_trains_two_as_one_with_the_double_batch(finished, place):
    """As its user types it: no variable to remember. Here with micro-batches, there without."""
    folder = place / "torchrun"
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", 2]
    recipe = [REPOSITORY / "recipes" / "ecg_pretrain.py", *finished.argv]
    flags = ["--per_device_batch_size", 8, "--micro_batch_size", 3, "--output", folder]
    command = [str(word) for word in (*torchrun, *recipe, *flags)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr

    assert environment(folder)["num_processes"] == 2
    for number in (1, 2):
        assert done.stdout.count(f"process {number} of 2 on ") == 1
    assert "16 per step on 2 process(es)" in done.stdout
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(finished.folder)]
    for name in ("loss", "grad_norm", "validation_loss", "mean_pairwise_cosine"):
        one, two = (curve(path, name) for path in (finished.folder, folder))
        np.testing.assert_allclose(two, one, rtol=TOLERANCE, err_msg=name)
    reports = [path / "report" / "metrics.json" for path in (finished.folder, folder)]
    one, two = (values(json.loads(path.read_text())) for path in reports)
    assert len(one) > 10
    # Ranks of near-equal scores may change places, so a count of 24 persons may move by one.
    np.testing.assert_allclose(two, one, atol=0.05)


def test_accelerate_launches_one(argv, place):
    """A learning rate that ends the run after its first step: how it began is what matters."""
    folder = place / "accelerate"
    accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu"]
    recipe = [REPOSITORY / "recipes" / "ecg_pretrain.py", *argv, "--per_device_batch_size", 4]
    recipe += ["--learning_rate", 1e30, "--output", folder]
    command = [*accelerate, *map(str, recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert "error: step 2 has loss nan" in done.stderr
    assert done.stdout.count("process 1 of 1 on ") == 1
    assert environment(folder)["num_processes"] == 1


def test_bad_input_ends_every_process_with_one_line(argv, finished, tmp_path):
    log = tmp_path / "log"
    assert run(*argv, "--output", finished.folder, log=log, processes=2) == [2, 2]
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: output") and "--resume" in line for line in lines)


def test_nothing_to_resume_ends_every_process_and_leaves_no_folder(argv, tmp_path):
    log = tmp_path / "log"
    argv = (*argv, "--output", tmp_path / "run", "--resume")
    assert run(*argv, log=log, processes=2) == [2, 2]
    assert log.read_text().count("error: there is no run to resume") == 2
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_ends_all_and_leaves_a_checkpoint(argv, tmp_path):
    log = tmp_path / "log"
    flags = ("--learning_rate", 1e30, "--per_device_batch_size", 4, "--output", tmp_path / "run")
    assert run(*argv, *flags, log=log, processes=2) == [2, 2]
    assert "step 2 has loss nan" in log.read_text()
    last = rows(tmp_path / "run")[-1]
    assert (last["step"], last["failed_loss"], len(set(last["records"]))) == (2, "nan", 8)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_a_full_disk_ends_all_and_leaves_the_earlier_checkpoint(argv, tmp_path):
    log = tmp_path / "log"
    flags = ("--checkpoint_every", 1, "--output", tmp_path / "run", "--per_device_batch_size", 8)
    full = ("fm_med.checkpoint", "save_file", 6, "full")
    assert run(*argv, *flags, log=log, processes=2, kill=full) == [2, 2]
    errors = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert all("step-000002 could not be written (" in line for line in errors)
    assert all("earlier checkpoints are whole" in line for line in errors)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_a_full_disk_at_the_end_is_told_and_the_checkpoints_stay(argv, tmp_path):
    """The report is written again by a resumed run, which has no step left to take."""
    log = tmp_path / "log"
    flags = (*argv, "--output", tmp_path / "run", "--num_epochs", 1)
    full = ("fm_med.pretraining_report", "write_report", 1, "full")
    assert run(*flags, log=log, kill=full) == [2]
    (error,) = (line for line in log.read_text().splitlines() if line.startswith("error:"))
    assert "report and model" in error and "No space left on device" in error
    assert "Traceback" not in log.read_text()
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert not (tmp_path / "run" / "model").exists()
    assert run(*flags, "--resume", log=log) == [0], log.read_text()
    assert (tmp_path / "run" / "report" / "report.html").exists()
    assert [kept] == list((tmp_path / "run" / "checkpoints").glob("step-*"))
