"""Time of one training step of each ECG encoder beside the published network's.

    python scripts/bench_encoder.py [--rounds 3] [--batch 32] [--long_batch 4]

A step is forward, backward and fused AdamW on 10 s of 12 leads, at 100 Hz and at 500 Hz, in float32
and in bfloat16 autocast, on one thread. The published network runs at its own lengths, 1,024 and
4,992 samples. FLOPs are counted on one ECG; the share is that of the machine's own matrix product
(of the residual network: convolution) of the same precision in the same run.
Takes about a minute on a quiet machine.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from side_by_side import Row, parser, present, table, turns
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from fm_med.distributed import native_bf16
from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig, DualAttentionPaperModel
from fm_med.ecg.encoders import ENCODERS

LITERAL = "literal network"
PEER = "the literal published network, written again plainly"
DEFAULT = "dual_attention"
AIM = 4.0
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAMPLES = {100: 1000, 500: 5000}
PUBLISHED_SAMPLES = {100: 1024, 500: 4992}
CONVOLUTIONAL = ("resnet1d",)


@dataclass
class Candidate:
    """An encoder with its optimiser, its input and what is counted rather than timed."""

    encoder: PreTrainedModel
    signal: Tensor

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-4, fused=True)
        self.parameters = sum(p.numel() for p in self.encoder.parameters())
        self.forward_megaflops, self.step_megaflops = self.megaflops()

    def step(self, precision: str) -> None:
        """Take one training step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            pooled = self.encoder(self.signal).pooler_output
        pooled.float().square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def megaflops(self) -> tuple[float, float]:
        """Count one ECG's forward pass, and forward and backward pass."""
        # The counter knows matrix products and convolutions, not the processor's fused attention.
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as forward:
                pooled = self.encoder(self.signal[:1]).pooler_output
            with FlopCounterMode(display=False) as backward:
                pooled.sum().backward()
        self.optimizer.zero_grad()
        counted = forward.get_total_flops(), backward.get_total_flops()
        return counted[0] / 1e6, sum(counted) / 1e6


def candidates(sampling_rate: int, batch: int) -> dict[str, Candidate]:
    """Build the published network and every encoder at its default size, at one sampling rate."""
    published = DualAttentionPaperConfig(samples=PUBLISHED_SAMPLES[sampling_rate])
    encoders: dict[str, PreTrainedModel] = {LITERAL: DualAttentionPaperModel(published)}
    for name, model in ENCODERS.items():
        if name != "dual_attention_paper":
            encoders[name] = model(model.config_class())
    shared = DualAttentionConfig(shared_time_attention=True)
    encoders[f"{DEFAULT}, shared_time_attention"] = DualAttentionModel(shared)
    return {
        name: Candidate(
            encoder.train(),
            torch.randn(
                batch,
                12,
                PUBLISHED_SAMPLES[sampling_rate] if name == LITERAL else SAMPLES[sampling_rate],
            ),
        )
        for name, encoder in encoders.items()
    }


def peaks(rounds: int) -> dict[tuple[str, str], float]:
    """Measure GFLOP/s of a matrix product and of a convolution in both precisions."""
    size, channels, steps, taps = 1024, 256, 128, 3
    ways: dict[str, Callable[[], object]] = {}
    for precision, dtype in PRECISIONS.items():
        square = torch.randn(size, size).to(dtype)
        x = torch.randn(16, channels, steps).to(dtype)
        weight = torch.randn(channels, channels, taps).to(dtype)
        ways[f"matmul {precision}"] = partial(torch.mm, square, square)
        ways[f"conv {precision}"] = partial(functional.conv1d, x, weight, padding=1)
    seconds = turns(ways, 3 * rounds)
    flops = {"matmul": 2 * size**3, "conv": 2 * 16 * channels**2 * taps * steps}
    return {
        (kind, precision): flops[kind] / seconds[f"{kind} {precision}"] / 1e9
        for kind in flops
        for precision in PRECISIONS
    }


def milliseconds(encoders: dict[str, Candidate], rounds: int) -> dict[tuple[str, str], float]:
    """Return the median milliseconds per ECG by encoder and precision."""
    ways = {
        (name, precision): partial(candidate.step, precision)
        for name, candidate in encoders.items()
        for precision in PRECISIONS
    }
    seconds = turns({"|".join(way): step for way, step in ways.items()}, rounds)
    return {way: 1000 * seconds["|".join(way)] / len(encoders[way[0]].signal) for way in ways}


def rows_of(
    sampling_rate: int, batch: int, rounds: int, peak: dict[tuple[str, str], float]
) -> tuple[list[Row], list[list[str]]]:
    """Measure all encoders at one sampling rate; return rows and the cells of the own table."""
    encoders = candidates(sampling_rate, batch)
    times = milliseconds(encoders, rounds)
    rows, cells = [], []
    for (name, precision), took in times.items():
        candidate = encoders[name]
        kind = "conv" if name in CONVOLUTIONAL else "matmul"
        speed = candidate.step_megaflops / took
        share = speed / peak[kind, precision]
        counted = [f"{candidate.parameters:,}", f"{candidate.forward_megaflops:.0f}"]
        counted.append(f"{candidate.step_megaflops:.0f}")
        shown = [f"{took:.2f}", f"{speed:.0f}", f"{share:.0%} of {kind}"]
        cells.append([name, f"{sampling_rate}", precision, str(batch), *counted, *shown])
        if name == LITERAL:
            continue
        what = (
            f"train step, {name}, {sampling_rate} Hz, {precision}: {counted[0]} parameters, "
            f"{counted[2]} MFLOP, {share:.0%} of the {kind} peak"
        )
        aim = AIM if name == DEFAULT else None
        other = times[LITERAL, precision]
        rows.append(Row(what, took, "ms per ECG", other, PEER, ratio_aim=aim))
    return rows, cells


def main() -> None:
    """Print what was counted and measured, then a row per encoder, rate and precision."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.set_defaults(rounds=3)
    arguments.add_argument("--batch", type=int, default=32, help="ECGs per step at 100 Hz")
    arguments.add_argument("--long_batch", type=int, default=4, help="ECGs per step at 500 Hz")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = peaks(options.rounds)
    rows, cells = [], []
    for sampling_rate, batch in ((100, options.batch), (500, options.long_batch)):
        measured = rows_of(sampling_rate, batch, options.rounds, peak)
        rows += measured[0]
        cells += measured[1]
    headings = ["encoder", "Hz", "precision", "batch", "parameters", "MFLOP forward"]
    headings += ["MFLOP step", "ms per ECG", "GFLOP/s", "of the peak"]
    print(table([headings, *cells]))
    found = ", ".join(f"{' '.join(way)} {speed:.0f}" for way, speed in peak.items())
    chosen = "bf16" if native_bf16("cpu") else "fp32"
    print(f"Peaks in GFLOP/s: {found}. Training chooses {chosen} by itself here.\n")
    present(rows, options.json)


if __name__ == "__main__":
    main()
