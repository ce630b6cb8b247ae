"""Measure how fast recordings are read: WFDB files, and rows of a cohort.

    python scripts/bench_read.py shared/data/ptbxl_500/records100

The ways alternate in one process and medians are printed, so that other load on the machine falls
on all of them. Rates are per second of CPU time of one process, with warm file caches.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import wfdb

from fm_med.ecg.records import read_recording
from fm_med.ecg.storage import SIGNAL_SCHEMA, decode, encode

ROWS_PER_BATCH = 256
STORED_ROWS = 4096


def read_with_wfdb(paths: list[Path]) -> None:
    """Read as most code bases do: one library call per record."""
    for path in paths:
        wfdb.rdrecord(str(path).removesuffix(".hea")).p_signal.T.astype(np.float32)


def read_here(paths: list[Path]) -> None:
    """Read with the project's reader (checksums and lengths verified)."""
    for path in paths:
        read_recording(path)


def write_rows(paths: list[Path], target: Path) -> None:
    """Write recordings as a cohort stores them, repeated to `STORED_ROWS` rows."""
    schema = pa.schema(SIGNAL_SCHEMA)
    rows = [encode(read_recording(path)) for path in paths[:ROWS_PER_BATCH]]
    rows = (rows * ROWS_PER_BATCH)[:ROWS_PER_BATCH]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    with pa.ipc.new_file(target, schema) as writer:
        for _ in range(STORED_ROWS // ROWS_PER_BATCH):
            writer.write_batch(batch)


def read_rows(chunks: list[pa.Table], scale: bool) -> None:
    """Decode all batches of a memory-mapped file, and scale them to float32 millivolt if wanted."""
    buffer = None
    for chunk in chunks:
        stored = decode(chunk)
        if scale:
            if buffer is None:
                buffer = np.empty(stored.signal.shape, np.float32)
            np.multiply(stored.signal, stored.gain[:, :, None], out=buffer)


def medians(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each way; the ways alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    """Print records per second of each way and the ratio to the library."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with WFDB records of equal length")
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = sorted(options.folder.rglob("*.hea"))[: options.records]
    if not paths:
        parser.error(f"no .hea file below {options.folder}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.arrow")
        write_rows(paths, file)
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
            chunks = [pa.Table.from_batches([batch]) for batch in table.to_batches()]
            ways: dict[str, Callable[[], None]] = {
                "wfdb.rdrecord": lambda: read_with_wfdb(paths),
                "read_recording": lambda: read_here(paths),
                "stored, int16": lambda: read_rows(chunks, scale=False),
                "stored, float32": lambda: read_rows(chunks, scale=True),
            }
            seconds = medians(ways, options.rounds)
    rates = {
        name: (STORED_ROWS if name.startswith("stored") else len(paths)) / value
        for name, value in seconds.items()
    }
    for name, rate in rates.items():
        print(f"{name:<16}{rate:>10,.0f} records/s{rate / rates['wfdb.rdrecord']:>8.1f}x")


if __name__ == "__main__":
    main()
