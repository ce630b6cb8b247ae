"""From stored pixels of any size and depth to what an image encoder reads."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from fm_med.errors import InputError
from fm_med.image.pixels import Pixels
from fm_med.image.storage import IMAGE_SCHEMA, decode
from fm_med.processors import StrictProcessor

Fit = Literal["stretch", "crop", "pad"]


class ImageProcessor(StrictProcessor):
    """Prepares images for an encoder; saved beside its weights as `preprocessor_config.json`.

    Brightness becomes 0 to 1 by the depth of the file (8 or 16 bits), grey becomes three equal
    channels, the size is changed with an antialiasing bicubic filter, and each channel is centred
    and scaled. A row's values do not depend on the batch.

    Args:
        height: Pixels of the result.
        width: Pixels of the result.
        mean: Of each channel, red, green and blue, in 0 to 1.
        std: Of each channel.
        fit: An image of another shape is stretched, cropped in its centre, or padded with its mean.
        middle: Share of height and width that is kept first, around the middle; below 1 where what
            is to be judged was cut out with its neighbours, such as a cell of a smear.

    Raises:
        InputError: A setting cannot be honoured.
    """

    def __init__(
        self,
        *,
        height: int = 64,
        width: int = 64,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        fit: Fit = "stretch",
        middle: float = 1.0,
    ) -> None:
        super().__init__()
        if min(height, width) < 4 or max(height, width) > 8192:
            raise InputError(f"height {height} and width {width} must be 4 to 8192 pixels")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise InputError(f"mean {mean} and std {std} must be three numbers, std above 0")
        if fit not in ("stretch", "crop", "pad"):
            raise InputError(f"fit is {fit!r}, expected stretch, crop or pad")
        if not 0.05 <= middle <= 1:
            raise InputError(f"middle is {middle}, expected a share from 0.05 to 1")
        self.height, self.width = int(height), int(width)
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]
        self.fit, self.middle = fit, float(middle)

    # Mean and deviation of the channels are learnt from the training rows.
    fits_rows = True

    @property
    def columns(self) -> list[str]:
        """The columns of a cohort that `from_rows` reads."""
        return [field.name for field in IMAGE_SCHEMA if field.name != "input_hash"]

    @classmethod
    def for_cohort(cls, card: Any, table: pa.Table, **settings: Any) -> Self:
        """Fit the channels' means and deviations on training rows.

        Args:
            card: The cohort's `CohortCard`.
            table: The TRAINING rows.
            settings: Arguments of the class; a given mean or std is not fitted.

        Raises:
            InputError: The cohort does not hold images.
        """
        if card.modality != "image":
            raise InputError(f"the cohort {card.name} holds {card.modality}, expected image")
        if "mean" not in settings or "std" not in settings:
            plain = cls(**settings | {"mean": (0, 0, 0), "std": (1, 1, 1)})
            every = plain.from_rows(table)["pixel_values"]
            fitted = {
                "mean": every.mean((0, 2, 3)).tolist(),
                "std": every.std((0, 2, 3)).clamp(min=1e-3).tolist(),
            }
            settings = fitted | settings
        return cls(**settings)

    def encoder_settings(self) -> dict[str, Any]:
        """Return what a new encoder's config must take from the data: nothing for images."""
        return {}

    def from_rows(self, table: pa.Table, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Prepare rows of a cohort, as `__call__`."""
        return self(decode(table), device=device)

    def __call__(
        self, images: Pixels | Sequence[Pixels], *, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Prepare one image or several, of any sizes and depths.

        Args:
            images: From `fm_med.image.pixels.read_pixels`.
            device: Where the work is done and the result lies.

        Returns:
            `pixel_values` (batch, 3, height, width) float32.
        """
        images = [images] if isinstance(images, Pixels) else images
        result = torch.empty((len(images), 3, self.height, self.width), device=device)
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for row, image in enumerate(images):
            kinds.setdefault((image.values.shape, image.largest), []).append(row)
        for (_shape, largest), rows in kinds.items():
            stacked = np.stack([images[row].values for row in rows])
            values = torch.from_numpy(stacked.astype(np.int32)).to(device)
            values = values.permute(0, 3, 1, 2).float() / largest
            result[torch.tensor(rows, device=device)] = self._fitted(values).expand(-1, 3, -1, -1)
        mean = torch.tensor(self.mean, device=device)[:, None, None]
        std = torch.tensor(self.std, device=device)[:, None, None]
        return {"pixel_values": (result - mean) / std}

    def _fitted(self, values: Tensor) -> Tensor:
        """Change (rows, channels, h, w) to the wanted size."""
        if self.middle < 1:
            values = _cut(values, *(max(1, round(self.middle * n)) for n in values.shape[-2:]))
        height, width = values.shape[-2:]
        if self.fit == "crop":
            share = min(height / self.height, width / self.width)
            values = _cut(values, round(share * self.height), round(share * self.width))
        elif self.fit == "pad":
            share = max(height / self.height, width / self.width)
            h, w = round(share * self.height), round(share * self.width)
            top, left = (h - height) // 2, (w - width) // 2
            middle = values.mean((-2, -1), keepdim=True).expand(*values.shape[:2], h, w).clone()
            middle[..., top : top + height, left : left + width] = values
            values = middle
        if values.shape[-2:] == (self.height, self.width):
            return values
        size = (self.height, self.width)
        return functional.interpolate(values, size, mode="bicubic", antialias=True).clamp(0, 1)


def _cut(values: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of (..., h, w) images."""
    top, left = (values.shape[-2] - height) // 2, (values.shape[-1] - width) // 2
    return values[..., top : top + height, left : left + width]
