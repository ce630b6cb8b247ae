"""How a cohort stores ECGs: int16 samples with one gain per lead, read back without Python lists.

A row holds the 12 leads of one recording as little-endian int16 in C order, one gain (millivolt per
unit) per lead, and `MISSING` for samples that are not there. Stored values are the source's own
integers wherever its resolution is known and they fit, so nothing is lost. 10 s at 100 Hz: 24 kB.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Recording

MISSING = -32768
_LARGEST = 32767

SIGNAL_SCHEMA: list[pa.Field] = [
    pa.field("signal", pa.large_binary(), nullable=False),
    pa.field("samples", pa.int32(), nullable=False),
    pa.field("sampling_rate", pa.float32(), nullable=False),
    pa.field("gain", pa.list_(pa.float32(), len(LEADS)), nullable=False),
    pa.field("lead_mask", pa.list_(pa.bool_(), len(LEADS)), nullable=False),
    pa.field("missing_samples", pa.int32(), nullable=False),
    pa.field("signal_hash", pa.string(), nullable=False),
]


@dataclass
class StoredSignals:
    """A batch of stored recordings; millivolt = signal * gain where signal is not `MISSING`.

    Attributes:
        signal: (batch, 12, samples) int16; shorter recordings end in `MISSING`.
        gain: (batch, 12) float32, millivolt per unit; 0 for an absent lead.
        sampling_rate: (batch,) float32, Hz.
        lead_mask: (batch, 12) bool, True where the lead has signal.
        samples: (batch,) int32, the length of each recording before padding.
    """

    signal: np.ndarray
    gain: np.ndarray
    sampling_rate: np.ndarray
    lead_mask: np.ndarray
    samples: np.ndarray


def encode(recording: Recording) -> dict[str, Any]:
    """Return one row of `SIGNAL_SCHEMA`.

    The source's resolution is kept where it is known and its integers fit into 16 bits; otherwise
    the lead gets the finest resolution that fits its largest voltage.
    """
    gain = _gains(recording)
    step = np.where(gain > 0, gain, 1).astype(np.float32)
    units = np.rint(recording.signal / step[:, None])
    codes = np.where(np.isnan(units), MISSING, units).astype("<i2")
    rate = np.float32(recording.sampling_rate)
    signal = codes.tobytes()
    return {
        "signal": signal,
        "samples": codes.shape[1],
        "sampling_rate": float(rate),
        "gain": gain.tolist(),
        "lead_mask": recording.lead_mask.tolist(),
        "missing_samples": recording.missing_samples,
        "signal_hash": _signal_hash(signal, gain, rate),
    }


def _gains(recording: Recording) -> np.ndarray:
    """Return (12,) float32 millivolt per unit, 0 for absent leads."""
    gain = np.zeros(len(LEADS), dtype=np.float32)
    present = np.flatnonzero(recording.lead_mask)
    # fmax skips NaN, which marks missing samples.
    largest = np.fmax.reduce(np.abs(recording.signal[present]), axis=1)
    resolution = recording.resolution[present]
    fits = np.rint(largest / resolution) <= _LARGEST
    # nextafter: rounding of the quotient must never push the largest sample past 16 bits.
    finest = np.nextafter(largest / np.float32(_LARGEST), np.float32(np.inf))
    gain[present] = np.where(fits, resolution, finest)
    return gain


def _signal_hash(signal: bytes, gain: np.ndarray, rate: np.float32) -> str:
    """Return a content hash: equal samples, gains and rate have an equal hash."""
    digest = hashlib.blake2b(signal, digest_size=16)
    digest.update(gain.astype("<f4").tobytes())
    digest.update(rate.astype("<f4").tobytes())
    return digest.hexdigest()


def decode(table: pa.Table) -> StoredSignals:
    """Return the recordings of a table that has the columns of `SIGNAL_SCHEMA`.

    Recordings of one length take one copy of the samples; otherwise each is copied into a batch
    that is as long as the longest and filled with `MISSING`.

    Args:
        table: Any rows of a cohort, in the order wanted.
    """
    samples = table.column("samples").to_numpy()
    longest = int(samples.max(initial=0))
    signal = np.empty((table.num_rows, len(LEADS), longest), dtype=np.int16)
    row = 0
    for chunk in table.column("signal").chunks:
        _copy_signals(chunk, samples[row : row + len(chunk)], signal[row : row + len(chunk)])
        row += len(chunk)
    return StoredSignals(
        signal=signal,
        gain=_per_lead(table.column("gain")),
        sampling_rate=table.column("sampling_rate").to_numpy(),
        lead_mask=_per_lead(table.column("lead_mask")),
        samples=samples,
    )


def _copy_signals(chunk: pa.LargeBinaryArray, samples: np.ndarray, out: np.ndarray) -> None:
    """Copy one chunk of the binary column into (rows, 12, longest) int16."""
    if len(chunk) == 0:
        return
    _, offset_buffer, data_buffer = chunk.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(chunk) + 1, chunk.offset * 8)
    if (np.diff(offsets) != samples.astype(np.int64) * (len(LEADS) * 2)).any():
        raise ValueError("The column 'signal' does not have 12 int16 values per sample.")
    codes = np.frombuffer(data_buffer, "<i2", (offsets[-1] - offsets[0]) // 2, offsets[0])
    if (samples == out.shape[2]).all():
        out[:] = codes.reshape(out.shape)
        return
    out[:] = MISSING
    starts = (offsets - offsets[0]) // 2
    for index, length in enumerate(samples):
        stored = codes[starts[index] : starts[index + 1]]
        out[index, :, :length] = stored.reshape(len(LEADS), length)


def _per_lead(column: pa.ChunkedArray) -> np.ndarray:
    """Return a fixed-size-list column as (rows, 12)."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    if not parts:
        return np.empty((0, len(LEADS)), column.type.value_type.to_pandas_dtype())
    return np.concatenate(parts).reshape(len(column), len(LEADS))
