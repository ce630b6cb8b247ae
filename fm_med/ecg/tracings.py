"""Recordings in HDF5 files that hold many of them, as CODE-15 is published.

Each file has `exam_id` (n,) and `tracings` (n, samples, 12) float32, leads in the order of `LEADS`,
shorter ones between zeros in the middle. A tracing's place is written ``file.hdf5#row``;
``file.hdf5#`` is an exam that should be in that file and was not found there.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Leads, RecordError, Recording, make_recording
from fm_med.ecg.records import read_recording
from fm_med.errors import InputError

SAMPLING_RATE = 400.0  # Hz; the files do not say
MARK = "#"
_PLACE = re.compile(rf"(.+\.hdf5){MARK}(\d*)")
ROWS_AT_ONCE = 64  # 13 MB; a compressed file is expanded in blocks of many rows


def exam_ids(path: Path) -> np.ndarray:
    """Return (n,) int64, the exam of each tracing in a file.

    Raises:
        RecordError: It is not a HDF5 file, or has another layout.
    """
    with _open(path) as file:
        tracings, ids = file.get("tracings"), file.get("exam_id")
        if tracings is None or ids is None:
            raise RecordError(
                f"{path}: has {', '.join(file) or 'nothing'}; expected exam_id and tracings"
            )
        shape: tuple[int, ...] = getattr(tracings, "shape", ())
        if len(shape) != 3 or shape[2] != len(LEADS) or ids.shape != shape[:1]:
            raise RecordError(
                f"{path}: tracings {shape} of exam_id {ids.shape}; expected (n, samples, 12), (n,)"
            )
        try:
            return np.asarray(ids[:], np.int64)
        except OSError as error:
            raise RecordError(f"{path}: exam_id cannot be read ({error})") from error


@dataclass(frozen=True)
class TracingReader:
    """Reads the tracings at some places; a place without a row mark is a file of one recording.

    Attributes:
        millivolt_per_unit: What one stored unit is.
    """

    millivolt_per_unit: float = 1.0

    def __call__(self, places: Sequence[str]) -> Iterator[Recording | InputError]:
        """Read the recordings at places such as ``exams_part0.hdf5#17``, neighbours at once."""
        marked = [_PLACE.fullmatch(place) for place in places]
        pairs = zip(places, marked)
        for file, group in groupby(pairs, lambda pair: pair[1][1] if pair[1] else None):
            if file is None:
                yield from (self._read_one(place) for place, _ in group)
            else:
                yield from self._read_file(Path(file), [mark[2] for _, mark in group if mark])

    def _read_one(self, place: str) -> Recording | InputError:
        try:
            recording = read_recording(place)
        except InputError as error:
            return error
        factor = np.float32(self.millivolt_per_unit)
        return replace(
            recording, signal=recording.signal * factor, resolution=recording.resolution * factor
        )

    def _read_file(self, path: Path, rows: list[str]) -> Iterator[Recording | InputError]:
        try:
            with _open(path) as file:
                tracings = file.get("tracings")
                numbers = [int(row) if row else None for row in rows]
                for block in _blocks(numbers):
                    yield from self._read_block(path, tracings, block)
        except RecordError as error:
            yield from [error] * len(rows)

    def _read_block(
        self, path: Path, tracings: Any, rows: list[int | None]
    ) -> Iterator[Recording | InputError]:
        """Read a few rows that are close to each other; one that is damaged spoils no other."""
        if rows[0] is None or tracings is None:
            yield from [RecordError(f"{path}: has no tracing of this exam")] * len(rows)
            return
        known = [row for row in rows if row is not None]
        first, last = min(known), max(known)
        try:
            stored = np.asarray(tracings[first : last + 1], np.float32)
        except OSError as error:
            if len(known) > 1:
                for row in known:
                    yield from self._read_block(path, tracings, [row])
            else:
                yield RecordError(f"{path}: tracing {first} cannot be read ({error})")
            return
        for row in known:
            yield self._recording(f"{path}, tracing {row}", stored[row - first])

    def _recording(self, place: str, tracing: np.ndarray) -> Recording | InputError:
        """Turn (samples, 12) stored units, padded with zeros, into a recording."""
        with np.errstate(invalid="ignore", over="ignore"):  # damaged bytes may be any float
            signal = without_padding(tracing) * np.float32(self.millivolt_per_unit)
        signal[~np.isfinite(signal)] = np.nan
        if not len(signal):
            return RecordError(f"{place}: all samples are zero")
        leads = Leads(range(len(LEADS)), np.ascontiguousarray(signal.T), np.full(12, np.nan))
        try:
            return make_recording(place, leads, SAMPLING_RATE, LEADS)
        except InputError as error:
            return error


def without_padding(tracing: np.ndarray) -> np.ndarray:
    """Cut samples at both ends of (samples, leads) that are zero in every lead."""
    signal = np.flatnonzero((tracing != 0).any(axis=1))
    return tracing[signal[0] : signal[-1] + 1] if len(signal) else tracing[:0]


def _blocks(rows: Sequence[int | None]) -> Iterator[list[int | None]]:
    """Cut rows into runs that span at most `ROWS_AT_ONCE`; a missing one stands alone."""
    block: list[int | None] = []
    for row in rows:
        if block and (row is None or block[0] is None or not 0 <= row - block[0] < ROWS_AT_ONCE):
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _open(path: Path) -> Any:
    """Open a HDF5 file for reading.

    Raises:
        RecordError: There is no such file, or it is damaged.
    """
    import h5py  # type: ignore[import-untyped]

    if not path.is_file():
        raise RecordError(f"{path}: there is no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read as HDF5 ({error})") from error
