"""Augmentation of processed image batches: on the device, and the same for a row in any batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fm_med.counter_random import RowRandom
from fm_med.errors import InputError

_FLIP, _TURN, _ANGLE, _ZOOM, _SHIFT, _STAIN, _BRIGHT, _NOISE = range(1, 9)


@dataclass(frozen=True)
class ImageAugmentation:
    """Strengths of the augmentation; 0 (or False) switches a part off.

    Cells and micrographs have no up or down, so flips and quarter turns are on by default; switch
    them off where orientation means something.

    Args:
        flips: Mirror and turn by quarters, all eight ways alike.
        rotation: Further turn, at most so many degrees either way.
        zoom: Factor of size drawn from [1 - zoom, 1 + zoom].
        shift: Moved by at most this share of the size either way.
        stain: Each channel's own change of contrast and level, at most this share of its deviation:
            stains and cameras differ between laboratories.
        brightness: The same change for all channels.
        noise: White noise, RMS drawn from [0, noise] in deviations.

    Raises:
        InputError: A strength is outside its range.
    """

    flips: bool = True
    rotation: float = 15.0
    zoom: float = 0.1
    shift: float = 0.08
    stain: float = 0.15
    brightness: float = 0.2
    noise: float = 0.05

    def __post_init__(self) -> None:
        """Refuse strengths that mean nothing."""
        for name, high in (
            ("rotation", 180),
            ("zoom", 0.9),
            ("shift", 0.5),
            ("stain", 2),
            ("brightness", 2),
            ("noise", 2),
        ):
            if not 0 <= getattr(self, name) <= high:
                raise InputError(
                    f"augmentation {name} is {getattr(self, name)}, expected 0 to {high}"
                )


def augment(
    inputs: Mapping[str, Tensor],
    *,
    settings: ImageAugmentation,
    seed: int,
    epoch: int,
    rows: Tensor,
) -> dict[str, Tensor]:
    """Return an augmented copy of a processed batch.

    Every number drawn is a hash of (seed, epoch, row), so that a row's augmentation does not depend
    on the batch, its order, the micro-batch or the number of processes.

    Args:
        inputs: `pixel_values` (batch, 3, height, width), centred and scaled per channel.
        settings: Strengths.
        seed: Seed of the run.
        epoch: Another one augments anew.
        rows: (batch,) int64 ids of the rows in the cohort.
    """
    pixels = inputs["pixel_values"]
    random = RowRandom(seed=seed, epoch=epoch, rows=rows.to(pixels.device))
    moved = _moved(pixels, _placement(random, settings))
    contrast = 1 + settings.stain * _around(random, _STAIN, 3)
    level = settings.stain * _around(random, _STAIN + 100, 3)
    contrast = contrast * (1 + settings.brightness * _around(random, _BRIGHT, 1))
    level = level + settings.brightness * _around(random, _BRIGHT + 100, 1)
    changed = moved * contrast[..., None, None] + level[..., None, None]
    if settings.noise > 0:
        # The sum of four uniform numbers, scaled to deviation 1, is as good as Gaussian here.
        count = pixels[0].numel()
        drawn = sum(random.uniform(_NOISE + 200 + k, count) for k in range(4))
        white = (drawn - 2.0) * math.sqrt(3.0)
        strength = settings.noise * random.uniform(_NOISE, 1)
        changed = changed + (white * strength).view_as(pixels)
    return {**inputs, "pixel_values": changed}


def eight_ways(pixels: Tensor) -> list[Tensor]:
    """Return the batch mirrored and turned in all eight ways, for test-time averaging."""
    turned = [torch.rot90(pixels, quarter, (-2, -1)) for quarter in range(4)]
    return [*turned, *(image.flip(-1) for image in turned)]


def _around(random: RowRandom, stream: int, count: int) -> Tensor:
    """Return (batch, count) uniform numbers in [-1, 1)."""
    return 2.0 * random.uniform(stream, count) - 1.0


def _placement(random: RowRandom, settings: ImageAugmentation) -> Tensor:
    """Return (batch, 2, 3) matrices from places in the result to places in the image."""
    angle = math.radians(settings.rotation) * _around(random, _ANGLE, 1)[:, 0]
    mirror = torch.ones_like(angle)
    if settings.flips:
        mirror = 1.0 - 2.0 * random.integers(_FLIP, 1, 2)[:, 0]
        angle = angle + math.pi / 2 * random.integers(_TURN, 1, 4)[:, 0]
    size = 1.0 / (1.0 + settings.zoom * _around(random, _ZOOM, 1)[:, 0])
    cosine, sine = size * angle.cos(), size * angle.sin()
    shift = 2 * settings.shift * _around(random, _SHIFT, 2)
    first = torch.stack([cosine * mirror, -sine, shift[:, 0]], 1)
    second = torch.stack([sine * mirror, cosine, shift[:, 1]], 1)
    return torch.stack([first, second], 1)


def _moved(pixels: Tensor, placement: Tensor) -> Tensor:
    """Sample the images at the placed points; what lies outside is mirrored in."""
    grid = functional.affine_grid(placement, list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid.to(pixels.dtype), padding_mode="reflection", align_corners=False
    )
