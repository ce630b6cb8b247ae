"""How a cohort stores ECGs: int16 samples with one gain per lead, read back without Python lists.

A row holds the 12 leads of one recording as little-endian int16 in C order, one gain (millivolt per
unit) per lead, and `MISSING` for samples that are not there. Stored values are the source's own
integers wherever its resolution is known and they fit, so nothing is lost. 10 s at 100 Hz: 24 kB.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
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


_CODE = np.dtype("<i2")


@dataclass
class StoredFacts:
    """What is known of stored recordings beside their samples.

    Attributes:
        gain: (batch, 12) float32, millivolt per unit; 0 for an absent lead.
        sampling_rate: (batch,) float32, Hz.
        lead_mask: (batch, 12) bool, True where the lead has signal.
        samples: (batch,) int32, the length of each recording.
        missing_samples: (batch,) int32, codes in present leads that are `MISSING`.
    """

    gain: np.ndarray
    sampling_rate: np.ndarray
    lead_mask: np.ndarray
    samples: np.ndarray
    missing_samples: np.ndarray

    def with_signals(self, rows: np.ndarray, signal: Sequence[np.ndarray]) -> "StoredSignals":
        """Return the recordings of `rows` (n,), whose bytes are `signal`, n arrays uint8.

        Raises:
            ValueError: A signal does not have 12 values per sample.
        """
        samples = self.samples[rows]
        size = samples.astype(np.int64) * (2 * len(LEADS))
        if [len(part) for part in signal] != size.tolist():
            raise ValueError("The column 'signal' does not have 12 int16 values per sample.")
        return StoredSignals(
            gain=self.gain[rows],
            sampling_rate=self.sampling_rate[rows],
            lead_mask=self.lead_mask[rows],
            samples=samples,
            missing_samples=self.missing_samples[rows],
            codes=[part.view(_CODE) for part in signal],
        )


@dataclass
class StoredSignals(StoredFacts):
    """A batch of stored recordings; millivolt = code * gain where the code is not `MISSING`.

    Attributes:
        codes: (batch) recordings (12 * its own samples,) int16, lead after lead, where they lie:
            most often memory that can only be read, such as a file.
    """

    codes: Sequence[np.ndarray]

    @cached_property
    def signal(self) -> np.ndarray:
        """(batch, 12, samples) int16 of its own; shorter recordings end in `MISSING`."""
        longest = int(self.samples.max(initial=0))
        signal = np.empty((len(self.codes), len(LEADS), longest), np.int16)
        for row, (codes, place) in enumerate(zip(self.codes, signal)):
            length = self.samples[row]
            place[:, :length] = codes.reshape(len(LEADS), -1)
            place[:, length:] = MISSING
        return signal


def encode(recording: Recording) -> dict[str, Any]:
    """Return one row of `SIGNAL_SCHEMA`.

    The source's resolution is kept where it is known and its integers fit into 16 bits; otherwise
    the lead gets the finest resolution that fits its largest voltage.
    """
    largest = np.abs(recording.signal).max(axis=1)
    missing_samples = 0
    # The maximum of a lead with a NaN is NaN: recordings without gaps pay for nothing more.
    if whole := not np.isnan(largest.sum()):
        gain = _gains(recording, largest)
    else:
        # fmax skips NaN, which marks missing samples.
        gain = _gains(recording, np.fmax.reduce(np.abs(recording.signal), axis=1))
    step = np.where(gain > 0, gain, 1).astype(np.float32)
    units = recording.signal / step[:, None]
    np.rint(units, out=units)
    if not whole:
        missing = np.isnan(units)
        # Counted, not copied: whoever reads the row looks for missing samples only where some are.
        missing_samples = int(np.count_nonzero(missing, axis=1)[recording.lead_mask].sum())
        units[missing] = MISSING
    codes = units.astype("<i2")
    rate = np.float32(recording.sampling_rate)
    signal = codes.tobytes()
    return {
        "signal": signal,
        "samples": codes.shape[1],
        "sampling_rate": float(rate),
        "gain": gain.tolist(),
        "lead_mask": recording.lead_mask.tolist(),
        "missing_samples": missing_samples,
        "signal_hash": _signal_hash(signal, gain, rate),
    }


def _gains(recording: Recording, largest: np.ndarray) -> np.ndarray:
    """Return (12,) float32 millivolt per unit, 0 for absent leads; `largest` (12,) in millivolt."""
    gain = np.zeros(len(LEADS), dtype=np.float32)
    present = np.flatnonzero(recording.lead_mask)
    largest = largest[present]
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

    Samples are not copied; `StoredSignals.signal` does that.

    Args:
        table: Any rows of a cohort, in the order wanted.

    Raises:
        ValueError: A signal does not have 12 values per sample.
    """
    every = np.arange(table.num_rows)
    return decode_facts(table).with_signals(every, _bytes_of(table.column("signal")))


def decode_facts(table: pa.Table) -> StoredFacts:
    """Return what `decode` does, without the samples, for which no column is needed."""
    return StoredFacts(
        gain=_per_lead(table.column("gain")),
        sampling_rate=table.column("sampling_rate").to_numpy(),
        lead_mask=_per_lead(table.column("lead_mask")),
        samples=table.column("samples").to_numpy(),
        missing_samples=table.column("missing_samples").to_numpy(),
    )


def _bytes_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return the bytes of each row of a binary column as uint8, not copied."""
    parts = []
    for chunk in column.chunks:
        if len(chunk):
            _, offset_buffer, data_buffer = chunk.buffers()
            offsets = np.frombuffer(offset_buffer, np.int64, len(chunk) + 1, chunk.offset * 8)
            data = np.frombuffer(data_buffer or b"", np.uint8)
            ends = offsets.tolist()
            parts += [data[first:end] for first, end in pairwise(ends)]
    return parts


def _per_lead(column: pa.ChunkedArray) -> np.ndarray:
    """Return a fixed-size-list column as (rows, 12)."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    if not parts:
        return np.empty((0, len(LEADS)), column.type.value_type.to_pandas_dtype())
    return np.concatenate(parts).reshape(len(column), len(LEADS))
