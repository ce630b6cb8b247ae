"""Run by torchrun: train the small model of `sharded_worker` with DeepSpeed's ZeRO, in float32."""

import argparse
import json
import math
import os
from pathlib import Path

import deepspeed
import sharded_worker
import torch
from deepspeed.utils import safe_get_full_grad
from sharded_worker import Trainer, batch, build, loss_with, reference_step, relative, row_loss
from torch import distributed as dist
from torch import nn

from fm_med import distributed as processes
from fm_med import optim
from fm_med.coupled import coupled_backward


def errors_of_a_step(made, micro_batch_size):
    trainer = Trainer(made, micro_batch_size)
    model, optimizer = build()
    value, expected = trainer.backward(0), reference_step(model, 0)
    engine = trainer.model
    gradients = [safe_get_full_grad(p).clone() for p in engine.module.parameters()]
    error = relative(gradients, [p.grad for p in model.parameters()])
    norm = optim.clip_gradients(made, engine, 0.5)
    expected_norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5).item()
    trainer.optimizer.step()
    optimizer.step()
    optimizer.zero_grad()
    for step in (1, 2):
        reference_step(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    trainer.steps(1, 3)
    own = sum(flat.numel() for flat in engine.optimizer.single_partition_of_fp32_groups)
    return {
        "gradient": error,
        "value": abs(value - expected) / abs(expected),
        "norm": abs(norm - expected_norm) / expected_norm,
        "weights": relative([*engine.module.parameters()], [*model.parameters()]),
        "share": own / sum(p.numel() for p in model.parameters()),
    }


def step_that_is_not_finite(made):
    """A batch with one bad row on one process: what is known before the step, what it would do."""
    trainer = Trainer(made, 3).steps(0, 1)
    before = trainer.state()
    rows = [slice(0, 5), slice(5, 12)][made.process_index]
    inputs, targets = batch(1, rows)
    if made.process_index == 1:
        inputs["signal"][0] = math.nan
    coupled_backward(
        made,
        trainer.model,
        inputs,
        targets,
        loss=loss_with(trainer.model.module),
        row_loss=row_loss,
        micro_batch_size=3,
    )
    norm = optim.clip_gradients(made, trainer.model, 0.5)
    after = trainer.state()
    return {
        "finite": math.isfinite(norm),
        "untouched": all(torch.equal(after[name], value) for name, value in before.items()),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled now
    sharded_worker.DTYPE = torch.float32  # in which DeepSpeed keeps what it trains
    results = {}
    for stage in ("1", "2"):
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
        made = processes.accelerator(mixed_precision="no")
        results[stage] = {
            "one pass": errors_of_a_step(made, None),
            "two passes": errors_of_a_step(made, 3),
            "bad": step_that_is_not_finite(made),
            "exact": sharded_worker.resumed_equals_uninterrupted(made, output / stage),
        }
    (output / f"{dist.get_rank()}.json").write_text(json.dumps(results))
    made.end_training()


if __name__ == "__main__":
    main()
