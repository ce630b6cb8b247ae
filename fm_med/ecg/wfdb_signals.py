"""From the integers of WFDB signal files to leads in millivolt; the fast way for format 16.

Format 16 in one or several files, with any byte offset, is read here: PTB-XL, MIMIC-IV-ECG and the
`.mat` files of the CinC challenges. Other formats come in as integers that the wfdb library read.
"""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Leads, RecordError, millivolt_per
from fm_med.ecg.wfdb_header import Header, SignalLine

# Formats that pack samples store them in groups: bytes that 1, 2, ... samples of a group take.
_GROUP_BYTES: dict[int, tuple[int, ...]] = {
    8: (1,),
    16: (2,),
    24: (3,),
    32: (4,),
    61: (2,),
    80: (1,),
    160: (2,),
    212: (2, 3),
    310: (2, 4, 4),
    311: (2, 3, 4),
}
FLAC_FORMATS = (508, 516, 524)
_MISSING_16 = -32768
# The lowest code of a format means "no sample"; format 8 stores differences and has none.
_MISSING_BITS = {
    **dict.fromkeys((80, 508), 8),
    **dict.fromkeys((310, 311), 10),
    212: 12,
    **dict.fromkeys((16, 61, 160, 516), 16),
    **dict.fromkeys((24, 524), 24),
    32: 32,
}


def signal_path(header: Header, signal: SignalLine) -> Path:
    """Return the file of a signal.

    Raises:
        RecordError: There is no such file.
    """
    path = Path(header.folder, signal.file)
    if not path.is_file():
        raise RecordError(f"{header.path}: its signal file {signal.file} is missing")
    return path


def stored_samples(header: Header) -> int:
    """Return the frames of a record, from its files where the header does not say.

    Raises:
        RecordError: A file is missing, or the length of a FLAC stream is not in the header.
    """
    if header.samples is not None:
        return header.samples
    first = header.signals[0]
    size = signal_path(header, first).stat().st_size - first.byte_offset
    if first.format in FLAC_FORMATS:
        raise RecordError(f"{header.path}: gives no number of samples; FLAC signals need one")
    in_file = sum(s.samples_per_frame for s in header.signals if s.file == first.file)
    group = _GROUP_BYTES[first.format]
    return max(size, 0) * len(group) // group[-1] // in_file


def check_formats(header: Header) -> None:
    """Refuse formats that WFDB does not have, and files whose signals disagree about theirs.

    Raises:
        RecordError: A signal has such a format.
    """
    formats = (*_GROUP_BYTES, *FLAC_FORMATS)
    per_file: dict[str, tuple[int, int]] = {}
    for signal in header.signals:
        if signal.format not in formats:
            raise RecordError(f"{header.path}: signal format {signal.format}; expected {formats}")
        layout = (signal.format, signal.byte_offset)
        if per_file.setdefault(signal.file, layout) != layout:
            raise RecordError(
                f"{header.path}: {signal.file} has signals of format and offset {layout} and "
                f"{per_file[signal.file]}; expected one"
            )


def check_file_lengths(header: Header, samples: int) -> None:
    """Refuse files that end before the header says so (FLAC is left to its decoder).

    Raises:
        RecordError: A file is missing or too short; the message tells the bytes.
    """
    for name in dict.fromkeys(signal.file for signal in header.signals):
        signals = [signal for signal in header.signals if signal.file == name]
        if signals[0].format in FLAC_FORMATS:
            continue
        values = samples * sum(signal.samples_per_frame for signal in signals)
        group = _GROUP_BYTES[signals[0].format]
        groups, rest = divmod(values, len(group))
        expected = signals[0].byte_offset + groups * group[-1] + (group[rest - 1] if rest else 0)
        seen = signal_path(header, signals[0]).stat().st_size
        if seen < expected:
            raise truncated(header, name, seen, expected)


def truncated(header: Header, name: str, seen: int, expected: int) -> RecordError:
    """Return the error for a signal file that is too short."""
    return RecordError(
        f"{header.path}: its signal file {name} has {seen:,} bytes; expected {expected:,}"
    )


def is_plain(header: Header) -> bool:
    """Whether all signals are format 16, one sample per frame, without skew."""
    # A second offset in one file makes no sense; `check_formats` tells.
    offsets: dict[str, int] = {}
    for signal in header.signals:
        offset = offsets.setdefault(signal.file, signal.byte_offset)
        if signal.format != 16 or offset != signal.byte_offset:
            return False
        if signal.samples_per_frame != 1 or signal.skew:
            return False
    return True


def read_plain(header: Header, samples: int, leads: Sequence[tuple[int, int]]) -> Leads:
    """Read the leads of a plain record (`is_plain`).

    Args:
        header: The header.
        samples: Samples per signal.
        leads: (index in LEADS, index of the signal) of each lead to read.

    Raises:
        RecordError: A file is missing or too short, or a checksum differs.
    """
    wanted = [index for _, index in leads]
    digital = np.empty((len(leads), samples), dtype=np.int16)
    files = [signal.file for signal in header.signals]
    for name in dict.fromkeys(files):
        columns = [index for index, file in enumerate(files) if file == name]
        stored = _read_columns(header, header.signals[columns[0]], samples, len(columns)).T
        if columns == wanted:  # the usual case: one file, the twelve leads in order
            digital[:] = stored
            break
        rows = [row for row, index in enumerate(wanted) if files[index] == name]
        digital[rows] = stored[[columns.index(wanted[row]) for row in rows]]
    signals = [header.signals[index] for index in wanted]
    # Sums modulo 2^16 are what int16 gives by overflowing.
    check_sums(header.path, signals, digital.sum(axis=1, dtype=np.int16).tolist())
    missing = digital == _MISSING_16 if digital.min() == _MISSING_16 else None
    return to_leads(header.path, leads, signals, digital, missing)


