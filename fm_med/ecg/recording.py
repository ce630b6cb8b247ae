"""One ECG in memory: twelve leads in millivolt, and which of them are really there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fm_med.ecg.gaps import fill_short_gaps
from fm_med.ecg.leads import LEADS, canonical_lead
from fm_med.errors import InputError

LONGEST_REPAIRED_GAP = 0.2  # seconds
_BYTES_PER_VALUE = 8
_MILLIVOLT = {"mv": 1.0, "v": 1e3, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3}


class RecordError(InputError):
    """A recording that cannot be used; the message names the record and the reason."""


@dataclass(frozen=True)
class Recording:
    """One ECG.

    Attributes:
        signal: (12, samples) float32, millivolt, in the order of `fm_med.ecg.leads.LEADS`. NaN is
            a missing sample; a lead that is absent is NaN throughout.
        sampling_rate: Samples per second of each lead, Hz.
        lead_mask: (12,) bool, True where the lead has signal.
        missing_samples: Samples of present leads that are still missing after gaps of at most
            200 ms were interpolated.
        resolution: (12,) float32, millivolt per stored unit of the source (1 / gain); NaN where
            the source has none (floating point) or the lead is absent.
    """

    signal: np.ndarray
    sampling_rate: float
    lead_mask: np.ndarray
    missing_samples: int
    resolution: np.ndarray


class Leads(NamedTuple):
    """The standard leads of a file, before gaps and empty leads are dealt with.

    Attributes:
        positions: Index of each row in `LEADS`, ascending.
        signal: (rows, samples) float32 millivolt, contiguous, NaN where missing.
        resolution: (rows,) millivolt per stored unit, NaN where unknown.
    """

    positions: Sequence[int]
    signal: np.ndarray
    resolution: np.ndarray


def standard_leads(path: str, names: Sequence[str]) -> Sequence[tuple[int, int]]:
    """Find the standard leads among the signals of a file.

    Args:
        path: The record, for the message.
        names: Name of each signal.

    Returns:
        (index in `LEADS`, index in `names`) of each lead, in the order of `LEADS`.

    Raises:
        RecordError: Two signals claim to be the same lead.
    """
    leads = _find_leads(tuple(names))
    for (position, _), (following, _) in pairwise(leads):
        if position == following:
            raise RecordError(
                f"{path}: two signals are lead {LEADS[position]}; expected one of each lead"
            )
    return leads


@lru_cache(maxsize=1024)
def _find_leads(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    found = [(canonical_lead(name), index) for index, name in enumerate(names)]
    return tuple(sorted((LEADS.index(lead), index) for lead, index in found if lead is not None))


def millivolt_per(unit: str, path: str = "", lead: str = "") -> float:
    """Return the factor from a unit of voltage to millivolt; path and lead are for the message.

    Raises:
        RecordError: The unit is not V, mV or µV (in any case, "u" or "µ").
    """
    factor = _MILLIVOLT.get(unit.strip().lower())
    if factor is None:
        raise RecordError(f"{path}: lead {lead} is in {unit!r}; expected mV, V or µV")
    return factor


def check_size(path: str, samples: int, signals: int, max_bytes: int) -> None:
    """Refuse a file before it is expanded beyond `max_bytes`.

    The size is samples x signals x 8 bytes as the header claims them, with at least 12 signals,
    because that is what a recording takes whatever the file holds.

    Raises:
        RecordError: It would be larger than `max_bytes`, or there is no sample at all.
    """
    if samples <= 0:
        raise RecordError(f"{path}: no samples; expected at least one")
    size = samples * max(signals, len(LEADS)) * _BYTES_PER_VALUE
    if size > max_bytes:
        raise RecordError(
            f"{path}: {samples:,} samples expand to {size:,} bytes; at most {max_bytes:,} are read"
        )


def make_recording(
    path: str, leads: Leads, sampling_rate: float, names: Sequence[str]
) -> Recording:
    """Repair short gaps, mark empty leads as absent and lay the leads out as twelve.

    A lead that never changes (all zero, or stuck at one value) carries no signal and is absent.

    Args:
        path: The record, for messages.
        leads: The standard leads that the file has.
        sampling_rate: Hz.
        names: All signals of the file, for messages.

    Raises:
        RecordError: There is no standard lead, or none has signal.
    """
    if not leads.positions:
        seen = ", ".join(names) or "none"
        raise RecordError(
            f"{path}: no standard lead among its signals ({seen}); expected {', '.join(LEADS)}"
        )
    signal, positions = leads.signal, np.asarray(leads.positions)
    low, high = signal.min(axis=1), signal.max(axis=1)
    missing_samples = 0
    # The minimum of a row with a NaN is NaN: recordings without gaps pay for nothing more.
    if np.isnan(low.sum()):
        fill_short_gaps(signal, int(LONGEST_REPAIRED_GAP * sampling_rate + 1e-6))
        low, high = np.fmin.reduce(signal, axis=1), np.fmax.reduce(signal, axis=1)
        missing_samples = int(np.isnan(signal[high > low]).sum())
    present = high > low
    if not present.any():
        raise RecordError(
            f"{path}: every lead is empty or flat ({', '.join(names)}); expected signal in one"
        )
    if len(positions) == len(LEADS) and present.all():
        resolution = leads.resolution.astype(np.float32)
        return Recording(signal, sampling_rate, present, missing_samples, resolution)
    mask = np.zeros(len(LEADS), dtype=bool)
    mask[positions] = present
    resolution = np.full(len(LEADS), np.nan, dtype=np.float32)
    resolution[positions[present]] = leads.resolution[present]
    twelve = np.full((len(LEADS), signal.shape[1]), np.nan, dtype=np.float32)
    twelve[positions[present]] = signal[present]
    return Recording(twelve, sampling_rate, mask, missing_samples, resolution)
