"""One ECG in memory: twelve leads in millivolt, and which of them are really there."""

from dataclasses import dataclass

import numpy as np

from fm_med.errors import InputError


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
