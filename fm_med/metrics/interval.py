"""A value with its 95 % interval, and the bootstrap over patients that gives it."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

# Multiplicities held at once: 2 MB in float64, so that one chunk stays in the processor's cache.
CHUNK_ELEMENTS = 2**18


@dataclass(frozen=True)
class Interval:
    """A reported number: the value on the data at hand and its bootstrap interval.

    Attributes:
        value: The statistic on all rows; NaN where it is undefined (one class only).
        low: Lower end; NaN where fewer than half of the resamples have a value.
        high: Upper end; NaN where `low` is.
        n: Number of resampled units: patients, unless the caller resampled something else.
        dropped: Resamples in which the statistic was undefined.
    """

    value: float
    low: float
    high: float
    n: int
    dropped: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the leaf of ``metrics.json``; NaN and infinity become None (JSON null)."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        leaf: dict[str, float | int | None] = {
            name: float(end) if math.isfinite(end) else None for name, end in ends.items()
        }
        return leaf | {"n": int(self.n)}

    def __str__(self) -> str:
        """Return ``0.912 [0.880, 0.940]``."""
        if math.isnan(self.value):
            return "not defined"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Callable[..., float | np.ndarray],
    subject_id: Sequence[str] | np.ndarray,
    *arrays: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    centred: bool = False,
) -> Interval:
    """Return `statistic(*arrays)` with its percentile interval over resampled patients.

    Patients are drawn with replacement and bring all their rows along (cluster bootstrap): rows
    of one patient are not independent, and resampling rows would make the interval too narrow.

    Args:
        statistic: A function of the arrays that returns a float, NaN where it is undefined. One
            with a keyword ``multiplicity`` (as all of this package) is given how often each row
            counts, (rows, resamples), and returns (resamples,); any other is called once per
            resample with the drawn rows.
        subject_id: (rows,) the patient of each row.
        arrays: Arrays with `rows` as their first dimension.
        resamples: Number of bootstrap resamples.
        seed: Seed of the draws; the same patients and seed give the same draws.
        level: Coverage of the interval.
        centred: Shift the interval so that the median resample lies on the value; for a statistic
            that repeated rows push to one side, such as a rank.

    Returns:
        The interval; resamples in which the statistic is undefined are left out and counted.

    Raises:
        ValueError: The arrays differ in their number of rows, or there are none.

    References:
        Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    rows = [np.asarray(array) for array in arrays]
    patient = _patient_index(subject_id, rows)
    draws = [
        _on_resamples(statistic, rows, multiplicity)
        for multiplicity in _draw_patients(patient, resamples, seed)
    ]
    interval = _interval(float(statistic(*rows)), draws, patient, level)
    if not centred or math.isnan(interval.low):
        return interval
    shift = interval.value - float(np.nanmedian(np.concatenate(draws)))
    return replace(interval, low=interval.low + shift, high=interval.high + shift)


def paired_difference(
    statistic: Callable[..., float | np.ndarray],
    subject_id: Sequence[str] | np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *shared: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return `statistic(*shared, a) - statistic(*shared, b)` with its interval.

    Both are evaluated on the same resampled patients, so what they have in common cancels:
    ``paired_difference(macro_auroc, subject_id, model_score, baseline_score, label)``.

    Args:
        statistic: See `bootstrap`; its last array is the prediction.
        subject_id: (rows,) the patient of each row.
        a: Predictions of the model, rows first.
        b: Predictions of the baseline, rows first.
        shared: The arrays before the prediction (labels, or time and event).
        resamples: Number of bootstrap resamples.
        seed: Seed of the draws.
        level: Coverage of the interval.

    Raises:
        ValueError: The arrays differ in their number of rows, or there are none.
    """
    common = [np.asarray(array) for array in shared]
    one, other = [*common, np.asarray(a)], [*common, np.asarray(b)]
    patient = _patient_index(subject_id, [*one, np.asarray(b)])
    draws = [
        _on_resamples(statistic, one, multiplicity) - _on_resamples(statistic, other, multiplicity)
        for multiplicity in _draw_patients(patient, resamples, seed)
    ]
    return _interval(float(statistic(*one)) - float(statistic(*other)), draws, patient, level)


def _patient_index(
    subject_id: Sequence[str] | np.ndarray, arrays: Sequence[np.ndarray]
) -> np.ndarray:
    """Return (rows,) the number of each row's patient, 0 .. patients - 1."""
    lengths = [len(subject_id), *(len(array) for array in arrays)]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(f"bootstrap needs arrays of one length, however: {lengths}")
    return np.unique(np.asarray(subject_id), return_inverse=True)[1]


def _draw_patients(patient: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (rows, chunk of resamples) how often each row's patient was drawn."""
    generator = np.random.default_rng(seed)
    patients = int(patient.max()) + 1
    chunk = max(1, CHUNK_ELEMENTS // len(patient))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(patients, size=(size, patients))
        cell = drawn * size + np.arange(size)[:, None]
        counts = np.bincount(cell.ravel(), minlength=patients * size).reshape(patients, size)
        yield counts[patient].astype(np.float64)


def _on_resamples(
    statistic: Callable[..., float | np.ndarray],
    arrays: Sequence[np.ndarray],
    multiplicity: np.ndarray,
) -> np.ndarray:
    """Return (resamples,) the statistic on each resample."""
    if "multiplicity" in inspect.signature(statistic).parameters:
        return np.asarray(statistic(*arrays, multiplicity=multiplicity))
    counts = multiplicity.T.astype(np.int64)
    drawn = [np.repeat(np.arange(len(count)), count) for count in counts]
    return np.array([float(statistic(*(array[rows] for array in arrays))) for rows in drawn])


def _interval(
    value: float, draws: Sequence[np.ndarray], patient: np.ndarray, level: float
) -> Interval:
    """Return the percentile interval of the resamples that have a value."""
    values = np.concatenate(draws) if draws else np.empty(0)
    defined = values[np.isfinite(values)]
    low = high = math.nan
    if math.isfinite(value) and 2 * len(defined) > len(values):
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    dropped = len(values) - len(defined)
    return Interval(value, float(low), float(high), int(patient.max()) + 1, dropped)
