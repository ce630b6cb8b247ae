"""From plain arrays with named leads to recordings."""

from collections.abc import Sequence

import numpy as np

from fm_med.ecg.recording import Leads, Recording, make_recording, millivolt_per, standard_leads
from fm_med.errors import InputError


def recordings_from_array(
    signal: np.ndarray, *, sampling_rate: float, leads: Sequence[str], units: str
) -> list[Recording]:
    """Put arrays into the order of `LEADS` by name and into millivolt.

    Args:
        signal: (leads, samples) or (batch, leads, samples); NaN and infinity mark missing samples.
            Leads that are none of the twelve are left out.
        sampling_rate: Hz.
        leads: Name of each lead, as devices write them ("AVR", "lead II").
        units: "mV", "uV" or "V".

    Raises:
        InputError: if units or shape are not understood, a lead is named twice, or no lead has
            signal.
    """
    values = np.asarray(signal)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != len(leads):
        raise InputError(
            f"signal has shape {np.shape(signal)}, expected (batch, leads, samples) with the "
            f"{len(leads)} leads that are named"
        )
    place = "signal"
    found = standard_leads(place, leads)
    millivolt = values[:, [column for _, column in found]] * millivolt_per(units, place, leads[0])
    millivolt = np.where(np.isfinite(millivolt), millivolt, np.nan).astype(np.float32)
    positions = [position for position, _ in found]
    unknown = np.full(len(positions), np.nan, dtype=np.float32)
    return [
        make_recording(
            f"recording {row}", Leads(positions, one, unknown), float(sampling_rate), leads
        )
        for row, one in enumerate(millivolt)
    ]
