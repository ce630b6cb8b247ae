"""Run by torchrun: train one small model for some steps, sharded by FSDP2 or not.

Accelerate shards on GPUs only. Told after its start that it is sharding, it takes its own FSDP2
path on CPUs as well: `prepare`, `no_sync`, `clip_grad_norm_` and `backward` are the real ones.
"""

import argparse
import json
import math
import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from fm_med import best_weights, checkpoint, optim
from fm_med import distributed as processes
from fm_med.coupled import coupled_backward
from fm_med.objectives import contrastive_loss

DTYPE = torch.float64


def shard(made, **options):
    """Turn an Accelerator of CPU processes into one that shards."""
    for state in (PartialState(), made.state):
        state.distributed_type = DistributedType.FSDP
    made.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **options)
    return made


class Block(nn.Module):
    """A residual step with odd sizes, so that the shards are uneven and some are empty."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 7)
        self.outer = nn.Linear(7, 5)
        self.norm = nn.LayerNorm(5)
        self.dropout = nn.Dropout(0.25)

    def forward(self, x):
        return self.norm(x + self.dropout(self.outer(torch.tanh(self.inner(x)))))


class Towers(nn.Module):
    """An encoder, a projection, a temperature that comes with the rows and one that does not."""

    def __init__(self, dropout):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 5), Block(), Block())
        self.projection = nn.Linear(5, 4, bias=False)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.direct = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.full((4,), 0.5))
        self.to(DTYPE)
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout

    def forward(self, signal, text):
        embedding = nn.functional.normalize(self.projection(self.encoder(signal)), dim=-1)
        scale = self.log_scale[0].exp().repeat(len(signal))
        return {"embedding": embedding, "text": text - self.mean, "scale": scale}


def build(dropout=0.0):
    torch.manual_seed(0)
    model = Towers(dropout)
    groups = optim.parameter_groups(
        {"encoder": model.encoder, "projection": model.projection},
        learning_rates={"encoder": 1e-2, "projection": 3e-2},
        weight_decay=0.1,
    )
    rest = {"params": [model.log_scale, model.direct], "lr": 1e-2, "peak": 1e-2, "name": "scalars"}
    return model, torch.optim.AdamW([*groups, {**rest, "weight_decay": 0.0}])


def batch(step, rows):
    """Return the rows `rows` of a batch of twelve."""
    generator = torch.Generator().manual_seed(step)
    signal, text = (torch.randn(12, n, generator=generator).to(DTYPE) for n in (3, 4))
    ids = torch.arange(12) // 2
    return {"signal": signal[rows], "text": text[rows]}, {"id": ids[rows]}


def row_loss(outputs, targets):
    return 0.1 * (outputs["embedding"] - outputs["text"]).square().sum(1)


def loss_with(model):
    def loss(outputs, targets):
        value = contrastive_loss(
            outputs["embedding"],
            nn.functional.normalize(outputs["text"], dim=-1),
            logit_scale=outputs["scale"][0],
            report_id=targets["id"],
            subject_id=targets["id"],
        )
        return value + (model.direct[0] * outputs["embedding"].sum(0)).square().sum()

    return loss


def reference_step(model, step):
    """One process, one full batch, plain autograd."""
    inputs, targets = batch(step, slice(None))
    outputs = model(**inputs)
    value = loss_with(model)(outputs, targets) + row_loss(outputs, targets).mean()
    value.backward()
    return value.item()


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def relative(found, expected):
    difference = torch.cat([(a - b).flatten() for a, b in zip(found, expected, strict=True)])
    return float(difference.norm() / torch.cat([b.flatten() for b in expected]).norm())


class Trainer:
    """What a recipe's loop does."""

    def __init__(self, made, micro_batch_size, dropout=0.0):
        model, optimizer = build(dropout)
        made.free_memory()
        self.made, self.micro_batch_size = made, micro_batch_size
        self.model, self.optimizer, self.twin = processes.prepare(made, model, optimizer)
        self.average = optim.WeightAverage(self.model, 0.5)
        torch.manual_seed(100 + made.process_index)

    def parts(self):
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return {
            "model": self.model,
            "optimizer": optimizer,
            "accelerator": self.made,
            "average": self.average,
        }

    def backward(self, step):
        rows = [slice(0, 5), slice(5, 12)][self.made.process_index]
        inputs, targets = batch(step, rows)
        plain = self.made.unwrap_model(self.model)
        return coupled_backward(
            self.made,
            self.model,
            inputs,
            targets,
            loss=loss_with(plain),
            row_loss=row_loss,
            micro_batch_size=self.micro_batch_size,
        ).item()

    def steps(self, first, last, max_norm=0.5):
        for step in range(first, last):
            self.backward(step)
            norm = optim.clip_gradients(self.made, self.model, max_norm)
            assert math.isfinite(norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update(step + 1)
        return self

    def state(self):
        options = StateDictOptions(full_state_dict=True)
        model = self.made.unwrap_model(self.model)
        state = {k: v.clone() for k, v in get_model_state_dict(model, options=options).items()}
        with self.average.in_place():
            averaged = get_model_state_dict(model, options=options)
            state |= {f"average.{k}": v.clone() for k, v in averaged.items()}
        return state


def errors_of_a_step(made, micro_batch_size):
    trainer = Trainer(made, micro_batch_size)
    sharded = [m for m in trainer.model.modules() if isinstance(m, FSDPModule)]
    local = sum(p.to_local().numel() for p in trainer.model.parameters())
    whole = sum(p.numel() for p in trainer.model.parameters())
    model, optimizer = build()
    value, expected = trainer.backward(0), reference_step(model, 0)
    gradients = [full(p.grad) for p in trainer.model.parameters()]
    error = relative(gradients, [p.grad for p in model.parameters()])
    norm = optim.clip_gradients(made, trainer.model, 0.5)
    expected_norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5).item()
    trainer.optimizer.step()
    optimizer.step()
    optimizer.zero_grad()
    trainer.optimizer.zero_grad()
    for step in (1, 2):
        reference_step(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    trainer.steps(1, 3)
    weights = relative([full(p) for p in trainer.model.parameters()], [*model.parameters()])
    with processes.whole(made, trainer.model, trainer.twin):
        copied = relative([*trainer.twin.parameters()], [full(p) for p in model.parameters()])
    return {
        "gradient": error,
        "value": abs(value - expected) / abs(expected),
        "norm": abs(norm - expected_norm) / expected_norm,
        "weights": weights,
        "copied": copied,
        "units": len(sharded),
        "share": local / whole,
    }


def resumed_equals_uninterrupted(made, folder):
    """Dropout and two passes: every random number counts."""
    expected = Trainer(made, 3, dropout=0.25).steps(0, 5).state()
    cut = Trainer(made, 3, dropout=0.25).steps(0, 3)
    checkpoint.save_checkpoint(folder, step=3, state={"best": 1}, **cut.parts())
    best_weights.save_best(folder, step=3, module=cut.model, accelerator=made)
    before = cut.state()
    after_saving = cut.steps(3, 5).state()
    fresh = Trainer(made, 3, dropout=0.25).steps(7, 8)
    done, state = checkpoint.resume(folder, **fresh.parts())
    assert (done, state) == (3, {"best": 1})
    found = fresh.steps(3, 5).state()
    if made.is_main_process:
        save_file(before, folder / "before.safetensors")
    return {
        "saved": all(torch.equal(after_saving[k], v) for k, v in expected.items()),
        "resumed": all(torch.equal(found[k], v) for k, v in expected.items()),
        "moved": not torch.equal(before["log_scale"], expected["log_scale"]),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    warnings.simplefilter("error")
    made = processes.accelerator(mixed_precision="no")
    results = {}
    for wrap in ("NO_WRAP", "TRANSFORMER_BASED_WRAP"):
        shard(made, auto_wrap_policy=wrap, transformer_cls_names_to_wrap=["Block"])
        results[wrap] = {
            "one pass": errors_of_a_step(made, None),
            "two passes": errors_of_a_step(made, 3),
            "exact": resumed_equals_uninterrupted(made, output / wrap),
        }
    (output / f"{dist.get_rank()}.json").write_text(json.dumps(results))
    made.end_training()


if __name__ == "__main__":
    main()
