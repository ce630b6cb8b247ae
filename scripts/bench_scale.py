"""How time and memory grow with the number of recordings read and of patients fitted.

    python scripts/bench_scale.py [--plot scale.png]

Reading: one shuffled pass in batches of 256 by the stream that training reads large cohorts with,
to float32 millivolt. The cohorts' shards are links to one shard of simulated recordings, so that a
million of them (24 GB) need no disk. Fitting: the ridge Cox head on cached features (128 columns,
5 % events), which must hold its features: there memory per patient is what matters. Every figure
is from a fresh process: CPU seconds of one thread, and the largest resident memory.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import Row, alone, parser, peak_mb, present

SPLIT, BATCH, FEATURES = "train", 256, 128
LARGEST_TIME_RATIO = 1.25  # of the time per record, where 1 is linear
LARGEST_GROWTH_MB = 64.0
Found = dict[int, tuple[float, float]]  # size: seconds, MB


def write_cohort(folder: Path, subjects: int) -> Path:
    """Simulate a cohort and return it."""
    from fm_med.sources.simulated import make_simulated

    return make_simulated(folder, subjects=subjects, workers=1)


def repeat(cohort: Path, recordings: int, folder: Path) -> None:
    """Make a cohort of one split whose shards are links to another one's first shard."""
    from fm_med.cohort.card import read_card, write_card
    from fm_med.cohort.tables import open_shards, shard_files

    shard = shard_files(cohort)[SPLIT][0]
    table = open_shards(cohort)[SPLIT]
    shards = -(-recordings // table.num_rows)
    rows = shards * table.num_rows
    (folder / "data").mkdir(parents=True)
    for number in range(shards):
        os.link(shard, folder / "data" / f"{SPLIT}-{number:05d}-of-{shards:05d}.arrow")
    card = dataclasses.replace(read_card(cohort), recordings={SPLIT: rows}, subjects={SPLIT: rows})
    write_card(folder, card, table.column_names)


def read_all(folder: Path) -> tuple[float, float, int]:
    """Return CPU seconds and peak memory of one pass, and the number of recordings."""
    import torch

    from fm_med.cohort.pieces import open_pieces
    from fm_med.ecg.processor import EcgProcessor
    from fm_med.streaming import StreamedRows

    torch.set_num_threads(1)
    processor = EcgProcessor(high_pass=None, low_pass=None)
    rows, columns = 0, processor.columns
    for batch in StreamedRows(open_pieces(folder, SPLIT), batch_size=2, seed=1, columns=columns):
        processor.from_rows(batch.rows)  # what the first call of anything costs is not measured
        break
    start = time.process_time()
    for batch in StreamedRows(
        open_pieces(folder, SPLIT), batch_size=BATCH, seed=0, columns=columns
    ):
        rows += len(processor.from_rows(batch.rows)["signal"])
    return time.process_time() - start, peak_mb(), rows


def fit(patients: int) -> tuple[float, float, int]:
    """Return CPU seconds and peak memory of a fit, and the number of patients."""
    from fm_med.survival.cox_fit import fit_cox

    rng = np.random.default_rng(0)
    features = rng.standard_normal((patients, FEATURES))
    hazard = np.exp(0.3 * features[:, 0] - 0.2 * features[:, 1])
    survival = rng.exponential(20.0 / hazard)
    follow_up = np.minimum(survival, rng.uniform(0, 2, patients))
    event = survival <= follow_up
    fit_cox(features[:2000], time=follow_up[:2000], event=event[:2000], penalty=10.0)  # warm-up
    start = time.process_time()
    fitted = fit_cox(features, time=follow_up, event=event, penalty=10.0)
    took = time.process_time() - start
    if not fitted.converged:
        raise AssertionError(f"the fit of {patients} patients did not converge")
    return took, peak_mb(), patients


def measure_reading(sizes: list[int], subjects: int) -> Found:
    """Measure a pass over cohorts of some sizes."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as temporary:
        cohort = alone(write_cohort, Path(temporary, "one"), subjects)
        for size in sizes:
            folder = Path(temporary, str(size))
            repeat(cohort, size, folder)
            seconds, memory, rows = alone(read_all, folder)
            found[rows] = (seconds, memory)
    return found


def measure_fitting(sizes: list[int]) -> Found:
    """Measure fits of some sizes."""
    found: Found = {}
    for size in sizes:
        seconds, memory, _ = alone(fit, size)
        found[size] = (seconds, memory)
    return found


def rows_of(what: str, of: str, found: Found, growth_aim: float | None) -> list[Row]:
    """Return the rows of one subject: each size, then the largest beside the smallest."""
    rows = []
    for size, (seconds, memory) in found.items():
        rows += [
            Row(f"{what}, {size:,} {of}", size / seconds, f"{of}/s"),
            Row(f"{what}, {size:,} {of}, peak memory", memory, "MB"),
        ]
    small, large = min(found), max(found)
    slower = found[large][0] / large / (found[small][0] / small)
    more = found[large][1] - found[small][1]
    beside = f"{large:,} beside {small:,}"
    rows.append(
        Row(f"{what}, time per one, {beside}", slower, "ratio", ours_aim=LARGEST_TIME_RATIO)
    )
    if growth_aim is not None:
        rows.append(Row(f"{what}, memory more, {beside}", more, "MB", ours_aim=growth_aim))
    else:
        each = 1e3 * more / (large - small)
        rows.append(Row(f"{what}, memory of one more", each, "kB"))
    return rows


def plot(parts: dict[str, Found], file: Path) -> None:
    """Draw time and memory by size, on logarithmic axes; a dashed line is exactly linear."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(parts), figsize=(9, 6), sharex="col", squeeze=False)
    for column, (name, found) in enumerate(parts.items()):
        sizes = np.array(sorted(found))
        seconds, memory = np.array([found[size] for size in sizes]).T
        above, below = axes[:, column]
        above.loglog(sizes, seconds, "o-", label="measured")
        linear = seconds[0] / sizes[0] * sizes
        above.loglog(sizes, linear, "--", color="grey", label="linear")
        above.set(title=name, ylabel="CPU seconds, one thread")
        above.legend()
        below.semilogx(sizes, memory, "o-")
        below.set(ylim=(0, 1.3 * memory.max()), ylabel="peak memory, MB", xlabel="number")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print the rows; draw them if asked."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    sizes = [10_000, 100_000, 1_000_000]
    arguments.add_argument("--recordings", type=int, nargs="+", default=sizes)
    patients = [10_000, 30_000, 100_000]
    arguments.add_argument("--patients", type=int, nargs="+", default=patients)
    arguments.add_argument("--subjects", type=int, default=1200, help="in the simulated shard")
    arguments.add_argument("--plot", type=Path, help="PNG to draw")
    options = arguments.parse_args()
    reading = measure_reading(options.recordings, options.subjects)
    fitting = measure_fitting(options.patients)
    if options.plot:
        plot({"reading recordings": reading, "Cox head on cached features": fitting}, options.plot)
    rows = rows_of("read to float32 mV", "records", reading, LARGEST_GROWTH_MB)
    present([*rows, *rows_of("ridge Cox head", "patients", fitting, None)], options.json)


if __name__ == "__main__":
    main()
