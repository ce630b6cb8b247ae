"""An optimiser spread over processes by DeepSpeed steps, resumes and is saved as a whole one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_worker
import torch
from safetensors.torch import load_file

from fm_med import best_weights
from fm_med.errors import InputError
from fm_med.zero import asked_stage

WORKER = Path(__file__).with_name("zero_worker.py")
STAGES = ("1", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where two processes, really started, wrote what they found."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    folder = tmp_path_factory.mktemp("zero")
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, "--standalone", str(WORKER), str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    environment["DS_ACCELERATOR"] = "cpu"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def results(place):
    return [json.loads((place / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("passes", ["one pass", "two passes"])
def test_steps_equal_those_of_one_process_and_one_full_batch(results, stage, passes):
    for result in results:
        found = result[stage][passes]
        for name in ("gradient", "value", "norm", "weights"):
            assert found[name] <= 1e-5, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimiser_is_really_spread(results, stage):
    for result in results:
        assert 0.4 < result[stage]["one pass"]["share"] < 0.6


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_is_known_before_the_step(results, stage):
    for result in results:
        assert result[stage]["bad"] == {"finite": False, "untouched": True}


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(results, stage):
    for result in results:
        assert result[stage]["exact"] == {"saved": True, "resumed": True, "moved": True}


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_loads_what_was_saved(place, stage, monkeypatch):
    monkeypatch.setattr(sharded_worker, "DTYPE", torch.float32)
    model, _ = sharded_worker.build()
    best_weights.load_best(place / stage, step=3, module=model)
    expected = load_file(place / stage / "before.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    averaged = load_file(place / stage / "step-000003" / "average.safetensors")
    assert all(torch.equal(v, expected[f"average.{k}"]) for k, v in averaged.items())


def test_both_stages_save_the_optimiser_under_the_names_of_the_parameters(place):
    model, _ = sharded_worker.build()
    shapes = {name: value.shape for name, value in model.named_parameters()}
    for stage in STAGES:
        saved = load_file(place / stage / "step-000003" / "optimizer.safetensors")
        for key in ("exp_avg", "exp_avg_sq"):
            assert {name: saved[f"{name}|{key}"].shape for name in shapes} == shapes
        assert {float(saved[f"{name}|step"]) for name in shapes} == {3}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ZERO_STAGE": "3"}, "zero_stage must be 1 or 2, not 3.*fsdp2.yaml"),
        ({"OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "deepspeed_offload_optimizer_device cpu is not"),
        ({"CONFIG_FILE": "zero.json"}, "deepspeed_config_file zero.json is not supported"),
    ],
)
def test_what_is_not_supported_is_refused(monkeypatch, asked, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    assert asked_stage() == 0
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert asked_stage() == 2
    for name, value in asked.items():
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name}", value)
    with pytest.raises(InputError, match=message):
        asked_stage()


def test_without_deepspeed_one_is_told_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="not installed: pip install deepspeed"):
        asked_stage()
