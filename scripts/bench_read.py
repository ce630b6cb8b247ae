"""How fast ECGs are read: rows of a cohort to float32 millivolt batches, and WFDB files.

    python scripts/bench_read.py [--records 4096 1024]

Random recordings of 12 leads x 10 s at 100 and 500 Hz, written by the project's own cohort writer,
and read shuffled by the call that training makes (`Pairs.inputs`) with a processor that neither
filters nor resamples. Records per second of CPU time, one thread, warm file caches. Every way gives
equal millivolt, which is asserted first. "memory map" is the limit: one plain int16 array on disk,
rows converted into one array that is used again for every batch.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
import wfdb
from side_by_side import Row, parser, present, turns
from torch import Tensor

from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.recording import Recording
from fm_med.ecg.records import read_recording
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.pairs import Pairs
from fm_med.sampling import in_order

SECONDS, GAIN = 10, 0.001
BATCHES = (64, 256)
PEER_RECORDS = 256  # for the ways that take a millisecond per record
AIMS = {100: (150_000.0, 150.0), 500: (30_000.0, 40.0)}
WFDB, DATASETS = "wfdb.rdsamp per item", "datasets, items in torch format"
Read = Callable[[np.ndarray], Tensor]  # rows (batch,) to (batch, 12, samples) mV


def random_codes(records: int, rate: int) -> np.ndarray:
    """Return random walks (records, 12, samples) int16."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-30, 31, (records, len(LEADS), SECONDS * rate), dtype=np.int16)
    return steps.cumsum(axis=2, dtype=np.int16)


def write_cohort(folder: Path, codes: np.ndarray, rate: int) -> None:
    """Write a cohort with one split."""
    names = ("subject_id", "record_id", "split")
    schema = pa.schema([*(pa.field(name, pa.string()) for name in names), *SIGNAL_SCHEMA])
    card = CohortCard(
        name="random", modality="ecg", units="mV", sampling_rate=float(rate), leads=list(LEADS)
    )
    every, resolution = np.ones(len(LEADS), bool), np.full(len(LEADS), GAIN, np.float32)
    with CohortWriter(folder, card, schema) as writer:
        for row, one in enumerate(codes):
            millivolt = one * np.float32(GAIN)
            encoded = encode(Recording(millivolt, float(rate), every, 0, resolution))
            writer.write("train", [{"subject_id": str(row), "record_id": str(row), **encoded}])


def write_wfdb(folder: Path, codes: np.ndarray, rate: int) -> list[str]:
    """Write WFDB records of format 16; return their paths without an ending."""
    paths = []
    for row, one in enumerate(codes):
        wfdb.wrsamp(
            f"r{row}",
            fs=rate,
            units=["mV"] * len(LEADS),
            sig_name=list(LEADS),
            d_signal=one.T.astype(np.int64),
            fmt=["16"] * len(LEADS),
            adc_gain=[1 / GAIN] * len(LEADS),
            baseline=[0] * len(LEADS),
            write_dir=str(folder),
        )
        paths.append(str(folder / f"r{row}"))
    return paths


def ours(folder: Path, processor: EcgProcessor) -> Read:
    """Return what the pretraining loop does to read a batch."""
    cohort = open_cohort(folder)
    rows = cohort.splits["train"].num_rows
    none = np.zeros(rows, np.int64)
    pairs = Pairs(cohort, "train", np.arange(rows), [""] * rows, none, none, none, none)
    return lambda rows: pairs.inputs(rows, processor, torch.device("cpu"))["signal"]


def memory_map(file: Path, largest: int) -> Read:
    """Return the reading of a plain array on disk, always into the same memory."""
    mapped = np.load(file, mmap_mode="r")
    codes = np.asarray(mapped)
    out = np.empty((largest, *codes.shape[1:]), np.float32)

    def read(rows: np.ndarray) -> Tensor:
        for place, row in zip(out, rows.tolist()):
            place[...] = codes[row]
            np.multiply(place, np.float32(GAIN), out=place)
        return torch.from_numpy(out[: len(rows)])

    return read


