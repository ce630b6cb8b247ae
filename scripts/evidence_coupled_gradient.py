"""Does the gradient of a step depend on how the batch is cut? Print the table that says no.

For 1, 2 and 3 processes, micro-batches of the full, half and an eighth of a process's rows, four
losses, and batches that divide evenly or leave the last process one row without an event: the
relative error of the gradient against one process and one pass over the full batch.

    python scripts/evidence_coupled_gradient.py
"""

import argparse
import json
import math
import os
import socket
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn
from torch.nn import functional

from fm_med.coupled import coupled_backward
from fm_med.distributed import accelerator
from fm_med.objectives import contrastive_loss, cox_loss, siglip_loss

ROWS = {"even": 24, "ragged": 17}
CUTS = {"full": 1, "1/2": 2, "1/8": 8}
LOSSES = ("InfoNCE", "SigLIP", "Cox Breslow", "Cox Efron")


class Towers(nn.Module):
    """A small pair of towers that owns the temperature, with a buffer as real models have."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16))
        self.signal = nn.Linear(16, 8)
        self.text = nn.Linear(5, 8)
        self.risk = nn.Linear(16, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("text_mean", torch.full((5,), 0.1))

    def forward(self, signal: Tensor, report: Tensor) -> dict[str, Tensor]:
        """Return embeddings and log-hazard of every row."""
        hidden = self.encoder(signal)
        return {
            "signal": functional.normalize(self.signal(hidden), dim=-1),
            "text": functional.normalize(self.text(report - self.text_mean), dim=-1),
            "log_hazard": self.risk(hidden).squeeze(-1),
        }


def batch(rows: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return inputs and targets; ties, repeated reports, and no event in the last third."""
    generator = torch.Generator().manual_seed(rows)
    inputs = {
        "signal": torch.randn(rows, 6, generator=generator, dtype=torch.float64).to(dtype),
        "report": torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype),
    }
    event = torch.rand(rows, generator=generator) < 0.7
    event[rows * 2 // 3 - 1 :] = False
    targets = {
        "report_id": torch.randint(rows // 2, (rows,), generator=generator),
        "time": torch.randint(1, 6, (rows,), generator=generator).to(dtype),
        "event": event,
    }
    return inputs, targets


def loss_function(name: str, model: Towers) -> Any:
    """Return a function of the whole batch's outputs and targets."""

    def coupled(outputs: Any, targets: Any) -> Tensor:
        # Every parameter takes part, as DDP wants it; what is added has a gradient of its own.
        scale = model.log_scale.exp()
        if name.startswith("Cox"):
            follow_up = {"time": targets["time"], "event": targets["event"]}
            value = cox_loss(outputs["log_hazard"], ties=name.split()[1].lower(), **follow_up)
            unused = (outputs["signal"] * outputs["text"]).sum(1).mean() * scale + model.bias
            return value + 0.01 * unused
        ids = {"report_id": targets["report_id"]}
        pair = outputs["signal"], outputs["text"]
        unused = 0.01 * outputs["log_hazard"].square().mean()
        if name == "InfoNCE":
            return contrastive_loss(*pair, logit_scale=scale, **ids) + unused + 0.01 * model.bias
        return siglip_loss(*pair, logit_scale=scale, logit_bias=model.bias, **ids) + unused

    return coupled


def row_loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Return a loss that does not couple rows."""
    return 0.1 * (outputs["log_hazard"] - targets["time"]).square()


def towers(dtype: torch.dtype) -> Towers:
    """Return the same model in every process."""
    torch.manual_seed(0)
    return Towers().to(torch.float64).to(dtype)


def flat_gradient(model: nn.Module) -> Tensor:
    """Return all gradients in one vector of float64."""
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


def reference(name: str, rows: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return gradient and loss of one process and one full batch, by plain autograd."""
    model = towers(dtype)
    inputs, targets = batch(rows, dtype)
    outputs = model(**inputs)
    value = loss_function(name, model)(outputs, targets) + row_loss(outputs, targets).mean()
    value.backward()
    return flat_gradient(model), value.item()


def measure(rank: int, world_size: int, port: int, folder: str) -> None:
    """Run every case in one process of a group; the first one writes the errors."""
    if world_size > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
        }
    torch.set_num_threads(1)
    made = accelerator(mixed_precision="no")
    results = []
    cases = product(LOSSES, ROWS.items(), CUTS.items(), (torch.float64, torch.float32))
    for name, (kind, rows), (cut, parts), dtype in cases:
        inner = towers(dtype)
        model = made.prepare(inner)
        share = math.ceil(ROWS["even"] / world_size)
        if kind == "ragged":
            share = (rows - 1) // (world_size - 1) if world_size > 1 else rows
        own = slice(rank * share, min((rank + 1) * share, rows))
        inputs, targets = ({k: v[own] for k, v in d.items()} for d in batch(rows, dtype))
        value = coupled_backward(
            made,
            model,
            inputs,
            targets,
            loss=loss_function(name, inner),
            row_loss=row_loss,
            micro_batch_size=math.ceil(share / parts),
        )
        expected, expected_value = reference(name, rows, dtype)
        difference = (flat_gradient(inner) - expected).norm() / expected.norm()
        results.append(
            {
                "world_size": world_size,
                "loss": name,
                "batch": kind,
                "micro_batch": cut,
                "dtype": str(dtype).removeprefix("torch."),
                "error": float(difference),
                "value_error": abs(float(value) - expected_value) / abs(expected_value),
            }
        )
    if rank == 0:
        Path(folder, f"{world_size}.json").write_text(json.dumps(results))
    made.end_training()


def run(world_sizes: list[int]) -> list[dict[str, Any]]:
    """Start the processes of each world size and collect their results."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for world_size in world_sizes:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            arguments = (world_size, port, folder)
            multiprocessing.spawn(measure, arguments, nprocs=world_size, join=True)
            results += json.loads(Path(folder, f"{world_size}.json").read_text())
    return results


def table(results: list[dict[str, Any]], dtype: str) -> str:
    """Return Markdown: a row per loss and batch, a column per world size and micro-batch."""
    columns = list(dict.fromkeys((r["world_size"], r["micro_batch"]) for r in results))
    lines = ["| loss, batch | " + " | ".join(f"W={w}, {m}" for w, m in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, kind in product(LOSSES, ROWS):
        chosen = {
            (r["world_size"], r["micro_batch"]): r["error"]
            for r in results
            if (r["loss"], r["batch"], r["dtype"]) == (name, kind, dtype)
        }
        lines.append(
            f"| {name}, {kind} | " + " | ".join(f"{chosen[c]:.0e}" for c in columns) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a table per precision, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world_sizes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    results = run(options.world_sizes)
    for dtype in ("float64", "float32"):
        worst = max(r["error"] for r in results if r["dtype"] == dtype)
        print(f"\nRelative error of the gradient, {dtype}, at most {worst:.1e}\n")
        print(table(results, dtype))
    if options.output:
        options.output.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
