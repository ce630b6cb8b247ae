"""How fast ECGs are processed and augmented, beside the usual way of one record at a time.

python scripts/bench_process.py [--records 64] [--repeats 5]

Processing: 12 leads x 10 s at 500 Hz, int16, to filtered millivolt at 100 Hz; SciPy does the same
with `sosfiltfilt` and `resample_poly` per record. Augmentation: masked leads, shift, noise, wander
and scale at 100 Hz; NumPy does the same per record. One thread; the best of the repeats counts.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import signal as scipy_signal

from fm_med.ecg.augment import EcgAugmentation, augment
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.storage import StoredSignals

RATE, TARGET, SECONDS, GAIN = 500, 100, 10, 0.001


def stored_batch(records: int) -> StoredSignals:
    """Return random int16 recordings as a cohort's reader gives them."""
    rng = np.random.default_rng(0)
    return StoredSignals(
        signal=rng.integers(-2000, 2000, (records, 12, RATE * SECONDS), dtype=np.int16),
        gain=np.full((records, 12), GAIN, np.float32),
        sampling_rate=np.full(records, RATE, np.float32),
        lead_mask=np.ones((records, 12), bool),
        samples=np.full(records, RATE * SECONDS, np.int32),
    )


def scipy_process(codes: np.ndarray, filters: list[np.ndarray]) -> np.ndarray:
    """Process one record (12, samples) with SciPy."""
    values = codes * np.float32(GAIN)
    for one in filters:
        values = scipy_signal.sosfiltfilt(one, values)
    return scipy_signal.resample_poly(values, TARGET, RATE, axis=-1).astype(np.float32)


def numpy_augment(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment one record (12, samples) with NumPy."""
    samples = signal.shape[1]
    seconds = np.arange(samples) / TARGET
    out = signal * rng.uniform(0.9, 1.1)
    out += rng.uniform(0, 0.02) * rng.standard_normal(signal.shape)
    phases, frequency = rng.uniform(0, 2 * np.pi, (12, 1)), rng.uniform(0.05, 0.7)
    out += rng.uniform(0, 0.05) * np.sin(2 * np.pi * frequency * seconds + phases)
    shift = rng.integers(-samples // 10, samples // 10 + 1)
    out = np.roll(out, shift, axis=1)
    out[:, : max(shift, 0)] = 0
    out[:, samples + min(shift, 0) :] = 0
    if rng.random() < 0.5:
        out[rng.permutation(12)[: rng.integers(1, 10)]] = 0
    return out.astype(np.float32)


def records_per_second(work: Callable[[], object], records: int, repeats: int) -> float:
    """Return records per second of CPU time, the best of the repeats."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return records / best


def report(what: str, ours: float, other: str, theirs: float) -> None:
    """Print one comparison."""
    print(f"{what}: {ours:,.0f} records/s, {other} {theirs:,.0f}: {ours / theirs:.1f}x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records, repeats = arguments.records, arguments.repeats

    stored, processor = stored_batch(records), EcgProcessor()
    filters = [
        scipy_signal.butter(2, 0.5, "high", fs=RATE, output="sos"),
        scipy_signal.butter(4, 40.0, "low", fs=RATE, output="sos"),
    ]
    ours = records_per_second(lambda: processor.from_stored(stored), records, repeats)
    theirs = records_per_second(
        lambda: [scipy_process(one, filters) for one in stored.signal], records, repeats
    )
    report("process 500 to 100 Hz", ours, "SciPy", theirs)

    inputs = processor.from_stored(stored)
    rows, rng = torch.arange(records), np.random.default_rng(0)
    signal = inputs["signal"].numpy()
    settings = EcgAugmentation()
    ours = records_per_second(
        lambda: augment(inputs, settings=settings, seed=0, epoch=0, rows=rows), records, repeats
    )
    theirs = records_per_second(
        lambda: [numpy_augment(one, rng) for one in signal], records, repeats
    )
    report("augment at 100 Hz", ours, "NumPy", theirs)


if __name__ == "__main__":
    main()