def dataset_items(codes: np.ndarray) -> Read:
    """Return the reading of items of a data set of int16 arrays, in torch's format."""
    features = datasets.Features({"signal": datasets.Array2D(codes.shape[1:], "int16")})
    made = datasets.Dataset.from_dict({"signal": list(codes)}, features=features)
    items = made.with_format("torch", dtype=torch.float32)
    return lambda rows: torch.stack([items[row]["signal"] for row in rows.tolist()]) * GAIN


def wfdb_items(paths: list[str]) -> Read:
    """Return the reading of files by `wfdb.rdsamp`, one by one."""

    def read(rows: np.ndarray) -> Tensor:
        signals = [wfdb.rdsamp(paths[row])[0].T.astype(np.float32) for row in rows.tolist()]
        return torch.from_numpy(np.stack(signals))

    return read


def files_here(paths: list[str]) -> Read:
    """Return the project's reading of the same files, checksums verified."""
    return lambda rows: torch.from_numpy(
        np.stack([read_recording(paths[row]).signal for row in rows.tolist()])
    )


def through(read: Read, order: np.ndarray, size: int) -> Callable[[], None]:
    """Return a call that reads all rows, batch by batch."""

    def once() -> None:
        for batch in in_order(len(order), size):
            read(order[batch])

    return once


def measured(folder: Path, rate: int, records: int, rounds: int) -> list[Row]:
    """Check and measure all ways at one sampling rate."""
    codes = random_codes(records, rate)
    write_cohort(folder / "cohort", codes, rate)
    np.save(folder / "codes.npy", codes)
    paths = write_wfdb(folder, codes[:PEER_RECORDS], rate)
    order = np.random.default_rng(1).permutation(records)
    few = order[order < PEER_RECORDS]
    unfiltered = EcgProcessor(sampling_rate=rate, high_pass=None, low_pass=None)
    plain = ours(folder / "cohort", unfiltered)
    limit = memory_map(folder / "codes.npy", max(BATCHES))
    reads: dict[str, tuple[Read, np.ndarray, int]] = {
        WFDB: (wfdb_items(paths), few, 64),
        DATASETS: (dataset_items(codes[:PEER_RECORDS]), few, 64),
        "files": (files_here(paths), few, 64),
        **{f"ours {size}": (plain, order, size) for size in BATCHES},
        **{f"limit {size}": (limit, order, size) for size in BATCHES},
    }
    for name, (read, rows, _) in reads.items():
        expected = torch.from_numpy(codes[rows[:64]] * np.float32(GAIN))
        if (read(rows[:64]) - expected).abs().max() > 1e-5:
            raise AssertionError(f"{name} gives other voltages at {rate} Hz")
    del codes
    reads["filtered"] = (ours(folder / "cohort", EcgProcessor(sampling_rate=rate)), few, 64)
    seconds = turns({name: through(*way) for name, way in reads.items()}, rounds)
    return rows_of(rate, {name: len(reads[name][1]) / took for name, took in seconds.items()})


def rows_of(rate: int, speed: dict[str, float]) -> list[Row]:
    """Return the rows of one sampling rate."""
    at_least, ratio = AIMS[rate]
    unit, made = "records/s", []
    for size in BATCHES:
        what = f"cohort to float32 mV, {rate} Hz, batches of {size}"
        own = speed[f"ours {size}"]
        made += [
            Row(what, own, unit, speed[WFDB], WFDB, ours_aim=at_least, ratio_aim=ratio),
            Row(what, own, unit, speed[DATASETS], DATASETS),
            Row(what, own, unit, speed[f"limit {size}"], "memory map, one array used again"),
        ]
    files = f"WFDB files, {rate} Hz, checksums verified"
    filtered = f"cohort, {rate} Hz, with the default band-pass"
    return [
        *made,
        Row(files, speed["files"], unit, speed[WFDB], WFDB),
        Row(filtered, speed["filtered"], unit, speed[WFDB], f"{WFDB}, without a filter"),
    ]


def main() -> None:
    """Print the rows of both sampling rates."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--records", type=int, nargs=2, default=[4096, 1024])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rows = []
    for rate, records in zip(AIMS, options.records):
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(Path(folder), rate, records, options.rounds)
    present(rows, options.json)


if __name__ == "__main__":
    main()
