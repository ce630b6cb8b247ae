"""Memory and time of one coupled step against the batch size, at a fixed micro-batch.

    python scripts/bench_coupled.py [--micro_batch 64] [--largest 8192] [--plot FILE.svg]

Each measurement is a process of its own: the peak resident memory above what it was before the
step (on CUDA: the peak allocation), and the seconds of one forward and backward pass of the default
encoder with the InfoNCE loss, on 12 leads at 100 Hz. On a CPU these are seconds of computing, which
a shared machine does not change; with OMP_NUM_THREADS=1 they are those of one core. `--seconds 10`
is what the recipe trains on; the default is shorter, so that the largest batch takes a minute.
"whole" keeps the graph of the whole batch in memory, as autograd does; "cut" is what
`--micro_batch_size` does. Their gradients are the same. Signals come from one buffer, so that
memory is that of the step and not of the data.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# The C library would keep freed memory for later: a peak would tell what was kept, not what was
# needed. So large blocks go back to the system at once.
EXACT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
WAYS = {"whole": ("#b2182b", "s"), "cut": ("#2166ac", "o")}  # colour, marker


def measure(batch: int, micro_batch: int | None, seconds: float) -> dict[str, float]:
    """Take one step; return its seconds and peak memory in MiB."""
    import torch
    from accelerate import Accelerator

    from fm_med.alignment import build_towers
    from fm_med.coupled import coupled_backward
    from fm_med.hub import start_encoder
    from fm_med.objectives import contrastive_loss

    torch.manual_seed(0)
    accelerator = Accelerator()
    encoder, _ = start_encoder("dual_attention", sampling_rate=100.0, seconds=seconds)
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
    signal = torch.randn(1, 12, round(100 * seconds), device=accelerator.device)

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
    clock = time.perf_counter if on_cuda else time.process_time
    start = clock()
    step(batch)
    spent = clock() - start
    after = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else peak_resident()
    return {"seconds": spent, "mebibytes": after - before}


def peak_resident() -> float:
    """Return the process's peak resident memory in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_own_process(batch: int, micro_batch: int | None, seconds: float) -> dict[str, float]:
    """Measure in a fresh process, whose peak memory is its own."""
    command = [sys.executable, __file__, "--measure", batch, "--micro_batch", micro_batch or 0]
    done = subprocess.run(
        [str(word) for word in (*command, "--seconds", seconds)],
        capture_output=True,
        text=True,
        env=os.environ | EXACT_MEMORY,
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def plot(rows: list[dict], micro_batch: int, path: Path) -> None:
    """Draw memory and time against the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    titles = {"mebibytes": "Peak memory of a step, MiB", "seconds": "Computing time of a step, s"}
    labels = {"whole": "whole batch at once", "cut": f"micro-batches of {micro_batch}"}
    batches = sorted({row["batch"] for row in rows})
    for axis, (name, title) in zip(axes, titles.items()):
        for way, (colour, marker) in WAYS.items():
            points = [(row["batch"], row[name]) for row in rows if row["way"] == way]
            style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.5}
            axis.plot(*zip(*points), **style, label=labels[way])
        axis.set(xscale="log", yscale="log", xlabel="batch size")
        axis.set_title(title, loc="left", fontsize=11)
        axis.xaxis.set_major_locator(FixedLocator(batches))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.tick_params(axis="x", labelrotation=45)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=20)
    axes[0].legend(frameon=False, fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro_batch", type=int, default=64)
    parser.add_argument("--largest", type=int, default=8192)
    parser.add_argument("--largest_whole", type=int, default=1024, help="it needs the memory")
    parser.add_argument("--seconds", type=float, default=2.56, help="length of the signals")
    parser.add_argument("--plot", type=Path, help="PNG or SVG file")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        measured = measure(settings.measure, settings.micro_batch or None, settings.seconds)
        print(json.dumps(measured))
        return
    rows = []
    print("| batch | way | MiB | seconds | ms per row |\n|---:|---|---:|---:|---:|")
    batch = settings.micro_batch
    while batch <= settings.largest:
        for way in ("whole", "cut") if batch <= settings.largest_whole else ("cut",):
            micro_batch = settings.micro_batch if way == "cut" else None
            found = in_own_process(batch, micro_batch, settings.seconds)
            rows.append({"batch": batch, "way": way, **found})
            print(
                f"| {batch:,} | {way} | {found['mebibytes']:,.0f} | {found['seconds']:.2f} "
                f"| {1000 * found['seconds'] / batch:.2f} |",
                flush=True,
            )
        batch *= 2
    if settings.plot:
        plot(rows, settings.micro_batch, settings.plot)


if __name__ == "__main__":
    main()
