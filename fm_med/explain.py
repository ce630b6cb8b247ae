"""Where an encoder looks in one recording, and which samples carry its score.

Attention tells what was read, not what decided; occlusion and integrated gradients answer for the
score itself and work with any encoder. All three are pure functions of a processed batch.
"""

from collections.abc import Callable, Mapping
from math import ceil

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fm_med.errors import InputError

Inputs = Mapping[str, Tensor]
ScoreFunction = Callable[[dict[str, Tensor]], Tensor]

_VARIANTS_AT_ONCE = 64


def lead_and_time_attention(
    encoder: PreTrainedModel, inputs: Inputs, *, sampling_rate: float = 100.0
) -> dict[str, Tensor]:
    """Return what each lead reads from other leads and from its own time.

    Args:
        encoder: A dual-attention encoder (`fm_med.ecg.dual_attention`).
        inputs: `signal` (batch, 12, samples) mV and `lead_mask` (batch, 12) bool.
        sampling_rate: Hz of the signal.

    Returns:
        - `lead`: (batch, 12, 12), mean over heads; row i tells what lead i reads, rows of present
          leads sum to 1, rows and columns of absent leads are 0.
        - `time`: (batch, 12, tokens), how much of the lead's attention each stretch of time gets,
          mean over blocks, heads and reading tokens; present leads sum to 1, absent are 0.
        - `start`, `stop`: (tokens,) seconds, the stretch of each token.

    Raises:
        InputError: if the encoder gives no attention of this kind.
    """
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        attentions = encoder(**inputs, output_attentions=True).attentions
    encoder.train(training)
    leads = inputs["signal"].shape[1]
    if not attentions or len(attentions) < 2 or attentions[0].shape[-2:] != (leads, leads):
        raise InputError(
            f"{type(encoder).__name__} has no lead and time attention; occlusion and "
            "integrated_gradients explain any encoder"
        )
    present = inputs["lead_mask"].to(attentions[0].dtype)
    lead = attentions[0].mean(1) * present[:, :, None] * present[:, None, :]
    time = torch.stack([block.mean((2, 3)) for block in attentions[1:]]).mean(0)
    token_seconds = torch.Size(encoder.config.strides).numel() / sampling_rate
    start = torch.arange(time.shape[-1], device=time.device) * token_seconds
    return {
        "lead": lead,
        "time": time * present[..., None],
        "start": start,
        "stop": start + token_seconds,
    }


def occlusion(
    score_function: ScoreFunction,
    inputs: Inputs,
    *,
    window_seconds: float = 0.2,
    sampling_rate: float = 100.0,
) -> dict[str, Tensor]:
    """Return how far the score falls when one window of one lead becomes a straight line.

    The line joins the samples at the window's ends: zeros would put steps into the signal, which an
    encoder may read as waves. A positive value means that the window raises the score.

    Args:
        score_function: Takes inputs, returns (batch,) scores; called without gradients.
        inputs: `signal` (batch, leads, samples) and whatever else the function reads; entries are
            repeated along the batch.
        window_seconds: Length of the windows, which follow each other without overlap.
        sampling_rate: Hz of the signal.

    Returns:
        `drop` (batch, leads, windows), and `start`, `stop` (windows,) in seconds.

    Raises:
        InputError: if the window is shorter than one sample.

    References:
        Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
    """
    signal = inputs["signal"]
    batch, leads, samples = signal.shape
    width = round(window_seconds * sampling_rate)
    if width < 1:
        raise InputError(f"window_seconds is {window_seconds}, less than one sample")
    windows = ceil(samples / width)
    places = [(lead, window) for lead in range(leads) for window in range(windows)]
    at_once = max(1, _VARIANTS_AT_ONCE // max(1, batch))
    with torch.no_grad():
        whole = score_function(dict(inputs))
        drops = [
            whole - _scores_without(score_function, inputs, places[first : first + at_once], width)
            for first in range(0, len(places), at_once)
        ]
    start = torch.arange(windows, device=signal.device) * width
    return {
        "drop": torch.cat(drops).view(leads, windows, batch).permute(2, 0, 1),
        "start": start / sampling_rate,
        "stop": (start + width).clamp(max=samples) / sampling_rate,
    }


def integrated_gradients(
    score_function: ScoreFunction,
    inputs: Inputs,
    *,
    steps: int = 32,
    baseline: Tensor | None = None,
) -> dict[str, Tensor]:
    """Attribute the score to samples: (x - x0) times the mean gradient on the way from x0 to x.

    Completeness: the attributions of a recording sum to score - baseline_score, up to the error of
    the midpoint rule, which the caller can read off and lower with more steps.

    Args:
        score_function: Takes inputs, returns (batch,) scores, differentiable in `signal`; a row's
            score must depend on that row only (use `eval`).
        inputs: `signal` (batch, leads, samples) and whatever else the function reads.
        steps: Points of the midpoint rule.
        baseline: x0, broadcastable to the signal; the isoelectric line (zero) by default.

    Returns:
        `attribution` (batch, leads, samples) in units of the score; `score` and `baseline_score`
        (batch,).

    Raises:
        InputError: if `steps` is below 1.

    References:
        Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1")
    signal = inputs["signal"].detach()
    start = torch.zeros_like(signal) if baseline is None else baseline.expand_as(signal)
    gradient = torch.zeros_like(signal)
    for step in range(steps):
        point = (start + (signal - start) * ((step + 0.5) / steps)).requires_grad_()
        with torch.enable_grad():
            scores = score_function({**inputs, "signal": point})
            gradient += torch.autograd.grad(scores.sum(), point)[0]
    with torch.no_grad():
        return {
            "attribution": (signal - start) * gradient / steps,
            "score": score_function({**inputs, "signal": signal}),
            "baseline_score": score_function({**inputs, "signal": start}),
        }


def _scores_without(
    score_function: ScoreFunction, inputs: Inputs, places: list[tuple[int, int]], width: int
) -> Tensor:
    """Return (places, batch) scores with one (lead, window) at a time replaced by a line."""
    signal = inputs["signal"]
    variants = signal.repeat(len(places), 1, 1, 1)
    for variant, (lead, window) in zip(variants, places):
        first, last = window * width, min((window + 1) * width, signal.shape[-1])
        _draw_line(variant[:, lead], first, last)
    rest = {
        key: value.repeat(len(places), *(1 for _ in value.shape[1:]))
        for key, value in inputs.items()
        if key != "signal"
    }
    return score_function({**rest, "signal": variants.flatten(0, 1)}).view(len(places), -1)


def _draw_line(rows: Tensor, first: int, last: int) -> None:
    """Replace samples first to last - 1 of (batch, samples) by a line between their neighbours."""
    before, after = max(first - 1, 0), min(last, rows.shape[-1] - 1)
    share = torch.arange(first - before, last - before, device=rows.device) / max(after - before, 1)
    left, right = rows[:, before, None], rows[:, after, None]
    rows[:, first:last] = left + (right - left) * share.to(rows.dtype)
