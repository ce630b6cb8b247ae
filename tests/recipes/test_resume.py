"""Kill -9 where it hurts most, then --resume: every byte as in the run that nobody killed."""

import json
import signal

import pytest
import torch
from forked import run

from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.processor import EcgProcessor

# Augmentation is on by default; dropout comes with the encoder. Both draw random numbers.
FLAGS = ("--num_epochs", 2, "--per_device_batch_size", 16, "--micro_batch_size", 4)
FLAGS += ("--checkpoint_every", 2, "--ema_decay", 0.9)
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def argv(place, simulated, bert):
    """A run of two epochs, six steps each, of an encoder with dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = DualAttentionModel(DualAttentionConfig(dropout=0.2))
    encoder.save_pretrained(place / "dropout")
    EcgProcessor().save_pretrained(place / "dropout")
    return ("--cohort", simulated, "--text_encoder", bert, "--encoder", place / "dropout", *FLAGS)


def outcome(folder):
    """What must not depend on where a run was cut."""
    files = [*folder.glob("model/**/*"), *folder.glob("checkpoints/**/*.safetensors")]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("samples_per_second", "data_wait")
    return {
        "bytes": {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()},
        "rows": [{k: v for k, v in row.items() if k not in timed} for row in rows],
        "metrics": (folder / "report" / "metrics.json").read_text(),
    }


def assert_equal(found, expected):
    assert found["rows"] == expected["rows"]
    assert found["bytes"].keys() == expected["bytes"].keys()
    different = [name for name in found["bytes"] if found["bytes"][name] != expected["bytes"][name]]
    assert different == []
    assert found["metrics"] == expected["metrics"]


def left_overs(folder):
    return [path.name for path in folder.rglob(".*")]


def test_killed_seven_times(argv, tmp_path):
    whole = tmp_path / "whole"
    log = tmp_path / "log"
    assert run(*argv, "--output", whole, log=log, kill=None) == [0], log.read_text()

    folder = tmp_path / "killed"
    # Four files make a checkpoint, so the sixth is the second one's optimiser.
    kills = {
        "before the first checkpoint": ("fm_med.run", "Run.log", 2, "after"),
        "in a checkpoint's second file": ("fm_med.checkpoint", "save_file", 6, "half"),
        "before a checkpoint gets its name": ("fm_med.checkpoint", "Path.write_text", 1, "before"),
        "in the best weights": ("fm_med.best_weights", "save_file", 1, "half"),
        "between epoch and checkpoint": ("fm_med.run", "Run.save", 2, "before"),
        "in the report": ("fm_med.pretraining_report", "write_report", 1, "before"),
        "in the model": ("fm_med.hub.saving", "_check_encoder", 1, "before"),
    }
    resume = ()
    for moment, kill in kills.items():
        status = run(*argv, "--output", folder, *resume, log=log, kill=kill)
        assert status == [KILLED], (moment, log.read_text())
        assert not (folder / "model").exists()
        resume = ("--resume",)
    assert left_overs(folder)  # of the kill while the model was written
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "epoch": 2, "lo')  # a line cut by a crash
    assert run(*argv, "--output", folder, "--resume", log=log) == [0], log.read_text()
    assert left_overs(folder) == []
    assert_equal(outcome(folder), outcome(whole))


def test_two_processes_of_which_one_is_killed_in_a_checkpoint(argv, tmp_path):
    log = tmp_path / "log"
    argv = (*argv, "--per_device_batch_size", 8, "--num_epochs", 1)
    assert run(*argv, "--output", tmp_path / "whole", log=log, processes=2) == [0, 0], (
        log.read_text()
    )
    argv = (*argv, "--output", tmp_path / "killed")
    kill = ("fm_med.checkpoint", "save_file", 6, "half")
    assert run(*argv, log=log, processes=2, kill=kill)[0] == KILLED
    assert run(*argv, "--resume", log=log, processes=2) == [0, 0], log.read_text()
    assert_equal(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


def test_another_number_of_processes_is_refused(argv, tmp_path):
    log = tmp_path / "log"
    argv = (*argv, "--num_epochs", 1, "--output", tmp_path / "run")
    assert run(*argv, log=log, kill=("fm_med.run", "Run.log", 4, "after")) == [KILLED]
    assert run(*argv, "--resume", log=log, processes=2) == [2, 2]
    assert "was written by 1 process(es) and this run has 2" in log.read_text()
