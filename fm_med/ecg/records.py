"""Read ECG recordings of any origin to twelve leads in millivolt.

WFDB records in every signal format and layout (also as the `.mat` of the CinC and CPSC challenges),
MATLAB files in the style of CODE-15, and `.npy` with a JSON header. Plain format-16 records, which
is nearly all of them, take a fast path; the wfdb library reads every other format.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_med.ecg.arrays import read_matlab, read_npy
from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import (
    Leads,
    RecordError,
    Recording,
    check_size,
    make_recording,
    standard_leads,
)
from fm_med.ecg.wfdb_header import Header, read_header
from fm_med.ecg.wfdb_signals import (
    average_frames,
    check_file_lengths,
    check_formats,
    check_sums,
    is_plain,
    read_plain,
    stored_samples,
    sum_stored,
    to_leads,
)

__all__ = ["RecordError", "Recording", "read_recording"]

MAX_BYTES = 64 * 2**20


def read_recording(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Recording:
    """Read one ECG.

    Leads are found and ordered by name, voltages converted to millivolt, gaps of at most 200 ms
    between samples interpolated. Signals that are no standard lead are ignored. Several samples per
    frame are averaged to one, skewed signals are aligned. WFDB checksums and file lengths are
    verified.

    Args:
        path: The record, with or without its `.hea`, `.dat`, `.mat` or `.npy`.
        max_bytes: What a recording may expand to: samples x signals (at least 12) x 8 bytes, as its
            header claims. It is checked before anything is expanded.

    Raises:
        RecordError: The record is missing, damaged, too large, has a unit that is no voltage or
            no standard lead with signal.
    """
    file = _find_file(os.fspath(path))
    if file.endswith(".npy"):
        return read_npy(Path(file), max_bytes)
    if file.endswith(".mat"):
        return read_matlab(Path(file), max_bytes)
    header = read_header(file)
    names = header.names
    if header.segments:
        leads, names = _read_segments(header, max_bytes)
    else:
        leads = _read_leads(header, max_bytes)
    return make_recording(file, leads, header.sampling_rate, names)


def _find_file(path: str) -> str:
    """Return the `.hea`, else `.mat`, else `.npy` file of a record; a `.npy` that is named wins."""
    stem = path[:-4] if path.endswith((".hea", ".dat", ".mat", ".npy")) else path
    suffixes = (".npy",) if path.endswith(".npy") else (".hea", ".mat", ".npy")
    for suffix in suffixes:
        if os.path.isfile(stem + suffix):  # noqa: PTH113 - a Path costs as much as the look-up
            return stem + suffix
    raise RecordError(f"{path}: no such record; expected {stem} with .hea, .mat or .npy")


def _read_leads(header: Header, max_bytes: int) -> Leads:
    """Read the standard leads of a record of one segment."""
    # "~" is WFDB's name for "no file": the signals of a layout header.
    stored = [signal for signal in header.signals if signal.file != "~" and signal.format != 0]
    if not stored:
        raise RecordError(f"{header.path}: lists no signal that is stored; expected at least one")
    header = header._replace(signals=stored)
    plain = is_plain(header)
    if not plain:
        check_formats(header)
    samples = stored_samples(header)
    check_size(header.path, samples, header.samples_per_frame, max_bytes)
    leads = standard_leads(header.path, header.names)
    if not leads:
        return Leads([], np.empty((0, samples), np.float32), np.empty(0))
    if plain:
        return read_plain(header, samples, leads)
    check_file_lengths(header, samples)
    return _read_with_library(header, leads)


def _read_with_library(header: Header, leads: Sequence[tuple[int, int]]) -> Leads:
    """Read the leads of a record that is not plain with the wfdb library."""
    import wfdb

    wanted = [index for _, index in leads]
    try:
        record = wfdb.rdrecord(
            str(Path(header.path).absolute())[: -len(".hea")],
            channels=wanted,
            smooth_frames=False,  # done here: the library averages integers, missing ones too
            ignore_skew=True,  # done here, so that checksums cover whole signals
        )
    # RuntimeError: what soundfile raises on a damaged FLAC stream
    except (ValueError, RuntimeError, OSError, IndexError) as error:
        raise RecordError(f"{header.path}: its signals cannot be read ({error})") from error
    signals = [header.signals[index] for index in wanted]
    # Asked for integers, the library fails on format 61 (big endian): undo its conversion instead.
    stored = [
        np.rint(physical * signal.gain + signal.baseline)
        for signal, physical in zip(signals, record.e_p_signal, strict=True)
    ]
    check_sums(header.path, signals, [sum_stored(*pair) for pair in zip(signals, stored)])
    frames = [average_frames(*pair) for pair in zip(signals, stored)]
    return to_leads(header.path, leads, signals, np.stack(frames))


def _read_segments(header: Header, max_bytes: int) -> tuple[Leads, list[str]]:
    """Join the segments of a record in time; leads and gains may change between segments.

    Returns:
        The leads (of 12, those of any segment) and the names of all signals.
    """
    samples = sum(length for _, length in header.segments)
    if samples != header.samples:
        raise RecordError(
            f"{header.path}: its segments have {samples} samples; expected {header.samples}"
        )
    check_size(header.path, samples, len(LEADS), max_bytes)
    signal = np.full((len(LEADS), samples), np.nan, dtype=np.float32)
    resolution = np.full(len(LEADS), np.nan)
    seen = np.zeros(len(LEADS), dtype=bool)
    names: dict[str, None] = {}
    start = 0
    for name, length in header.segments:
        stop = start + length
        # "~" is a gap; the segment of length 0 is the layout of all signals.
        if name != "~" and length:
            segment = _read_segment(header, name, length)
            leads = _read_leads(segment, max_bytes)
            names.update(dict.fromkeys(segment.names))
            rows = np.asarray(leads.positions, dtype=int)
            signal[rows, start:stop] = leads.signal
            # One resolution for the whole lead, or none: NaN never equals anything.
            known = ~seen[rows] | (resolution[rows] == leads.resolution)
            resolution[rows] = np.where(known, leads.resolution, np.nan)
            seen[rows] = True
        start = stop
    positions = np.flatnonzero(seen)
    return Leads(positions.tolist(), signal[positions], resolution[positions]), list(names)


def _read_segment(header: Header, name: str, length: int) -> Header:
    """Return the header of one segment, checked against the record's."""
    path = Path(header.folder, f"{name}.hea")
    if not path.is_file():
        raise RecordError(f"{header.path}: its segment {name} is missing")
    segment = read_header(str(path))
    found = (segment.sampling_rate, segment.samples, bool(segment.segments))
    if found != (header.sampling_rate, length, False):
        raise RecordError(
            f"{path}: {segment.samples} samples at {segment.sampling_rate:g} Hz; the record "
            f"{header.path} expects {length} at {header.sampling_rate:g} Hz in one segment"
        )
    return segment
