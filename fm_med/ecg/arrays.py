"""Recordings in array files: CODE-15 style MATLAB files and `.npy` with a small JSON header."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import (
    Leads,
    RecordError,
    Recording,
    check_size,
    make_recording,
    millivolt_per,
    standard_leads,
)

_MATLAB_HEADER_BYTES = 128
_MATLAB_COMPRESSED = 15


def read_matlab(path: Path, max_bytes: int) -> Recording:
    """Read a MATLAB file with `feats` (12, samples) in mV, order of `LEADS`, and its rate.

    The layout of CODE-15 as fairseq-signals and ECG-FM write it: `feats` at `curr_sample_rate`, or
    at `org_sample_rate` where the former is absent. The file states no unit; CODE-15 is in mV.

    Raises:
        RecordError: The file has another layout or would expand beyond `max_bytes`.
    """
    import scipy.io
    from scipy.io.matlab import MatReadError

    content = path.read_bytes()
    _check_matlab_size(path, content, max_bytes)
    try:
        matrix = scipy.io.loadmat(io.BytesIO(content))
    except (MatReadError, ValueError, NotImplementedError, TypeError, KeyError, OSError) as error:
        raise RecordError(f"{path}: not a MATLAB 5 file ({error})") from error
    rate = matrix.get("curr_sample_rate", matrix.get("org_sample_rate"))
    signal = matrix.get("feats")
    if not _is_number_array(signal) or not _is_number_array(rate) or np.size(rate) != 1:
        variables = ", ".join(name for name in matrix if not name.startswith("__"))
        raise RecordError(
            f"{path}: has no header {path.stem}.hea and the variables {variables or 'none'}; "
            "expected feats and org_sample_rate"
        )
    if signal.ndim != 2 or signal.shape[0] != len(LEADS):
        raise RecordError(f"{path}: feats has shape {signal.shape}; expected (12, samples)")
    check_size(str(path), signal.shape[1], signal.shape[0], max_bytes)
    leads = Leads(range(len(LEADS)), _finite(signal), np.full(len(LEADS), np.nan))
    return make_recording(str(path), leads, _rate(path, rate.item()), LEADS)


def _check_matlab_size(path: Path, content: bytes, max_bytes: int) -> None:
    """Refuse compressed variables that expand beyond `max_bytes`, without expanding them."""
    position, total = _MATLAB_HEADER_BYTES, len(content)
    while position + 8 <= len(content):
        kind, size = np.frombuffer(content, "<u4", 2, position).tolist()
        if kind == _MATLAB_COMPRESSED:
            allowed = max(max_bytes - total, 0) + 1
            try:
                packed = memoryview(content)[position + 8 : position + 8 + size]
                total += len(zlib.decompressobj().decompress(packed, allowed))
            except zlib.error as error:
                raise RecordError(f"{path}: damaged MATLAB file ({error})") from error
        if total > max_bytes:
            raise RecordError(f"{path}: expands to more than the {max_bytes:,} bytes that are read")
        position += 8 + size


def read_npy(path: Path, max_bytes: int) -> Recording:
    """Read `name.npy` with the header `name.json` beside it.

    The header is ``{"sampling_rate": 500, "units": "mV", "leads": ["I", "II", ...]}``; units are
    one name or one per lead. Integers may add ``"gain"``, stored units per unit of voltage (one
    number or one per lead, default 1), and ``"missing"``, the integer of a missing sample. The
    array is (leads, samples) or (samples, leads), told apart by the number of leads.

    Raises:
        RecordError: The header is missing or incomplete, does not fit the array, or the array would
            expand beyond `max_bytes`.
    """
    header_path = path.with_name(path.name.removesuffix(".npy") + ".json")
    header = _read_json(path, header_path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordError(f"{path}: not an array file ({error})") from error
    names = header["leads"]
    if not _is_number_array(array) or array.ndim != 2 or len(names) not in array.shape:
        raise RecordError(
            f"{path}: array of {array.dtype}, shape {array.shape}; expected numbers, "
            f"({len(names)} leads, samples)"
        )
    signal = array if array.shape[0] == len(names) else array.T
    check_size(str(path), signal.shape[1], signal.shape[0], max_bytes)
    units = header["units"] if isinstance(header["units"], list) else [header["units"]] * len(names)
    leads = standard_leads(str(path), names)
    rows = [row for _, row in leads]
    factor = [millivolt_per(str(units[row]), str(path), names[row]) for row in rows]
    integer = np.issubdtype(array.dtype, np.integer)
    gain = np.broadcast_to(np.asarray(header.get("gain", 1), np.float64), len(names))[rows]
    resolution = np.asarray(factor) / gain
    millivolt = np.asarray(signal[rows], np.float64) * resolution[:, None]
    if integer and "missing" in header:
        millivolt[signal[rows] == header["missing"]] = np.nan
    known = resolution if integer else np.full(len(rows), np.nan)
    rate = _rate(header_path, header["sampling_rate"])
    found = Leads([position for position, _ in leads], _finite(millivolt), known)
    return make_recording(str(path), found, rate, names)


def _read_json(path: Path, header_path: Path) -> dict[str, Any]:
    """Return the JSON header of an array, its keys and the length of its lists checked."""
    if not header_path.is_file():
        raise RecordError(f"{path}: its header {header_path.name} is missing beside it")
    try:
        header = json.loads(header_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{header_path}: not JSON ({error})") from error
    needed = ("sampling_rate", "units", "leads")
    if not isinstance(header, dict) or any(key not in header for key in needed):
        raise RecordError(f"{header_path}: expected an object with {', '.join(needed)}")
    leads = header["leads"]
    if not isinstance(leads, list) or not all(isinstance(lead, str) for lead in leads):
        raise RecordError(f"{header_path}: leads is {leads!r}; expected a list of names")
    for key in ("units", "gain"):
        value = header.get(key)
        if isinstance(value, list) and len(value) != len(leads):
            raise RecordError(
                f"{header_path}: {key} has {len(value)} entries; expected {len(leads)}"
            )
    gain = header.get("gain", 1)
    if not all(
        type(number) in (int, float) and 0 < number < np.inf
        for number in (gain if isinstance(gain, list) else [gain])
    ):
        raise RecordError(f"{header_path}: gain is {gain!r}; expected positive numbers")
    return header


def _finite(signal: np.ndarray) -> np.ndarray:
    """Return contiguous float32 in which infinities are missing samples too."""
    with np.errstate(over="ignore"):
        signal = np.array(signal, dtype=np.float32, order="C")
    signal[np.isinf(signal)] = np.nan
    return signal


def _is_number_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"


def _rate(path: Path, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < np.inf:
        raise RecordError(f"{path}: the sampling rate is {value!r}; expected Hz above 0")
    return float(value)
