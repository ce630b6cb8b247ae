"""From recordings of any rate, length and set of leads to the tensors that an ECG encoder reads."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fm_med.ecg.filtering import (
    Band,
    output_samples,
    padding_seconds,
    rate_ratio,
    resample_and_filter,
)
from fm_med.ecg.leads import LEADS
from fm_med.ecg.millivolt import write_millivolt
from fm_med.ecg.missing import repair_leads
from fm_med.ecg.named_arrays import recordings_from_array
from fm_med.ecg.processor_checks import check_leads, check_recording, check_settings
from fm_med.ecg.recording import Recording
from fm_med.ecg.storage import SIGNAL_SCHEMA, StoredSignals, decode
from fm_med.errors import InputError
from fm_med.feeding import to_device
from fm_med.processors import StrictProcessor
from fm_med.recycled import recycled


class EcgProcessor(StrictProcessor):
    """Prepares ECGs for an encoder; saved beside its weights as `preprocessor_config.json`.

    Per recording: leads in the order of `LEADS` by name, missing samples interpolated within their
    lead, the centre of the recording if it is longer than `seconds`, change of rate and zero-phase
    band-pass (`fm_med.ecg.filtering`), scaling, and zeros after the end if it is shorter (zero is
    the isoelectric line of filtered ECG). Absent leads, and leads that miss more than half of
    their samples, are zero and False in `lead_mask`. A row's values do not depend on the batch.

    Args:
        leads: Leads that the model may see, in the order of `LEADS`; others are marked absent.
        sampling_rate: Hz of the result.
        seconds: Length of the result; a recording must fill at least a quarter of it.
        units: Unit of the result; only "mV".
        high_pass: Lower edge of the band in Hz (amplitude halved), or None.
        low_pass: Upper edge of the band in Hz (amplitude halved), or None.
        scaling: "millivolt" keeps voltages, which are evidence (hypertrophy, low voltage);
            "zscore" gives each lead mean 0 and standard deviation 1 over the recording.

    Raises:
        InputError: if a setting cannot be honoured.
    """

    def __init__(
        self,
        *,
        leads: Sequence[str] = LEADS,
        sampling_rate: float = 100.0,
        seconds: float = 10.0,
        units: str = "mV",
        high_pass: float | None = 0.5,
        low_pass: float | None = 40.0,
        scaling: Literal["millivolt", "zscore"] = "millivolt",
    ) -> None:
        super().__init__()
        self.leads = list(leads)
        self.sampling_rate = float(sampling_rate)
        self.seconds = float(seconds)
        self.units = units
        self.high_pass = high_pass
        self.low_pass = low_pass
        self.scaling = scaling
        check_settings(self)

    @property
    def samples(self) -> int:
        """Samples per lead of the result."""
        return round(self.seconds * self.sampling_rate)

    def __call__(
        self, recordings: Recording | Sequence[Recording], *, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Prepare one recording or several, of any rates and lengths.

        Args:
            recordings: One recording (a batch of one) or several.
            device: Where the work is done and the result lies.

        Returns:
            `signal` (batch, 12, samples) float32 mV (or z-scores), `lead_mask` (batch, 12) bool.

        Raises:
            InputError: if a recording is too short, has a rate too low for `low_pass`, or none of
                the leads; the message names its place in the batch.
        """
        if isinstance(recordings, Recording):
            recordings = [recordings]
        rates = np.array([recording.sampling_rate for recording in recordings])
        lengths = np.array([recording.signal.shape[1] for recording in recordings])
        mask = np.array([recording.lead_mask for recording in recordings]).reshape(-1, len(LEADS))

        def group(rows: np.ndarray, _samples: int) -> np.ndarray:
            return np.stack([recordings[row].signal for row in rows]).astype(np.float32, copy=False)

        return self._prepare(group, rates, lengths, (mask, mask.astype(np.float32)), device)

    def from_stored(
        self, stored: StoredSignals, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Prepare a batch read from a cohort; its int16 samples go to the device as they are.

        Args:
            stored: Batch of `fm_med.ecg.storage.decode`.
            device: Where the work is done and the result lies.

        Returns:
            As `__call__`.

        Raises:
            InputError: as `__call__`.
        """

        def group(rows: np.ndarray, samples: int) -> np.ndarray:
            whole = len(rows) == len(stored.codes)
            return (stored.signal if whole else stored.signal[rows])[..., :samples]

        if self._takes_as_it_is(stored, device):
            return self._only_scaled(stored)
        scale = (stored.lead_mask, stored.gain)
        return self._prepare(group, stored.sampling_rate, stored.samples, scale, device)

    def from_array(
        self,
        signal: np.ndarray,
        *,
        sampling_rate: float,
        leads: Sequence[str] = LEADS,
        units: str = "mV",
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Prepare plain arrays whose leads are named; they are put in order by name.

        Args:
            signal: (leads, samples) or (batch, leads, samples); NaN marks missing samples. Leads
                that are none of the twelve are left out.
            sampling_rate: Hz.
            leads: Name of each lead, as devices write them ("AVR", "lead II").
            units: "mV", "uV" or "V".
            device: Where the work is done and the result lies.

        Returns:
            As `__call__`.

        Raises:
            InputError: as `recordings_from_array` and `__call__`.
        """
        recordings = recordings_from_array(
            signal, sampling_rate=sampling_rate, leads=leads, units=units
        )
        return self(recordings, device=device)

    # Nothing is learnt from the training rows, so they need not be read.
    fits_rows = False

    @classmethod
    def for_cohort(cls, card: Any, table: pa.Table, **settings: Any) -> "EcgProcessor":
        """Make the processor of a new encoder; recordings are resampled to its rate.

        Args:
            card: The cohort's `CohortCard`; its modality is checked by the caller.
            table: Training rows; not looked at.
            settings: As of the class.

        Raises:
            InputError: The cohort stores other units, or a setting is unknown.
        """
        del table
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise InputError(
                f"an ECG processor has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        if card.units != "mV":
            raise InputError(f"the cohort's ECGs are in {card.units!r} by its card, expected 'mV'")
        return cls(**settings)

    @property
    def columns(self) -> list[str]:
        """The columns of a cohort that `from_rows` reads."""
        return [field.name for field in SIGNAL_SCHEMA if field.name != "signal_hash"]

    def from_rows(self, table: pa.Table, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Prepare rows of a cohort, as `from_stored`."""
        return self.from_stored(decode(table), device)

    def encoder_settings(self) -> dict[str, Any]:
        """Return what a new encoder's config must take from the processor: nothing for ECGs."""
        return {}

    def _prepare(
        self,
        group: Callable[[np.ndarray, int], np.ndarray],
        rates: np.ndarray,
        lengths: np.ndarray,
        scale: tuple[np.ndarray, np.ndarray],
        device: torch.device | str,
    ) -> dict[str, Tensor]:
        """Prepare recordings, one vectorised group per rate and length.

        Args:
            group: Gives the samples (rows, 12, length) of some rows of one length.
            rates: (batch,) Hz.
            lengths: (batch,) samples.
            scale: (batch, 12) lead mask and (batch, 12) millivolt per unit.
            device: Where to work.
        """
        allowed = np.array([lead in self.leads for lead in LEADS])
        lead_mask = to_device(scale[0] & allowed, device)
        gain = to_device(scale[1].astype(np.float32), device)
        empty = (
            recycled if torch.device(device).type == "cpu" else partial(torch.empty, device=device)
        )
        signal = empty(len(rates), len(LEADS), self.samples).zero_()
        kinds = np.stack([rates.astype(np.float64), lengths.astype(np.float64)], axis=1)
        kinds, kind_of_row = np.unique(kinds, axis=0, return_inverse=True)
        for kind, (rate, length) in enumerate(kinds.tolist()):
            rows = np.flatnonzero(kind_of_row == kind)
            check_recording(self, int(rows[0]), rate, int(length))
            # `require` copies only what is read-only (an Arrow buffer), which torch refuses.
            stored = np.require(group(rows, int(length)), requirements="W")
            place = slice(None) if len(kinds) == 1 else to_device(rows, device)
            values, mask = self._cut_and_filter(to_device(stored, device), lead_mask[place], rate)
            lead_mask[place] = mask
            signal[place, :, : values.shape[-1]] = self._scaled(values, mask, gain[place])
        check_leads(self.leads, lead_mask)
        return {"signal": signal, "lead_mask": lead_mask}

    def _takes_as_it_is(self, stored: StoredSignals, device: torch.device | str) -> bool:
        """Tell whether recordings need nothing but a factor, and no device that does it faster."""
        return (
            torch.device(device).type == "cpu"
            and self.high_pass is None
            and self.low_pass is None
            and bool((stored.sampling_rate == self.sampling_rate).all())
            and bool((stored.samples == self.samples).all())
            and not stored.missing_samples.any()
        )

    def _only_scaled(self, stored: StoredSignals) -> dict[str, Tensor]:
        """Do what `_prepare` does, for recordings that it would only scale: far faster."""
        lead_mask = stored.lead_mask & np.array([lead in self.leads for lead in LEADS])
        signal = recycled(len(lead_mask), len(LEADS), self.samples)
        write_millivolt(stored.codes, stored.gain, lead_mask, signal.numpy())
        mask = torch.from_numpy(lead_mask)
        if not lead_mask.any(1).all():
            check_leads(self.leads, mask)
        return {"signal": self._standardised(signal), "lead_mask": mask}

    def _cut_and_filter(
        self, values: Tensor, lead_mask: Tensor, rate: float
    ) -> tuple[Tensor, Tensor]:
        """Return the filtered centre (rows, 12, at most `samples`) in stored units, and the mask.

        What lies beside the centre is cut off only outside the filter's reach, and on a sample that
        both rates share, so that recordings stored at different rates are cut at the same instant.
        """
        band = Band(self.high_pass, self.low_pass)
        ratio = rate_ratio(rate, self.sampling_rate)
        length = values.shape[-1]
        start = max(0, output_samples(length, ratio) - self.samples) // 2
        reach = ceil(padding_seconds(band) * self.sampling_rate)
        first = max(0, start - reach) // ratio.numerator * ratio.numerator
        last = ceil((start + self.samples + reach) / ratio)
        values = values[..., int(first / ratio) : min(length, last)]
        values, lead_mask = repair_leads(values, lead_mask)
        filtered = resample_and_filter(values, rate=rate, target_rate=self.sampling_rate, band=band)
        return filtered[..., start - first : start - first + self.samples], lead_mask

    def _scaled(self, values: Tensor, lead_mask: Tensor, gain: Tensor) -> Tensor:
        """Return millivolt or z-scores in the memory of `values`, zero in absent leads."""
        values.mul_(gain[..., None]).masked_fill_(~lead_mask[..., None], 0.0)
        return self._standardised(values)

    def _standardised(self, values: Tensor) -> Tensor:
        """Return millivolt (rows, 12, samples) as they are, or z-scores if those are wanted."""
        if self.scaling == "zscore":
            # Far faster than mean and variance on a CPU; the epsilon keeps a flat lead flat.
            return torch.nn.functional.layer_norm(values, values.shape[-1:], eps=1e-8)
        return values
