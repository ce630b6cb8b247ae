"""Pretraining on a GPU: samples per second of each ECG encoder, share of the peak, loader's wait.

    python scripts/bench_gpu.py [--encoders dual_attention resnet1d vit1d] [--batch 512]
    python scripts/bench_gpu.py --device cpu --subjects 40 --batch 8 --steps 1 --rounds 1

Without a GPU it says so and ends well; `--device cpu` tries the program itself, its figures then
mean nothing. The plain way: float32 without TF32, attention without a fused kernel, batches read,
processed and augmented on the host between two steps and copied from ordinary memory. Ours is what
the recipe does on a GPU with `--compile`: bfloat16, fused attention, a compiled encoder (timed
after it was compiled), int16 samples copied from pinned memory ahead of time in a stream of their
own, processed and augmented on the device; convolutions are channels-last where they are 2-D.
Simulated ECGs at 100 Hz, random report embeddings. Wall clock.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_pretrain import Ours
from side_by_side import Row, parser, present, turns
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fm_med import distributed
from fm_med.cohort import open_cohort
from fm_med.ecg.vit1d import ViT1dConfig, ViT1dModel
from fm_med.pairs import Batch, Pairs
from fm_med.sources.simulated import make_simulated

PLAIN = "fp32, no fused attention, eager, work on the host between steps; written again plainly"
PEAK_AIM, WAIT_AIM = 40.0, 2.0
TEXT_DIM, TOKENS = 768, 100
# The default transformer, and one of ViT-base's size; both of 100 tokens.
TRANSFORMERS: dict[str, dict[str, int]] = {
    "vit1d": {},
    "vit1d of ViT-base's size": {"hidden_size": 768, "num_heads": 12},
}


def pairs_of(folder: Path, subjects: int) -> Pairs:
    """Simulate the training pairs; the report embeddings are random."""
    cohort = open_cohort(make_simulated(folder, subjects=subjects))
    report = cohort.column("train", "report")
    count = len(report)
    random = np.random.default_rng(0)
    return Pairs(
        cohort=cohort,
        split="train",
        rows=np.arange(count),
        report=list(report),
        report_embedding=random.standard_normal((count, TEXT_DIM), dtype=np.float32),
        report_id=np.arange(count),
        subject_id=np.asarray(cohort.column("train", "subject_id")),
        person=np.arange(count),
    )


class Fast(Ours):
    """The recipe with bfloat16 and a compiled encoder."""

    def __init__(self, pairs: Pairs, encoder: str, batch: int) -> None:
        settings = {"encoder": encoder, "per_device_batch_size": batch, "mixed_precision": "no"}
        super().__init__(pairs, {}, compile=True, **settings)
        # As Accelerate does; one process has one precision for all its runs.
        half = torch.autocast(self.accelerator.device.type, torch.bfloat16)
        self.model.forward = half(self.model.forward)


class Plain(Ours):
    """The same training with nothing that a GPU needs."""

    def __init__(self, pairs: Pairs, encoder: str, batch: int) -> None:
        settings = {"encoder": encoder, "per_device_batch_size": batch, "mixed_precision": "no"}
        super().__init__(pairs, {}, **settings)

    def steps(self, count: int) -> dict[str, float]:
        """Take steps, each after its batch was made; return the rates as `Meter` does."""
        waited, start = 0.0, time.perf_counter()
        with sdpa_kernel(SDPBackend.MATH):
            for _ in range(count):
                began = time.perf_counter()
                ready = _Ready(self.on_host(self.done))
                waited += time.perf_counter() - began
                self.step(ready)
        spent = time.perf_counter() - start
        samples = count * self.batches.batch_size
        return {"samples_per_second": samples / spent, "data_wait": waited / spent}

    def on_host(self, step: int) -> tuple[Batch, dict[str, Tensor], dict[str, Tensor]]:
        """Read, process and augment on the host, then copy."""
        share, inputs, targets = self.task.read(self.batches, torch.device("cpu"), step)
        device = self.accelerator.device
        moved = ({k: v.to(device) for k, v in part.items()} for part in (inputs, targets))
        return share, *moved


class _Ready:
    """A batch that is there already, in the place of one made ahead."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def at(self, step: int) -> Any:
        """Return the batch."""
        del step
        return self._batch


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Switch TF32 off, as torch does for products (but not for convolutions) by itself."""
    was = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = was


def encoder_rows(pairs: Pairs, encoder: str, options: Any) -> list[Row]:
    """Measure training with one encoder, both ways in turns."""
    fast, plain = (way(pairs, encoder, options.batch) for way in (Fast, Plain))
    fast.steps(2)  # compiles: one graph for training
    with exact_fp32():
        plain.steps(1)
    rates: dict[str, list[dict[str, float]]] = {"fast": [], "plain": []}
    for _ in range(options.rounds):
        rates["fast"].append(fast.steps(options.steps))
        with exact_fp32():
            rates["plain"].append(plain.steps(options.steps))

    def median(way: str, name: str) -> float:
        return statistics.median(rate[name] for rate in rates[way])

    speed = median("fast", "samples_per_second"), median("plain", "samples_per_second")
    wait = 100 * median("fast", "data_wait"), 100 * median("plain", "data_wait")
    return [
        Row(f"{encoder}, training", speed[0], "samples/s", speed[1], PLAIN),
        Row(f"{encoder}, loader's wait", wait[0], "% of the step", wait[1], PLAIN, WAIT_AIM),
    ]


def matmul_peak(device: torch.device, rounds: int) -> float:
    """Return the measured FLOP/s of a large bfloat16 product."""
    size = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        left @ right
        synchronise(device)

    return 2 * size**3 / turns({"": product}, rounds, time.perf_counter)[""]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def transformer_share(settings: dict[str, Any], batch: int, rounds: int, device: str) -> float:
    """Return the percentage of the measured peak that a transformer's blocks reach in training."""
    place = torch.device(device)
    model = ViT1dModel(ViT1dConfig(**settings)).to(place)
    blocks = Blocks(model.blocks)
    x = torch.randn(batch, TOKENS, model.config.hidden_size, device=place)

    def step() -> None:
        with torch.autocast(place.type, torch.bfloat16):
            y = blocks(x)
        y.float().square().mean().backward()
        synchronise(place)

    with FlopCounterMode(display=False) as counter:
        step()
    blocks.compile(backend=distributed.COMPILER)
    seconds = turns({"": step}, rounds, time.perf_counter)[""]
    return 100 * counter.get_total_flops() / seconds / matmul_peak(place, rounds)


