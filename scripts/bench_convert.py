"""How fast WFDB recordings become a cohort, and that memory does not grow with their number.

    python scripts/bench_convert.py [--sizes 2000 20000] [--processes 2]

Recordings made up on the spot: format 16, 12 leads, 10 s at 100 Hz. The other way calls
`wfdb.rdsamp` for every record in as many processes, collects the float rows in a list and writes
them with pyarrow. Seconds are the processor time of all processes together divided by their number:
what the conversion takes on a machine that does nothing else, if nobody waits. Whether that holds
is told by the rows by the clock, which count everything but also what else the machine does.
Memory is the largest of the main process, in fresh processes, imports included.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from side_by_side import Row, parser, peak_mb, present

from fm_med.cohort import open_cohort
from fm_med.ecg.leads import LEADS
from fm_med.ecg.storage import decode
from fm_med.sources.ecg_table import make_ecg_table

RATE, SECONDS, UNITS_PER_MV = 100, 10, 1000
WFDB = "wfdb.rdsamp per record, rows in a list, pyarrow"
RATIO_AIM = 5.0
GROWTH_AIM_MB = 25.0
MANY = 10_000  # recordings that are converted once; fewer in turns, whose median counts


def write_recordings(folder: Path, count: int) -> None:
    """Write recordings and a table that names them."""
    rng = np.random.default_rng(0)
    lines = ["subject,path"]
    for number in range(count):
        name = f"{number // 1000:05d}/{number:07d}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        codes = rng.integers(-30, 31, (RATE * SECONDS, len(LEADS))).cumsum(axis=0).astype("<i2")
        header = [f"{path.name} {len(LEADS)} {RATE} {RATE * SECONDS}"]
        for lead, values in zip(LEADS, codes.T):
            checksum = int(values.sum(dtype=np.int64)) % 65536
            head = f"{path.name}.dat 16 {UNITS_PER_MV}/mV 16 0"
            header.append(f"{head} {values[0]} {checksum} 0 {lead}")
        path.with_suffix(".hea").write_text("\n".join(header) + "\n")
        path.with_suffix(".dat").write_bytes(codes.tobytes())
        lines.append(f"{number},{name}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def read_with_wfdb(path: str) -> list[np.ndarray]:
    """Return the leads of a record as float32 millivolt."""
    import wfdb

    return list(wfdb.rdsamp(path)[0].T.astype(np.float32))


def convert_with_wfdb(folder: Path, destination: Path, processes: int) -> None:
    """Collect all rows, then write them."""
    paths = [line.split(",")[1] for line in (folder / "table.csv").read_text().split()[1:]]
    with get_context("spawn").Pool(processes) as pool:
        signals = pool.map(read_with_wfdb, [str(folder / path) for path in paths])
        pool.close()
        pool.join()
    rows = [{"path": path, "signal": signal} for path, signal in zip(paths, signals)]
    schema = pa.schema([("path", pa.string()), ("signal", pa.list_(pa.list_(pa.float32())))])
    destination.mkdir()
    with pa.ipc.new_file(str(destination / "all.arrow"), schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))


def convert(folder: Path, destination: Path, processes: int) -> None:
    """Make a cohort."""
    table = folder / "table.csv"
    make_ecg_table(table, folder, destination, subject="subject", path="path", workers=processes)


Way = Callable[[Path, Path, int], None]


class Measured(NamedTuple):
    """What a way took: processor seconds per process, seconds by the clock, peak memory in MB."""

    seconds: float
    clock: float
    peak: float


def measure(way: Way, folder: Path, destination: Path, processes: int) -> Measured:
    """Return what a way takes in this process and in those that it starts."""
    before, clock = sum(os.times()[:4]), time.perf_counter()
    way(folder, destination, processes)
    clock = time.perf_counter() - clock
    return Measured((sum(os.times()[:4]) - before) / processes, clock, peak_mb())


def alone(way: Way, *arguments: Any) -> Measured:
    """Return `measure` of a fresh process; unlike a worker of a `Pool` it may start others."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, way, *arguments).result()


def check_equal(naive: Path, cohort: Path) -> None:
    """Stop if the first recordings do not hold the same voltages."""
    with pa.memory_map(str(naive / "all.arrow")) as file:
        head = pa.ipc.open_file(file).read_all().slice(0, 64).to_pylist()
    made = open_cohort(cohort)
    ours: dict[str, np.ndarray] = {}
    for split in made.splits:
        rows = made.rows(split, np.arange(min(64, made.splits[split].num_rows)))
        stored = decode(rows)
        millivolt = stored.signal * stored.gain[:, :, None]
        ours |= dict(zip(rows.column("record_id").to_pylist(), millivolt))
    shared = [(ours[row["path"]], np.array(row["signal"])) for row in head if row["path"] in ours]
    if not shared or max(np.abs(a - b).max() for a, b in shared) > 1e-4:
        raise AssertionError("the cohort holds other voltages than wfdb reads")


def compared(folder: Path, size: int, processes: int, rounds: int) -> list[Measured]:
    """Return the medians of `measure` of both ways, which take turns."""
    source, cohort, naive = (folder / name for name in ("wfdb", "cohort", "naive"))
    source.mkdir()
    write_recordings(source, size)
    ways = [(convert, cohort), (convert_with_wfdb, naive)]
    found: list[list[Measured]] = [[], []]
    for _ in range(rounds):
        for (way, made), measured in zip(ways, found):
            shutil.rmtree(made, ignore_errors=True)
            measured.append(alone(way, source, made, processes))
    check_equal(naive, cohort)
    return [Measured(*map(median, zip(*way))) for way in found]


def main() -> None:
    """Print the rows."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--sizes", type=int, nargs=2, default=[2000, 20000])
    arguments.add_argument("--processes", type=int, default=2)
    options = arguments.parse_args()
    small, large = options.sizes
    how, rows, peak = f"{options.processes} processes", [], {}
    for size in options.sizes:
        rounds = min(options.rounds, 3) if size < MANY else 1
        with tempfile.TemporaryDirectory() as temporary:
            ours, peer = compared(Path(temporary), size, options.processes, rounds)
        peak[size] = ours.peak
        what = f"WFDB to cohort, {size:,} records, {how}"
        rate, peer_rate = size / ours.seconds, size / peer.seconds
        rows += [
            Row(what, rate, "records/s", peer_rate, WFDB, ratio_aim=RATIO_AIM),
            Row(f"{what}, by the clock", size / ours.clock, "records/s", size / peer.clock, WFDB),
            Row(f"{what}, peak memory", ours.peak, "MB", peer.peak, WFDB),
        ]
    growth = max(0.0, peak[large] - peak[small])
    more = f"memory of {large:,} above that of {small:,} records"
    present([*rows, Row(more, growth, "MB", ours_aim=GROWTH_AIM_MB)], options.json)


if __name__ == "__main__":
    main()
