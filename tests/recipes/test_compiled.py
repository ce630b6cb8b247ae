"""A run with --compile is the same run: the compiler is replaced by one that changes nothing."""

import json

import pytest
import torch
from in_process import launch
from safetensors.torch import load_file

from fm_med import distributed

SHORT = ("--num_epochs", 1, "--per_device_batch_size", 16)
SMALL = '--encoder_settings={"num_layers": 1, "hidden_size": 48}'


def losses_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize(
    ("name", "more"),
    [("ecg_pretrain", ()), ("finetune", ("--encoder", "vit1d", "--peft", "lora", SMALL))],
    ids=["pretrain", "lora"],
)
def test_a_compiled_run_has_the_same_losses_and_weights(
    name, more, simulated, bert, tmp_path, monkeypatch
):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(distributed, "COMPILER", backend)
    argv = ["--cohort", simulated, *SHORT, *more]
    if name == "ecg_pretrain":
        argv += ["--text_encoder", bert, "--probe_labels", 20]
    assert launch(name, *argv, "--output", tmp_path / "plain") == 0
    assert not compiled
    assert launch(name, *argv, "--compile", "--output", tmp_path / "compiled") == 0
    assert compiled
    torch.compiler.reset()
    plain, faster = losses_of(tmp_path / "plain"), losses_of(tmp_path / "compiled")
    assert len(plain) > 1
    assert faster == pytest.approx(plain, rel=1e-6)
    weights = [
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("plain", "compiled")
    ]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-5, atol=1e-6)