def _read_columns(header: Header, signal: SignalLine, samples: int, columns: int) -> np.ndarray:
    """Return (samples, columns) int16 of one file."""
    path = os.path.join(header.folder, signal.file)  # noqa: PTH118 - half the time of a Path
    try:
        with io.FileIO(path) as file:
            file.seek(signal.byte_offset)
            content = file.read(samples * columns * 2)
    except FileNotFoundError:
        raise RecordError(f"{header.path}: its signal file {signal.file} is missing") from None
    if len(content) != samples * columns * 2:
        expected = signal.byte_offset + samples * columns * 2
        raise truncated(header, signal.file, Path(path).stat().st_size, expected)
    return np.frombuffer(content, "<i2").reshape(samples, columns)


def check_sums(path: str, signals: Sequence[SignalLine], sums: Sequence[int]) -> None:
    """Compare the sum of each signal's stored samples with the header, modulo 2^16.

    Raises:
        RecordError: A checksum differs: the file is damaged or is not the header's.
    """
    for signal, total in zip(signals, sums, strict=True):
        if signal.checksum is not None and (total - signal.checksum) % 65536:
            raise RecordError(
                f"{path}: signal {signal.name} of {signal.file} has checksum {total % 65536}; "
                f"expected {signal.checksum % 65536}"
            )


def to_leads(
    path: str,
    leads: Sequence[tuple[int, int]],
    signals: Sequence[SignalLine],
    digital: np.ndarray,
    missing: np.ndarray | None = None,
) -> Leads:
    """Convert stored integers to millivolt: (stored - baseline) / gain.

    Args:
        path: The record, for messages.
        leads: (index in LEADS, index of the signal) per row.
        signals: The header's line per row.
        digital: (rows, samples) stored integers, or means of them with NaN for missing ones.
        missing: (rows, samples) bool, True where the code for "no sample" stands; None: nowhere.

    Raises:
        RecordError: A lead has a unit that is no voltage.
    """
    for (position, _), line in zip(leads, signals, strict=True):
        if line.unit != "mV":
            millivolt_per(line.unit, path, LEADS[position])
    scale = _scale(tuple((s.gain, s.baseline, s.unit, s.samples_per_frame) for s in signals))
    exact = scale.exact and digital.dtype == np.int16
    signal: np.ndarray = digital.astype(np.float32 if exact else np.float64)
    if scale.has_baseline:
        signal -= scale.baseline
    signal /= scale.per_millivolt.astype(signal.dtype)
    signal = signal.astype(np.float32, copy=False)
    if missing is not None:
        signal[missing] = np.nan
    return Leads([position for position, _ in leads], signal, scale.resolution)


class _Scale(NamedTuple):
    per_millivolt: np.ndarray  # (rows, 1) stored units
    baseline: np.ndarray  # (rows, 1) stored units
    has_baseline: bool
    exact: bool  # float32 division of int16 rounds as float64 does
    resolution: np.ndarray  # (rows,) millivolt per stored unit; finer where frames are averaged


@lru_cache(maxsize=256)
def _scale(lines: tuple[tuple[float, int, str, int], ...]) -> _Scale:
    """Return the conversion of rows of (gain, baseline, unit, samples per frame)."""
    per_millivolt = np.array([[gain / millivolt_per(unit)] for gain, _, unit, _ in lines])
    baseline = np.array([[baseline] for _, baseline, _, _ in lines])
    steps = np.array([samples_per_frame for *_, samples_per_frame in lines])
    exact = bool((per_millivolt.astype(np.float32) == per_millivolt).all())
    resolution = 1 / np.abs(per_millivolt[:, 0] * steps)
    return _Scale(per_millivolt, baseline, bool(baseline.any()), exact, resolution)


def sum_stored(signal: SignalLine, stored: np.ndarray) -> int:
    """Return the sum of stored integers for the checksum; NaN counts as its format's code."""
    missing = np.isnan(stored)
    total = int(stored[~missing].sum(dtype=np.float64))
    if signal.format in _MISSING_BITS:
        total -= int(missing.sum()) * 2 ** (_MISSING_BITS[signal.format] - 1)
    return total


def average_frames(signal: SignalLine, stored: np.ndarray) -> np.ndarray:
    """Return one value per frame: the mean of its samples, NaN where one of them is missing.

    A skewed signal is moved back by its skew, which leaves missing frames at its end.

    Args:
        signal: The header's line.
        stored: (frames * samples per frame,) stored integers as float64, NaN where missing.

    Returns:
        (frames,) float64.
    """
    frames = stored.reshape(-1, signal.samples_per_frame).mean(axis=1)
    skew = min(signal.skew, len(frames))
    return np.concatenate([frames[skew:], np.full(skew, np.nan)])
