"""How fast ECGs are filtered, resampled, scaled and augmented, beside one record at a time.

    python scripts/bench_process.py [--records 256]

Processing: 12 leads x 10 s at 500 Hz, int16, to filtered millivolt at 100 Hz; SciPy does the same
with `sosfiltfilt` and `resample_poly` per record. Augmentation: masked leads, shift, noise, wander
and scale; NumPy does the same per record. Records per second of CPU time, one thread.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy import signal as scipy_signal
from side_by_side import Row, parser, present, turns
from torch import Tensor

from fm_med.ecg.augment import EcgAugmentation, augment
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.storage import StoredSignals

RATE, TARGET, SECONDS, GAIN = 500, 100, 10, 0.001
PEER_RECORDS = 32
SCIPY = "SciPy per record: sosfiltfilt, resample_poly"
NUMPY = "NumPy per record, written plainly"
PROCESS_AIM, AUGMENT_AIM = 6.0, 15.0


def stored_batch(records: int, rate: int) -> StoredSignals:
    """Return random walks as a cohort's reader gives them."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-30, 31, (records, 12, rate * SECONDS), dtype=np.int16)
    return StoredSignals(
        codes=list(steps.cumsum(axis=2, dtype=np.int16)),
        gain=np.full((records, 12), GAIN, np.float32),
        sampling_rate=np.full(records, rate, np.float32),
        lead_mask=np.ones((records, 12), bool),
        samples=np.full(records, rate * SECONDS, np.int32),
        missing_samples=np.zeros(records, np.int32),
    )


def scipy_process(codes: np.ndarray, filters: list[np.ndarray], rate: int) -> np.ndarray:
    """Process one record (12, samples) with SciPy."""
    values = codes * np.float32(GAIN)
    for one in filters:
        values = scipy_signal.sosfiltfilt(one, values)
    return scipy_signal.resample_poly(values, TARGET, rate, axis=-1).astype(np.float32)


def numpy_augment(signal: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Augment one record (12, samples) with NumPy."""
    samples = signal.shape[1]
    seconds = np.arange(samples) / rate
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


def check_process(ours: Tensor, theirs: np.ndarray) -> None:
    """Stop unless both ways agree away from the edges, where SciPy mirrors otherwise.

    The digital low-pass bends near 250 Hz and `resample_poly` has a filter of its own.
    """
    middle = slice(3 * TARGET, -3 * TARGET)
    error = ours.numpy()[..., middle] - theirs[..., middle]
    if np.sqrt(np.square(error).mean()) > 0.02 * np.sqrt(np.square(theirs[..., middle]).mean()):
        raise AssertionError("the processor and SciPy disagree")


def augmentation(signal: Tensor, rate: int) -> tuple[Callable[[], Tensor], Callable[[], object]]:
    """Return both ways to augment (records, 12, samples); NumPy's does the first few only."""
    rng, one_by_one = np.random.default_rng(0), signal[:PEER_RECORDS].numpy()
    inputs = {"signal": signal, "lead_mask": torch.ones(signal.shape[:2], dtype=torch.bool)}
    settings, rows = EcgAugmentation(sampling_rate=rate), torch.arange(len(signal))
    return (
        lambda: augment(inputs, settings=settings, seed=0, epoch=0, rows=rows)["signal"],
        lambda: [numpy_augment(one, rate, rng) for one in one_by_one],
    )


def ways_of(records: int) -> dict[str, tuple[Callable[[], object], Callable[[], object] | None]]:
    """Return each step in both ways, after a look whether they agree."""
    fast, slow, processor = (
        stored_batch(records, RATE),
        stored_batch(records, TARGET),
        EcgProcessor(),
    )
    filters = [
        scipy_signal.butter(2, 0.5, "high", fs=RATE, output="sos"),
        scipy_signal.butter(4, 40.0, "low", fs=RATE, output="sos"),
    ]
    rng, rows, settings = np.random.default_rng(0), torch.arange(records), EcgAugmentation()

    def process() -> dict[str, Tensor]:
        return processor.from_stored(fast)

    def process_plainly() -> list[np.ndarray]:
        return [scipy_process(one, filters, RATE) for one in fast.codes[:PEER_RECORDS]]

    def both() -> Tensor:
        return augment(process(), settings=settings, seed=0, epoch=0, rows=rows)["signal"]

    def both_plainly() -> list[np.ndarray]:
        return [numpy_augment(one, TARGET, rng) for one in process_plainly()]

    processed = process()["signal"]
    check_process(processed[:PEER_RECORDS], np.stack(process_plainly()))
    return {
        "filter, 500 to 100 Hz, scale, augment": (both, both_plainly),
        "filter, 500 to 100 Hz, scale": (process, process_plainly),
        "filter at 100 Hz, scale": (lambda: processor.from_stored(slow), None),
        "augment at 100 Hz": augmentation(processed, TARGET),
        "augment at 500 Hz": augmentation(
            torch.from_numpy(np.stack(fast.codes) * np.float32(GAIN)), RATE
        ),
    }


def main() -> None:
    """Print a row per step."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--records", type=int, default=256)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    ways = ways_of(options.records)
    ours = {name: own for name, (own, _) in ways.items()}
    plain = {f"plain {name}": other for name, (_, other) in ways.items() if other is not None}
    seconds = turns({**ours, **plain}, options.rounds)
    rows = []
    for name, (_, other) in ways.items():
        speed = PEER_RECORDS / seconds[f"plain {name}"] if other is not None else None
        way = "" if other is None else NUMPY if name.startswith("augment") else SCIPY
        aim = None if other is None else AUGMENT_AIM if name.startswith("augment") else PROCESS_AIM
        own = options.records / seconds[name]
        rows.append(Row(name, own, "records/s", speed, way, ratio_aim=aim))
    present(rows, options.json)


if __name__ == "__main__":
    main()
