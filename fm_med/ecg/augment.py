"""Augmentation of processed ECG batches: on the device, and the same for a row in any batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fm_med.counter_random import RowRandom
from fm_med.ecg.distortion import Distortion, Layer, distort
from fm_med.errors import InputError

# Fresh Gaussian numbers are 90 % of the cost of an augmented batch; windows of a fixed store of
# them at random places are as good. It is at least eight times as long as a window.
_BANK_SAMPLES = 1 << 18
_BANK_WINDOWS = 8
_BANK_SEED = 12
WANDER_BAND = (0.05, 0.7)  # Hz: respiration and the drift of electrodes
_WANDER_WAVES = 64

_DRAWS, _BATCH_COUNT, _BATCH_ORDER = 1, 10, 11
# Places of the numbers that a row draws; those that order its leads follow.
_LEAD_CHANCE, _LEAD_COUNT, _SCALE, _SHIFT = 0, 1, 2, 3
_NOISE_LEVEL, _NOISE_PLACE, _WANDER_LEVEL, _WANDER_PLACE = 4, 5, 6, 7
_LEAD_ORDER = 8
# Chen et al. 2025: all leads half of the time, else one of these numbers of leads.
_PUBLISHED_SUBSETS = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class EcgAugmentation:
    """Strengths of the augmentation; 0 switches a part off.

    Args:
        lead_dropout: Probability that a recording loses a random subset of its leads.
        minimum_leads: A recording never keeps fewer leads (or those that it has, if fewer).
        noise_mv: White noise per lead, RMS drawn from [0, noise_mv] per recording, mV.
        wander_mv: Baseline wander per lead, RMS drawn from [0, wander_mv] per recording, mV.
        scale: Amplitude factor drawn from [1 - scale, 1 + scale]; all leads alike, so that voltage
            relations between leads stay.
        crop: The recording is moved in time by at most this share of its length either way; what
            leaves is lost, what enters is zero, and the rhythm stays intact.
        sampling_rate: Hz of the signals, for the frequencies of the wander.

    Raises:
        InputError: if a strength is outside its range.
    """

    lead_dropout: float = 0.5
    minimum_leads: int = 3
    noise_mv: float = 0.02
    wander_mv: float = 0.05
    scale: float = 0.1
    crop: float = 0.1
    sampling_rate: float = 100.0

    def __post_init__(self) -> None:
        """Refuse strengths that mean nothing."""
        for name, low, high in (
            ("lead_dropout", 0, 1),
            ("minimum_leads", 1, 12),
            ("noise_mv", 0, 10),
            ("wander_mv", 0, 10),
            ("scale", 0, 0.9),
            ("crop", 0, 0.5),
            ("sampling_rate", 1, 100_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"augmentation {name} is {value}, expected {low} to {high}")


def augment(
    inputs: Mapping[str, Tensor],
    *,
    settings: EcgAugmentation,
    seed: int,
    epoch: int,
    rows: Tensor,
) -> dict[str, Tensor]:
    """Return an augmented copy of a processed batch.

    Every number drawn is a hash of (seed, epoch, row), so a row's augmentation does not depend on
    the batch, its order, the micro-batch or the number of processes (bit for bit on one device).
    Absent leads stay absent.

    Args:
        inputs: `signal` (batch, 12, samples) float32 mV and `lead_mask` (batch, 12) bool; other
            entries are handed through.
        settings: Strengths.
        seed: Seed of the run.
        epoch: Epoch; another one augments anew.
        rows: (batch,) int64 ids of the rows in the cohort.

    Returns:
        The same keys and shapes on the same device.
    """
    signal, lead_mask = inputs["signal"], inputs["lead_mask"]
    random = RowRandom(seed=seed, epoch=epoch, rows=rows.to(signal.device))
    # All at once: the hash of a few numbers takes as long as that of many.
    draws = random.uniform(_DRAWS, _LEAD_ORDER + lead_mask.shape[1])
    if settings.lead_dropout > 0:
        lead_mask = _drop_leads(lead_mask, draws, settings)
    furthest = round(settings.crop * signal.shape[-1])
    how = Distortion(
        factor=1.0 + settings.scale * (2.0 * draws[:, _SCALE] - 1.0),
        layers=_layers(signal, draws, settings),
        shift=below(draws[:, _SHIFT], 2 * furthest + 1) - furthest,
        lead_mask=lead_mask,
    )
    return {**inputs, "signal": distort(signal, how), "lead_mask": lead_mask}


def hide_leads_of_batch(
    inputs: Mapping[str, Tensor], *, seed: int, epoch: int, step: int
) -> dict[str, Tensor]:
    """Show one random subset of the leads for a whole batch: all with probability 1/2, else 2 to 8.

    A recording that has none of the subset's leads keeps those that it has.

    Args:
        inputs: As for `augment`.
        seed: Seed of the run.
        epoch: Epoch.
        step: Of the run; all processes draw the same subset.

    Returns:
        The same keys and shapes; hidden leads are zero and absent in `lead_mask`.

    References:
        Chen et al., "Large language model-informed ECG dual attention network for heart failure
        risk prediction", IEEE Transactions on Big Data 11(3), 2025.
    """
    signal, lead_mask = inputs["signal"], inputs["lead_mask"]
    random = RowRandom(seed=seed, epoch=epoch, rows=torch.tensor([step]))
    draw = int(random.integers(_BATCH_COUNT, 1, 2 * len(_PUBLISHED_SUBSETS)))
    counts = (*_PUBLISHED_SUBSETS, *[lead_mask.shape[1]] * len(_PUBLISHED_SUBSETS))
    order = random.uniform(_BATCH_ORDER, lead_mask.shape[1]).argsort(dim=1, stable=True)[0]
    shown = torch.zeros(lead_mask.shape[1], dtype=torch.bool)
    shown[order[: counts[draw]]] = True
    mask = lead_mask & shown.to(lead_mask.device)
    mask = torch.where(mask.any(1, keepdim=True), mask, lead_mask)
    return {**inputs, "signal": signal * mask[..., None], "lead_mask": mask}


def below(uniform: Tensor, high: Tensor | int) -> Tensor:
    """Return int64 in [0, high) of numbers uniform in [0, 1); `high` is at most 2^24."""
    return (uniform * high).to(torch.int64)


def _drop_leads(lead_mask: Tensor, draws: Tensor, settings: EcgAugmentation) -> Tensor:
    """Keep a random number of the present leads, in a random share of the recordings."""
    present = lead_mask.sum(1)
    least = present.clamp(max=settings.minimum_leads)
    # Between `least` and all but one: a recording that is chosen loses at least one lead.
    kept = least + below(draws[:, _LEAD_COUNT], (present - least).clamp(min=1))
    chosen = draws[:, _LEAD_CHANCE] < settings.lead_dropout
    order = draws[:, _LEAD_ORDER:].masked_fill(~lead_mask, 2.0)
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    return lead_mask & ((rank < kept[:, None]) | ~chosen[:, None])


def _layers(signal: Tensor, draws: Tensor, settings: EcgAugmentation) -> list[Layer]:
    """Return the noise and the wander of each recording, in mV, where they are switched on."""
    window = signal.shape[1] * signal.shape[2]
    size = max(_BANK_SAMPLES, 1 << (_BANK_WINDOWS * window - 1).bit_length())
    layers = []
    for name, level, place, largest in (
        ("noise", _NOISE_LEVEL, _NOISE_PLACE, settings.noise_mv),
        ("wander", _WANDER_LEVEL, _WANDER_PLACE, settings.wander_mv),
    ):
        if largest > 0:
            bank = _bank(name, size, settings.sampling_rate, signal.device)
            places = below(draws[:, place], size - window + 1)
            layers.append(Layer(bank, places, largest * draws[:, level]))
    return layers


@lru_cache(maxsize=8)
def _bank(name: str, size: int, sampling_rate: float, device: torch.device) -> Tensor:
    """Return (size,) float32 of unit RMS: white Gaussian `noise`, or `wander` of slow sinusoids."""
    generator = torch.Generator().manual_seed(_BANK_SEED)
    if name == "noise":
        values = torch.randn(size, generator=generator, dtype=torch.float64)
    else:
        time = torch.arange(size, dtype=torch.float64) / sampling_rate
        low, high = WANDER_BAND
        draws = torch.rand(_WANDER_WAVES, 2, generator=generator, dtype=torch.float64)
        values = torch.zeros_like(time)
        for pace, phase in draws.tolist():
            # Evenly spread over the logarithm: slow drift is as common as breathing.
            frequency = low * (high / low) ** pace
            values += torch.sin(2 * torch.pi * (frequency * time + phase))
    return (values / values.square().mean().sqrt()).to(device, torch.float32)
