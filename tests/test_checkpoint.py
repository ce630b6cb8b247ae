"""Checkpoints: exact, whole or absent, and refused when they do not fit."""

import json
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fm_med import checkpoint
from fm_med.checkpoint import (
    checkpoint_fault,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from fm_med.errors import InputError


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 1e-2, "peak": 1e-2, "name": "encoder"},
        {"params": model[2].parameters(), "lr": 1e-3, "peak": 1e-3, "name": "heads"},
    ]
    return model, torch.optim.AdamW(groups)


def train(model, optimizer, steps):
    """Steps that use every random generator, so that a lost one shows."""
    for _ in range(steps):
        x = torch.randn(16, 4) * float(np.random.rand()) + random.random()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def save(folder, step, model, optimizer, **settings):
    save_checkpoint(
        folder,
        step=step,
        model=model,
        optimizer=optimizer,
        accelerator=Accelerator(cpu=True),
        state={"best": 0.5},
        **settings,
    )


def test_training_goes_on_bit_for_bit(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 5)
    save(tmp_path, 5, model, optimizer)
    train(model, optimizer, 5)

    other, other_optimizer = make(seed=1)
    train(other, other_optimizer, 2)
    step, state = load_checkpoint(
        tmp_path / "step-000005",
        model=other,
        optimizer=other_optimizer,
        accelerator=Accelerator(cpu=True),
    )
    assert (step, state) == (5, {"best": 0.5})
    train(other, other_optimizer, 5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_last_ones_are_kept(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 1)
    for step in (1, 2, 3, 10):
        save(tmp_path, step, model, optimizer, keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3, 10]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest", "no manifest"])
def test_a_torn_checkpoint_is_recognised_and_the_one_before_is_used(tmp_path, damage, capsys):
    model, optimizer = make()
    train(model, optimizer, 1)
    save(tmp_path, 1, model, optimizer)
    save(tmp_path, 2, model, optimizer)
    newest = tmp_path / "step-000002"
    weights = newest / "model.safetensors"
    manifest = newest / "checkpoint.json"
    content = bytearray(weights.read_bytes())
    match damage:
        case "truncate":
            weights.write_bytes(content[:-7])
        case "flip":
            content[-1] ^= 1
            weights.write_bytes(content)
        case "delete":
            weights.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:-20])
        case "no manifest":
            manifest.unlink()
    assert checkpoint_fault(newest)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000001"
    assert "step-000002 is torn" in capsys.readouterr().err


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    model, optimizer = make()
    train(model, optimizer, 1)
    save(tmp_path, 1, model, optimizer)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match="No space left on device.*earlier checkpoints are whole"):
        save(tmp_path, 2, model, optimizer)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000001"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001"]


def test_another_number_of_processes_is_refused(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 1)
    save(tmp_path, 1, model, optimizer)
    manifest = tmp_path / "step-000001" / "checkpoint.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"num_processes": 2}))
    with pytest.raises(InputError, match="2 process"):
        load_checkpoint(
            tmp_path / "step-000001",
            model=model,
            optimizer=optimizer,
            accelerator=Accelerator(cpu=True),
        )


def test_another_schema_is_refused_naming_both_versions(tmp_path):
    model, optimizer = make()
    save(tmp_path, 1, model, optimizer)
    manifest = tmp_path / "step-000001" / "checkpoint.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema 99.*reads schema 1"):
        checkpoint_fault(tmp_path / "step-000001")