class Blocks(nn.Module):
    """The transformer's blocks without what comes before and after."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the last block."""
        for block in self.blocks:
            x, _ = block(x)
        return x


def measure(options: Any) -> list[Row]:
    """Measure every encoder, then the transformers beside the peak."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = pairs_of(Path(folder, "cohort"), options.subjects)
        rows = [row for name in options.encoders for row in encoder_rows(pairs, name, options)]
    for name, settings in TRANSFORMERS.items():
        if options.device == "cpu":
            settings = {**settings, "num_layers": 1}
        share = transformer_share(settings, options.batch, options.rounds, options.device)
        # Written as a rate, of which more is better.
        unit = "FLOP/s, % of the bf16 matmul peak"
        rows.append(Row(f"{name}, blocks, forward + backward", share, unit, ours_aim=PEAK_AIM))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Print a row per figure, or say that there is no GPU."""
    arguments = parser(__doc__)
    arguments.add_argument("--encoders", nargs="+", default=["dual_attention", "resnet1d", "vit1d"])
    arguments.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    arguments.add_argument("--subjects", type=int, default=2500)
    arguments.add_argument("--batch", type=int, default=512)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--compiler", help="backend of torch.compile; default: inductor")
    options = arguments.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench_gpu: this machine has no GPU that torch can use, so nothing is measured")
        if options.json is not None:
            options.json.write_text("[]")
        return
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        torch.set_num_threads(1)
    before = distributed.COMPILER
    distributed.COMPILER = options.compiler or ("eager" if options.device == "cpu" else before)
    present(measure(options), options.json)


if __name__ == "__main__":
    main()
