"""Test-time augmentation: the same image seen mirrored and turned, features averaged."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fm_med.image.augment import eight_ways

Views = Literal[1, 2, 4, 8]


def other_views(pixel_values: Tensor, count: Views) -> list[Tensor]:
    """Return an image as it would look from other sides, without the one it is seen from.

    Args:
        pixel_values: (batch, 3, height, width).
        count: 2 mirrored left to right; 4 also top to bottom and both; 8 all symmetries of a
            square.

    Returns:
        count - 1 batches: (batch, 3, height, width), four of eight (batch, 3, width, height).
    """
    if count == 8:
        return eight_ways(pixel_values)[1:]
    return [pixel_values.flip(axes) for axes in ((3,), (2,), (2, 3))[: count - 1]]


def over_views(
    pooled: Tensor, encode: Callable[[Tensor], Tensor], pixel_values: Tensor, count: Views
) -> Tensor:
    """Return the mean of pooled features over views; a linear head of it has the mean logits.

    Args:
        pooled: (batch, width), of the image as it is.
        encode: From an image to its pooled features.
        pixel_values: (batch, 3, height, width).
        count: Views, that of the image as it is included.
    """
    seen = [encode(view) for view in other_views(pixel_values, count)]
    return torch.stack([pooled, *seen]).mean(0)
