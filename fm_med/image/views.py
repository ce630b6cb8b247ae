"""Test-time augmentation: the same image seen mirrored and turned, features averaged."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

Views = Literal[1, 2, 4, 8]


def other_views(pixel_values: Tensor, count: Views) -> Iterator[Tensor]:
    """Return an image as it would look from other sides, without the one it is seen from.

    Args:
        pixel_values: (batch, 3, height, width).
        count: 2 mirrored left to right; 4 also top to bottom and both; 8 also each of these with
            height and width exchanged: all symmetries of a square.

    Returns:
        count - 1 batches: (batch, 3, height, width), and (batch, 3, width, height) exchanged.
    """
    flips: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
    for flip in flips[: min(count, 4)]:
        seen = pixel_values.flip(flip)
        if flip:
            yield seen
        if count == 8:
            yield seen.transpose(2, 3)


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
