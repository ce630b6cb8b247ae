"""Time one training step of each ECG encoder against the published network.

    OMP_NUM_THREADS=1 python scripts/bench_encoder.py --batch 32 --rounds 7

Encoders take turns, so that a busy machine slows all of them alike; the figure is the median over
the rounds, of processor time on CPU (what other programs use does not count), of wall time on CUDA.
The published network runs at its own lengths (608 and 1,024 samples), ours at 12 leads x 1,000
samples (10 s at 100 Hz).
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig, DualAttentionPaperModel
from fm_med.ecg.encoders import ENCODERS

BASELINES = ("paper, 608 samples", "paper, 1024 samples")


@dataclass
class Candidate:
    """An encoder with its optimiser and its input."""

    encoder: PreTrainedModel
    optimizer: torch.optim.Optimizer
    signal: torch.Tensor

    def step(self, precision: str) -> float:
        """Take one training step; return its seconds per ECG."""
        device = self.signal.device
        on_cuda = device.type == "cuda"
        wait = torch.cuda.synchronize if on_cuda else (lambda: None)
        clock = time.perf_counter if on_cuda else time.process_time
        wait()
        start = clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            pooled = self.encoder(self.signal).pooler_output
        pooled.float().square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait()
        return (clock() - start) / len(self.signal)

    def forward_megaflops(self) -> float:
        """Count the operations of one ECG's forward pass."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.encoder(self.signal[:1])
        return counter.get_total_flops() / 1e6


def candidates(batch: int, device: str) -> dict[str, Candidate]:
    """Build every encoder at its default size, and the published network at its two lengths."""
    encoders: dict[str, tuple[PreTrainedModel, int]] = {
        f"paper, {samples} samples": (
            DualAttentionPaperModel(DualAttentionPaperConfig(samples=samples)),
            samples,
        )
        for samples in (608, 1024)
    }
    for name, model in ENCODERS.items():
        if name != "dual_attention_paper":
            encoders[name] = (model(model.config_class()), 1000)
    shared = DualAttentionConfig(shared_time_attention=True)
    encoders["dual_attention, shared"] = (DualAttentionModel(shared), 1000)
    generator = torch.Generator().manual_seed(0)
    built = {}
    for name, (encoder, samples) in encoders.items():
        encoder.to(device).train()
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4, fused=True)
        signal = torch.randn(batch, 12, samples, generator=generator).to(device)
        built[name] = Candidate(encoder, optimizer, signal)
    return built


def measure(encoders: dict[str, Candidate], rounds: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds per ECG by encoder and precision."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for attempt in range(rounds + 1):
        for name, candidate in encoders.items():
            for precision in ("fp32", "bf16"):
                duration = candidate.step(precision)
                if attempt > 0:  # the first round allocates
                    seconds.setdefault((name, precision), []).append(duration)
    return {
        name: {
            precision: 1000 * statistics.median(seconds[name, precision])
            for precision in ("fp32", "bf16")
        }
        for name in encoders
    }


def main() -> None:
    """Measure and print a table; `--json` prints the figures instead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    encoders = candidates(options.batch, options.device)
    times = measure(encoders, options.rounds)
    if options.json:
        print(json.dumps(times, indent=2))
        return
    print(f"{options.device}, {torch.get_num_threads()} thread(s), batch {options.batch}")
    print(f"{'encoder':24}{'parameters':>11}{'MFLOP':>7}{'fp32 ms':>9}{'bf16 ms':>9}", end="")
    print("   times as fast as the paper's network, 608 | 1024 samples, fp32 and bf16")
    for name, candidate in encoders.items():
        parameters = sum(p.numel() for p in candidate.encoder.parameters())
        print(f"{name:24}{parameters:>11,}{candidate.forward_megaflops():>7.0f}", end="")
        print(
            "".join(f"{times[name][precision]:>9.2f}" for precision in ("fp32", "bf16")), end="   "
        )
        ratios = [
            [times[baseline][precision] / times[name][precision] for precision in ("fp32", "bf16")]
            for baseline in BASELINES
        ]
        print(" | ".join(f"{fp32:.1f} {bf16:.1f}" for fp32, bf16 in ratios))


if __name__ == "__main__":
    main()
