"""Memory and time of one coupled step against the batch size, at a fixed micro-batch.

    python scripts/bench_coupled.py [--batches 64 256 1024 4096] [--plot FILE.svg]

Each measurement is a process of its own: the peak resident memory above what it was before the
step (on CUDA: the peak allocation), and the seconds of one forward and backward pass of the default
encoder with the InfoNCE loss, on 12 leads at 100 Hz. On a CPU these are seconds of computing on one
thread, which a shared machine changes little. `--seconds 10` is what the recipe trains on; the
default is shorter, so that the largest batch takes a minute at most. "whole batch at once" keeps
the graph of the whole batch in memory, as autograd does; "cut" is what `--micro_batch_size` does.
Their gradients are the same. Signals come from one buffer, so that memory is that of the step and
not of the data.
"""

import os
import time
from pathlib import Path

from side_by_side import Row, alone, growth_mb, parser, present

# The C library would keep freed memory for later: a peak would tell what was kept, not what was
# needed. So large blocks go back to the system at once.
EXACT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
WAYS = {"whole": ("#b2182b", "s"), "cut": ("#2166ac", "o")}  # colour, marker
WHOLE = "the whole batch at once"


def measure(batch: int, micro_batch: int | None, seconds: float) -> dict[str, float]:
    """Take one step; return its seconds and peak memory in MB."""
    import torch
    from accelerate import Accelerator

    from fm_med.alignment import build_towers
    from fm_med.coupled import coupled_backward
    from fm_med.hub import start_encoder
    from fm_med.objectives import contrastive_loss

    torch.set_num_threads(1)
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
    clock = time.perf_counter if signal.is_cuda else time.process_time
    start = clock()
    if signal.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(batch)
        megabytes = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        megabytes = growth_mb(lambda: step(batch))
    return {"seconds": clock() - start, "megabytes": megabytes}


def plot(rows: list[dict], micro_batch: int, path: Path) -> None:
    """Draw memory and time against the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    titles = {"megabytes": "Peak memory of a step, MB", "seconds": "Computing time of a step, s"}
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


def rows_of(measured: list[dict], micro_batch: int) -> list[Row]:
    """Return two rows per batch size, beside the whole batch where that was measured."""
    whole = {one["batch"]: one for one in measured if one["way"] == "whole"}
    rows = []
    for one in measured:
        if one["way"] == "cut":
            batch, other = one["batch"], whole.get(one["batch"])
            what, way = f"a coupled step, batch {batch:,} cut to {micro_batch}", WHOLE * bool(other)
            peak, seconds = (other and other[name] for name in ("megabytes", "seconds"))
            rows += [
                Row(f"{what}, memory", one["megabytes"], "MB", peak, way),
                Row(f"{what}, time", one["seconds"], "s", seconds, way),
            ]
    return rows


def main() -> None:
    """Print the rows and draw them."""
    arguments = parser(__doc__)
    arguments.add_argument("--micro_batch", type=int, default=64)
    arguments.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    arguments.add_argument("--largest_whole", type=int, default=1024, help="it needs the memory")
    arguments.add_argument("--seconds", type=float, default=2.56, help="length of the signals")
    arguments.add_argument("--plot", type=Path, help="PNG or SVG file")
    options = arguments.parse_args()
    os.environ.update(EXACT_MEMORY)  # read when a process starts
    measured = []
    for batch in options.batches:
        for way in ("whole", "cut") if batch <= options.largest_whole else ("cut",):
            micro_batch = options.micro_batch if way == "cut" else None
            found = alone(measure, batch, micro_batch, options.seconds)
            measured.append({"batch": batch, "way": way, **found})
    if options.plot:
        plot(measured, options.micro_batch, options.plot)
    present(rows_of(measured, options.micro_batch), options.json)


if __name__ == "__main__":
    main()
