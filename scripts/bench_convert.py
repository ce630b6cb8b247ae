"""Measure the conversion of WFDB recordings to a cohort: time per record and peak memory.

Compared with the usual way: `wfdb.rdsamp` for every record in the same number of processes, the
float rows collected in a list and written with pyarrow. The recordings are made up on the spot
(format 16, 12 leads, 10 s); each way runs in a fresh process, so that its memory is its own.

Run: python scripts/bench_convert.py [--sizes 4000 16000] [--sampling_rate 100] [--processes 2]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fm_med.ecg.leads import LEADS


def write_recordings(folder: Path, count: int, rate: int) -> None:
    """Write `count` recordings and a table that names them."""
    rng = np.random.default_rng(0)
    lines = ["subject,path"]
    for number in range(count):
        name = f"{number // 1000:05d}/{number:07d}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        codes = rng.integers(-30, 30, (rate * 10, 12)).cumsum(axis=0).astype("<i2")
        header = [f"{path.name} 12 {rate} {rate * 10}"]
        for lead, values in zip(LEADS, codes.T):
            checksum = int(values.sum(dtype=np.int64)) % 65536
            header.append(f"{path.name}.dat 16 1000/mV 16 0 {values[0]} {checksum} 0 {lead}")
        path.with_suffix(".hea").write_text("\n".join(header) + "\n")
        path.with_suffix(".dat").write_bytes(codes.tobytes())
        lines.append(f"{number},{name}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def read_with_wfdb(path: str) -> list:
    """Return the leads of a record as float32 millivolt."""
    import wfdb

    return list(wfdb.rdsamp(path)[0].T.astype(np.float32))


def convert_naively(folder: Path, destination: Path, processes: int) -> None:
    """Collect all rows, then write them."""
    import pyarrow as pa

    paths = [line.split(",")[1] for line in (folder / "table.csv").read_text().split()[1:]]
    with get_context("spawn").Pool(processes) as pool:
        signals = pool.map(read_with_wfdb, [str(folder / path) for path in paths])
    rows = [{"path": path, "signal": signal} for path, signal in zip(paths, signals)]
    schema = pa.schema([("path", pa.string()), ("signal", pa.list_(pa.list_(pa.float32())))])
    destination.mkdir()
    with pa.ipc.new_file(str(destination / "all.arrow"), schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))


def convert(folder: Path, destination: Path, processes: int) -> None:
    """Make a cohort."""
    from fm_med.sources.ecg_table import make_ecg_table

    make_ecg_table(
        folder / "table.csv",
        folder,
        destination,
        subject="subject",
        path="path",
        workers=processes,
    )


WAYS = {"naive": convert_naively, "fm_med": convert}


def measure(way: str, folder: Path, destination: Path, processes: int) -> None:
    """Run one way in this process; print seconds, CPU seconds, peak MiB of main and of a worker."""
    started = time.perf_counter()
    WAYS[way](folder, destination, processes)
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(used.ru_utime + used.ru_stime for used in usage)
    print(seconds, processor, *(used.ru_maxrss // 1024 for used in usage))


def main() -> None:
    """Print one line per size and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 16000])
    parser.add_argument("--sampling_rate", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, folder, destination = options.measure
        measure(way, Path(folder), Path(destination), options.processes)
        return
    print(f"{options.processes} processes, {options.sampling_rate} Hz, 10 s")
    print(" records way     records/s  CPU ms/record  main MiB  worker MiB")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "records"
            folder.mkdir()
            write_recordings(folder, size, options.sampling_rate)
            for way in WAYS:
                arguments = [way, str(folder), str(Path(temporary) / way)]
                command = [sys.executable, __file__, "--processes", str(options.processes)]
                result = subprocess.run(
                    [*command, "--measure", *arguments], capture_output=True, text=True, check=True
                )
                seconds, processor, main_peak, worker_peak = map(float, result.stdout.split())
                print(
                    f"{size:>8} {way:<7} {size / seconds:>9.0f} {1000 * processor / size:>14.2f}"
                    f" {main_peak:>9.0f} {worker_peak:>11.0f}"
                )


if __name__ == "__main__":
    main()
