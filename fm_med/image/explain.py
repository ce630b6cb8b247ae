"""Where an image model looks: its own attention, Grad-CAM, and a test of both by deletion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from fm_med.errors import InputError
from fm_med.image.augment import eight_ways

Predict = Callable[[Tensor], Tensor]
DELETION_STEPS = 10
# A fixed seed: the curve of random order is a reference, not a result.
_SEED = 0


def grad_cam(
    encoder: PreTrainedModel, head: Callable[[Tensor], Tensor], pixels: Tensor, target: Tensor
) -> Tensor:
    """Return for each place how much the last stage's features there speak for a class.

    Args:
        encoder: In evaluation mode.
        head: From (batch, pooled_size) to (batch, classes) logits.
        pixels: (batch, 3, height, width).
        target: (batch,) class numbers.

    Returns:
        (batch, height, width) from 0 to 1; all 0 where nothing speaks for the class.

    References:
        Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        output = encoder(pixel_values=pixels, output_hidden_states=True)
        state = output.hidden_states[-1]
        score = head(output.pooler_output).gather(1, target[:, None]).sum()
        (slope,) = torch.autograd.grad(score, state)
    features, slope = (_as_map(encoder, x.detach(), pixels.shape[-2:]) for x in (state, slope))
    spoken = (features * slope.mean((2, 3), keepdim=True)).sum(1).relu()
    return _enlarged(spoken, pixels.shape[-2:])


@torch.no_grad()
def attention_map(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Return the weight that the encoder's last attention gives to each place.

    Args:
        encoder: With attention over places, or with a class token that attends to patches.
        pixels: (batch, 3, height, width).

    Returns:
        (batch, height, width) from 0 to 1.

    Raises:
        InputError: The encoder has no attention.
    """
    output = encoder(pixel_values=pixels, output_attentions=True)
    if not output.attentions:
        raise InputError(f"{type(encoder).__name__} has no attention to show; use Grad-CAM")
    weights = output.attentions[-1]
    if weights.ndim == 4:  # of the class token, mean over the heads
        weights = weights.mean(1)[:, :1]
    places = weights.transpose(1, 2)
    return _enlarged(_as_map(encoder, places, pixels.shape[-2:])[:, 0], pixels.shape[-2:])


@dataclass(frozen=True)
class Deletion:
    """What is left of a class's probability when places are blurred away.

    Attributes:
        removed: (steps + 1,) shares of the places.
        probability: (batch, steps + 1), the most important places first.
        random: (batch, steps + 1), in random order.
    """

    removed: Tensor
    probability: Tensor
    random: Tensor

    @property
    def faithfulness(self) -> Tensor:
        """(batch,) area between the curves; above 0 the map finds what the model uses."""
        return torch.trapezoid(self.random - self.probability, self.removed)


@torch.no_grad()
def deletion_curve(
    predict: Predict,
    pixels: Tensor,
    importance: Tensor,
    target: Tensor,
    *,
    steps: int = DELETION_STEPS,
) -> Deletion:
    """Blur the most important places away, step by step, and follow the class's probability.

    Args:
        predict: From (batch, 3, height, width) to (batch, classes) probabilities.
        pixels: (batch, 3, height, width).
        importance: (batch, height, width).
        target: (batch,) class numbers.
        steps: Equal shares of the places.

    References:
        Petsiuk et al., "RISE", BMVC 2018, section 4.1: the deletion metric.
    """
    generator = torch.Generator().manual_seed(_SEED)
    coarse = functional.interpolate(torch.rand(len(pixels), 1, 7, 7, generator=generator), (14, 14))
    random = _enlarged(coarse[:, 0].to(pixels.device), pixels.shape[-2:])
    removed = torch.linspace(0, 1, steps + 1)
    curves = [
        torch.stack([_without(predict, pixels, order, target, share) for share in removed], 1)
        for order in (importance, random)
    ]
    return Deletion(removed.to(pixels.device), *curves)


def _without(
    predict: Predict, pixels: Tensor, order: Tensor, target: Tensor, share: Tensor
) -> Tensor:
    """Return the class's probability when a share of the places is replaced by a strong blur."""
    count = round(float(share) * order[0].numel())
    rank = order.flatten(1).argsort(1, descending=True).argsort(1).view_as(order)
    size = max(1, min(pixels.shape[-2:]) // 8)
    small = functional.adaptive_avg_pool2d(pixels, size)
    blurred = functional.interpolate(small, pixels.shape[-2:], mode="bilinear")
    shown = torch.where((rank < count)[:, None], blurred, pixels)
    return predict(shown).gather(1, target[:, None])[:, 0]


@torch.no_grad()
def predict_eight_ways(predict: Predict, pixels: Tensor) -> Tensor:
    """Return probabilities averaged over the image mirrored and turned in all eight ways.

    Args:
        predict: From (batch, 3, height, width) to (batch, classes) probabilities.
        pixels: (batch, 3, height, width), square.

    Raises:
        InputError: The images are not square.
    """
    if pixels.shape[-1] != pixels.shape[-2]:
        raise InputError(f"images of {tuple(pixels.shape[-2:])} cannot be turned by a quarter")
    return torch.stack([predict(turned) for turned in eight_ways(pixels)]).mean(0)


def _as_map(encoder: PreTrainedModel, x: Tensor, size: Any) -> Tensor:
    """Return (batch, channels, height, width) of a feature map or of (batch, tokens, channels)."""
    if x.ndim == 4:
        return x
    ratio = size[0] / size[1]
    for ahead in range(x.shape[1]):  # class and register tokens come first
        places = x.shape[1] - ahead
        height = round((places * ratio) ** 0.5)
        if height and places % height == 0 and abs(places // height - height / ratio) < 1:
            return x[:, ahead:].transpose(1, 2).unflatten(2, (height, places // height))
    raise InputError(f"the {x.shape[1]} tokens of {type(encoder).__name__} form no image")


def _enlarged(x: Tensor, size: Any) -> Tensor:
    """Return (batch, height, width) maps at another size, scaled to 0 to 1."""
    full = functional.interpolate(x[:, None], tuple(size), mode="bilinear", align_corners=False)
    low, high = full.amin((1, 2, 3), keepdim=True), full.amax((1, 2, 3), keepdim=True)
    return ((full - low) / (high - low).clamp(min=1e-12))[:, 0]
