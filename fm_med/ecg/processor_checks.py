"""What an ECG processor refuses: settings, recordings and files that it cannot honour."""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from torch import Tensor

from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError

# A recording must fill this share of `seconds`; the rest is zero.
MINIMUM_SHARE = 0.25
_RATES = (1.0, 100_000.0)  # Hz


class Settings(Protocol):
    """The settings of an `EcgProcessor`."""

    leads: list[str]
    sampling_rate: float
    seconds: float
    units: str
    high_pass: float | None
    low_pass: float | None
    scaling: str

    @property
    def samples(self) -> int:
        """Samples per lead of the result."""


def check_settings(settings: Settings) -> None:
    """Refuse settings that cannot be honoured, by name.

    Raises:
        InputError: A lead, unit, rate, length, band or scaling is not possible.
    """
    rate, seconds = settings.sampling_rate, settings.seconds
    named = [lead for lead in LEADS if lead in settings.leads]
    if not named or settings.leads != named:
        raise InputError(f"leads is {settings.leads}, expected some of {list(LEADS)} in this order")
    if settings.units != "mV":
        raise InputError(f"units is '{settings.units}', a processor's result is in mV")
    if settings.scaling not in ("millivolt", "zscore"):
        raise InputError(f"scaling is '{settings.scaling}', expected 'millivolt' or 'zscore'")
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"sampling_rate is {rate} Hz, expected 1 to 100000")
    if not (isfinite(seconds) and settings.samples >= 1):
        raise InputError(f"seconds is {seconds}, expected at least one sample")
    low, high = settings.high_pass or 0.0, settings.low_pass or rate / 2
    off = 0.0 in (settings.high_pass, settings.low_pass)
    if off or not 0.0 <= low < high <= rate / 2:
        raise InputError(
            f"high_pass is {settings.high_pass} and low_pass {settings.low_pass} Hz, expected None "
            f"or 0 < high_pass < low_pass <= {rate / 2} (half the sampling_rate)"
        )


def check_recording(settings: Settings, row: int, rate: float, length: int) -> None:
    """Refuse rates and lengths that cannot give what the encoder expects.

    Args:
        settings: Of the processor.
        row: Place of the recording in its batch.
        rate: Hz.
        length: Samples.

    Raises:
        InputError: The rate is too low for the band, or the recording too short.
    """
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"recording {row} of the batch has a sampling rate of {rate} Hz")
    enough = rate > 2 * settings.low_pass if settings.low_pass else rate >= settings.sampling_rate
    if not enough:
        band = settings.low_pass or settings.sampling_rate / 2
        raise InputError(
            f"recording {row} of the batch is sampled at {rate:g} Hz, too slow for the band up "
            f"to {band:g} Hz that the model expects"
        )
    if length < MINIMUM_SHARE * settings.seconds * rate:
        raise InputError(
            f"recording {row} of the batch lasts {length / rate:.2f} s, expected at least "
            f"{MINIMUM_SHARE * settings.seconds:g} s (the model reads {settings.seconds:g} s)"
        )


def check_leads(leads: Sequence[str], lead_mask: Tensor) -> None:
    """Refuse recordings without any lead.

    Raises:
        InputError: A row of `lead_mask` (batch, leads) has none.
    """
    empty = (~lead_mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"recording {empty[0]} of the batch has signal in none of the leads {', '.join(leads)}"
        )
