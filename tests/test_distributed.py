"""Processes that are really started: all ranks are seen, rows are joined, gradients come back."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from fm_med import distributed
from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.errors import InputError
from fm_med.lora import attach_lora

WORKER = """
import atexit, json, os, sys
import torch
from torch import distributed as dist
from fm_med.distributed import accelerator, gather_batch, gather_sizes

atexit.register(lambda: print(f"in a group at the end: {dist.is_initialized()}"))
made = accelerator(mixed_precision="no")
rank, world_size = made.process_index, made.num_processes
rows = [3, 1, 2][rank]
weight = torch.full((rows, 2), float(rank + 1), dtype=torch.float64, requires_grad=True)
joined = gather_batch(weight * 2)
# Each process has its own loss here, so the backward pass must add up the processes' gradients.
slope = torch.arange(joined.numel(), dtype=torch.float64).view_as(joined)
((rank + 1) * slope * joined).sum().backward()
result = {
    "ranks": [rank, world_size, dist.get_backend()],
    "sizes": gather_sizes(rows, made.device),
    "joined": joined[:, 0].tolist(),
    "gradient": weight.grad.flatten().tolist(),
    "int": gather_batch(torch.full((rows,), rank)).tolist(),
    "bool": gather_batch(torch.full((rows,), rank == 1)).tolist(),
    "bfloat16": gather_batch(torch.full((rows, 1), rank + 0.5).bfloat16()).flatten().tolist(),
    "requires_grad": [joined.requires_grad, gather_batch(weight.detach()).requires_grad],
    "empty": len(gather_batch(torch.zeros(0 if rank else 2, 3))),
}
with open(os.path.join(sys.argv[1], f"{rank}.json"), "w") as file:
    json.dump(result, file)
"""


def torchrun(script, world_size, *arguments, cwd):
    """Start as a user would, without any variable to remember."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", str(world_size)]
    command = [sys.executable, *launcher, "--standalone", str(script), *arguments]
    environment |= {"PYTHONWARNINGS": "error::FutureWarning", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_torchrun_gives_one_group_that_gathers_with_gradients(tmp_path, world_size):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    done = torchrun(script, world_size, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("in a group at the end: False") == world_size
    rows = [3, 1, 2][:world_size]
    owners = [rank for rank, size in enumerate(rows) for _ in range(size)]
    factor = sum(range(1, world_size + 1)) * 2
    for rank in range(world_size):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["ranks"][:2] == [rank, world_size]
        assert result["sizes"] == rows
        assert result["joined"] == [2.0 * (owner + 1) for owner in owners]
        assert result["int"] == owners
        assert result["bool"] == [owner == 1 for owner in owners]
        assert result["bfloat16"] == [owner + 0.5 for owner in owners]
        assert result["requires_grad"] == [True, False]
        assert result["empty"] == 2
        first = 2 * sum(rows[:rank])
        expected = [factor * (first + k) for k in range(2 * rows[rank])]
        assert result["gradient"] == pytest.approx(expected)


def test_one_process_gathers_nothing():
    tensor = torch.ones(3, requires_grad=True)
    assert distributed.gather_batch(tensor) is tensor
    assert distributed.gather_sizes(3, torch.device("cpu")) == [3]


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    """As when a launcher starts two processes which do not form a group."""
    made = distributed.accelerator(mixed_precision="no")
    assert made.num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match="2 processes were launched but this run sees 1; .*torchrun"
    ):
        distributed.accelerator(mixed_precision="no")


def test_auto_precision_is_bf16_only_where_it_is_native(monkeypatch):
    for names, expected in (({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda names=names: names, raising=False)
        assert distributed.native_bf16("cpu") is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert distributed.native_bf16("cpu") is False
    assert distributed.native_bf16("cuda") is torch.cuda.is_available()


class Encoder(torch.nn.Module):
    """A layer in a module of one's own: `torch.compile` leaves torch's modules as they are."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.layer(x))


class Tower(torch.nn.Module):
    """As little of what the recipes train as `prepare` needs: an encoder and something else."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.head = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


@pytest.mark.parametrize("compiled", [False, True])
def test_compiling_replaces_the_encoders_code_and_nothing_else(compiled, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(distributed, "COMPILER", backend)
    model, x = Tower(), torch.randn(4, 3)
    wanted, names = model(x), list(model.state_dict())
    made = distributed.accelerator(mixed_precision="no")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained, _, whole = distributed.prepare(made, model, optimizer, compiled=compiled)
    torch.testing.assert_close(trained(x), wanted, rtol=0, atol=0)
    assert len(graphs) == compiled
    assert whole is model
    assert list(whole.state_dict()) == names
    trained(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.compiler.reset()


def test_adapters_that_are_made_at_each_pass_are_not_compiled():
    model = Tower()
    model.encoder = DualAttentionModel(DualAttentionConfig())
    attach_lora(model.encoder)
    made = distributed.accelerator(mixed_precision="no")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="stacked parameters of DualAttentionModel"):
        distributed.prepare(made, model, optimizer, compiled=True)
