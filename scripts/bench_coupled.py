"""Memory and time of one coupled step against the batch size, at a fixed micro-batch.

    python scripts/bench_coupled.py [--micro_batch 64] [--largest 8192] [--plot FILE.svg]

Each measurement is a process of its own: the peak resident memory above what it was before the
step (on CUDA: the peak allocation), and the seconds of one forward and backward pass of the default
encoder on 10 s of 12 leads at 100 Hz with the InfoNCE loss. "whole" keeps the graph of the whole
batch in memory, "cut" is what `--micro_batch_size` does; gradients are the same. Signals come from
one buffer, so that memory is that of the step and not of the data.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

WHOLE_UP_TO = 512  # larger ones would need several gigabytes


def measure(batch: int, micro_batch: int | None) -> dict[str, float]:
    """Take one step; return its seconds and peak memory in MiB."""
    import torch
    from accelerate import Accelerator

    from fm_med.alignment import build_towers
    from fm_med.coupled import coupled_backward
    from fm_med.hub import start_encoder
    from fm_med.objectives import contrastive_loss

    torch.manual_seed(0)
    accelerator = Accelerator()
    encoder, _ = start_encoder("dual_attention", sampling_rate=100.0, seconds=10.0)
    towers = build_towers(
        encoder,
        torch.zeros(128),
        text={},
        embedding_dim=128,
        temperature=0.07,
        sigmoid=False,
        decoder=None,
    )
    model = accelerator.prepare(towers)
    signal = torch.randn(1, 12, 1000, device=accelerator.device)

    def step(rows: int) -> None:
        inputs = {
            "signal": signal.expand(rows, -1, -1),
            "lead_mask": torch.ones(rows, 12, dtype=torch.bool, device=signal.device),
            "report_embedding": torch.randn(rows, 128, device=signal.device),
        }
        coupled_backward(
            accelerator,
            model,
            inputs,
            {},
            loss=lambda outputs, _: contrastive_loss(
                outputs["signal_embedding"],
                outputs["text_embedding"],
                logit_scale=outputs["logit_scale"][0],
            ),
            micro_batch_size=micro_batch,
        )
        if signal.is_cuda:
            torch.cuda.synchronize()

    step(8)  # what is made once
    on_cuda = signal.is_cuda
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if on_cuda else peak_resident()
    start = time.perf_counter()
    step(batch)
    seconds = time.perf_counter() - start
    after = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else peak_resident()
    return {"seconds": seconds, "mebibytes": after - before}


def peak_resident() -> float:
    """Return the process's peak resident memory in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_own_process(batch: int, micro_batch: int | None) -> dict[str, float]:
    """Measure in a fresh process, whose peak memory is its own."""
    command = [sys.executable, __file__, "--measure", str(batch)]
    command += ["--micro_batch", str(micro_batch)] if micro_batch else ["--micro_batch", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def plot(rows: list[dict], path: Path) -> None:
    """Draw memory and time against the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = {"mebibytes": "peak memory of a step (MiB)", "seconds": "time of a step (s)"}
    for axis, (name, label) in zip(axes, names.items()):
        for way, colour in (("whole", "#b2182b"), ("cut", "#2166ac")):
            points = [(row["batch"], row[name]) for row in rows if row["way"] == way]
            axis.plot(*zip(*points), "o-", color=colour)
            axis.annotate(f" {way}", points[-1], color=colour, va="bottom")
        axis.set(xscale="log", yscale="log", xlabel="batch size", title=label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro_batch", type=int, default=64)
    parser.add_argument("--largest", type=int, default=8192)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        print(json.dumps(measure(settings.measure, settings.micro_batch or None)))
        return
    rows = []
    print(f"{'batch':>6} {'way':>6} {'MiB':>8} {'seconds':>8} {'ms/row':>7}")
    batch = 64
    while batch <= settings.largest:
        for way in ("whole", "cut") if batch <= WHOLE_UP_TO else ("cut",):
            found = in_own_process(batch, settings.micro_batch if way == "cut" else None)
            rows.append({"batch": batch, "way": way, **found})
            per_row = 1000 * found["seconds"] / batch
            print(
                f"{batch:>6} {way:>6} {found['mebibytes']:>8.0f} {found['seconds']:>8.2f} "
                f"{per_row:>7.2f}",
                flush=True,
            )
        batch *= 2
    if settings.plot:
        plot(rows, settings.plot)


if __name__ == "__main__":
    main()
