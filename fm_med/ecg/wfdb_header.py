"""Parse WFDB headers (https://physionet.org/physiotools/wag/header-5.htm) fast.

What is read is what a signal needs: files, formats, gains, checksums, names. Times and comments are
left out.
"""

import io
import math
import os
import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from fm_med.ecg.recording import RecordError

_DEFAULT_RATE = 250.0
_DEFAULT_GAIN = 200.0
_GAIN_RANGE = (1e-9, 1e12)
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([^(/]+)(?:\(([-+]?\d+)\))?(?:/(\S+))?")
_FIELDS = 9


class SignalLine(NamedTuple):
    """One signal of a header; `gain` is stored units per physical unit, `skew` is in frames."""

    file: str
    format: int
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


class Header(NamedTuple):
    """A parsed header; `samples` (per signal, in frames) is None where the header gives none.

    A multi-segment record has `segments` (name, samples) and no signals of its own.
    """

    path: str
    sampling_rate: float
    samples: int | None
    signals: list[SignalLine]
    segments: list[tuple[str, int]]

    @property
    def folder(self) -> str:
        """The folder of the header and its signal files."""
        return os.path.split(self.path)[0]

    @property
    def names(self) -> list[str]:
        """Name of each signal."""
        return [signal.name for signal in self.signals]

    @property
    def samples_per_frame(self) -> int:
        """Stored samples of all signals in one frame."""
        return sum(signal.samples_per_frame for signal in self.signals)


def read_header(path: str) -> Header:
    """Read a header file.

    Args:
        path: The `.hea` file.

    Raises:
        RecordError: The file is not a header, or it names a file outside its own folder.
    """
    with io.FileIO(path) as file:  # half the time of a buffered file
        content = file.readall()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # the µ of old headers
    lines = [line for line in text.splitlines() if line and not line.isspace() and line[0] != "#"]
    line = lines[0] if lines else ""
    try:
        n_segments, n_signals, rate, samples = _parse_record_line(line)
        if n_segments is not None:
            segments = [_parse_segment(line := text_line) for text_line in lines[1:]]
            signals = []
        else:
            segments = []
            signals = [_parse_signal(line := text_line) for text_line in lines[1 : n_signals + 1]]
    except (ValueError, IndexError) as error:
        raise RecordError(f"{path}: not a line of a WFDB header: {line[:120]!r}") from error
    expected, found = (n_segments, len(segments)) if n_segments else (n_signals, len(signals))
    if expected != found:
        raise RecordError(f"{path}: the header lists {found} signals; expected {expected}")
    for name in [signal.file for signal in signals] + [name for name, _ in segments]:
        _check_inside(path, name)
    return Header(path, rate, samples, signals, segments)


def _parse_record_line(line: str) -> tuple[int | None, int, float, int | None]:
    """Return number of segments (None: a plain record), signals, rate (Hz) and samples."""
    fields = line.split()
    name_and_segments = fields[0].split("/")
    n_segments = int(name_and_segments[1]) if len(name_and_segments) > 1 else None
    rate = float(fields[2].split("/")[0]) if len(fields) > 2 else _DEFAULT_RATE
    samples = int(fields[3]) if len(fields) > 3 else 0
    if not (math.isfinite(rate) and rate > 0) or samples < 0 or int(fields[1]) < 0:
        raise ValueError(line)
    # A length of 0 means "not known" to WFDB; a layout header, which is truly empty, has no file.
    return n_segments, int(fields[1]), rate, samples or None


def _parse_segment(line: str) -> tuple[str, int]:
    name, samples = line.split()[:2]
    if int(samples) < 0:
        raise ValueError(line)
    return name, int(samples)


def _parse_signal(line: str) -> SignalLine:
    fields = line.split(None, _FIELDS - 1)
    count = len(fields)
    number, samples_per_frame, skew, byte_offset = _parse_format(fields[1])
    gain, baseline, unit = _parse_gain(fields[2]) if count > 2 else (_DEFAULT_GAIN, None, "mV")
    if baseline is None:
        baseline = int(fields[4]) if count > 4 else 0
    return SignalLine(
        fields[0],
        number,
        samples_per_frame,
        skew,
        byte_offset,
        gain,
        baseline,
        unit,
        int(fields[6]) if count > 6 else None,
        fields[8].strip() if count == _FIELDS else "",
    )


@lru_cache(maxsize=1024)
def _parse_format(field: str) -> tuple[int, int, int, int]:
    """Return format, samples per frame, skew (frames) and byte offset of '16x1:0+24'."""
    match = _FORMAT.fullmatch(field)
    if match is None:
        raise ValueError(field)
    number, samples_per_frame, skew, byte_offset = match.groups()
    return int(number), int(samples_per_frame or 1) or 1, int(skew or 0), int(byte_offset or 0)


@lru_cache(maxsize=1024)
def _parse_gain(field: str) -> tuple[float, int | None, str]:
    """Return gain, baseline (None: the ADC zero) and unit of '1000.0(0)/mV'."""
    match = _GAIN.fullmatch(field)
    if match is None:
        raise ValueError(field)
    gain = float(match[1]) or _DEFAULT_GAIN  # WFDB: 0 means "not calibrated", take the default
    if not _GAIN_RANGE[0] <= abs(gain) <= _GAIN_RANGE[1]:
        raise ValueError(field)
    return gain, None if match[2] is None else int(match[2]), match[3] or "mV"


def _check_inside(path: str, name: str) -> None:
    """Refuse a file name that leads out of the header's folder."""
    if "/" not in name and "\\" not in name and name != "..":
        return
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise RecordError(f"{path}: names the file {name!r}; expected one inside its own folder")
