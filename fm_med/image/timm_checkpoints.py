"""Checkpoints of timm's vision transformers, such as DinoBloom, as encoders, without timm.

What comes out is timm's `forward_features`: class token, registers and patches in this order. A
classifier of the checkpoint is left out.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from fm_med.errors import InputError
from fm_med.image.hub_backbone import HubBackboneModel, around
from fm_med.image.processor import ImageProcessor
from fm_med.image.timm_conversion import converted
from fm_med.image.timm_networks import TimmNetwork, timm_network

KIND = "timm"
# timm's own models all have this one, the wrapper of transformers puts a name before each weight.
_MARK, _WRAPPER = "patch_embed.proj.weight", "timm_model."
_FITS = {"squash": "stretch", "border": "pad"}


def is_timm(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds a checkpoint of timm; some also name a model type of transformers.

    Args:
        folder: Of the checkpoint.
        config: Its config.json.
    """
    if "architecture" not in config:
        return False
    if config.get("model_type") in (None, "timm_wrapper"):
        return True
    path = folder / "model.safetensors"
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as weights:
            return _MARK in weights.keys()
    except SafetensorError:
        return False


def adopt(
    folder: Path, encoder_settings: Mapping[str, Any], processor_settings: Mapping[str, Any]
) -> tuple[HubBackboneModel, ImageProcessor]:
    """Take a checkpoint of timm as an encoder, with the image size and channels that it states.

    For another, square image size the position embedding is resampled here, as timm does it.

    Args:
        folder: With config.json and model.safetensors.
        encoder_settings: Fields of `HubBackboneConfig`, such as `pooling`.
        processor_settings: Of `ImageProcessor`, instead of the checkpoint's own.

    Raises:
        InputError: An architecture that is not known here, files or weights are missing, or a
            setting is unknown.
    """
    config = json.loads((folder / "config.json").read_text())
    network = timm_network(config, folder)
    processor = _processor(folder, config, processor_settings)
    weights = _weights(folder, network)
    grid = math.isqrt(weights["pos_embed"].shape[1] - network.positions_before)
    size = grid * network.patch
    if processor.height == processor.width:  # transformers has no oblong position embedding
        size = processor.height
        weights["pos_embed"] = _resampled(weights["pos_embed"], network, size // network.patch)
    return around(converted(network, weights, size), encoder_settings).eval(), processor


def _processor(
    folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> ImageProcessor:
    """Return the processor that a checkpoint's `pretrained_cfg` describes.

    The whole square in the middle is seen: timm's `crop_pct` is `middle` here, to be asked for.
    """
    stated = config.get("pretrained_cfg") or {}
    found: dict[str, Any] = {name: stated.get(name) for name in ("mean", "std")}
    size = stated.get("input_size") or (config.get("model_args") or {}).get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        found |= {"height": height, "width": width}
    found["fit"] = _FITS.get(stated.get("crop_mode", "center"), "crop")
    found = {key: value for key, value in {**found, **settings}.items() if value is not None}
    for key in ("height", "width", "mean", "std"):
        if key not in found:
            raise InputError(
                f"config.json in {folder} does not state the {key} of images in pretrained_cfg; "
                "state height, width, mean and std in --processor_settings"
            )
    return ImageProcessor(**found)


def _weights(folder: Path, network: TimmNetwork) -> dict[str, Tensor]:
    """Return the weights by timm's names, without those of a classifier.

    Raises:
        InputError: The file is missing or damaged, or a weight is missing, foreign or of another
            shape.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{folder} has no model.safetensors; pickled weights are not read")
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    named = {name.removeprefix(_WRAPPER): value for name, value in loaded.items()}
    weights = {name: value for name, value in named.items() if not name.startswith("head.")}
    entries = sum(weights["pos_embed"].shape[1:2]) if "pos_embed" in weights else 0
    grid = math.isqrt(max(1, entries - network.positions_before))
    expected = network.shapes(grid**2)
    for name, shape in expected.items():
        if name not in weights:
            raise InputError(f"{path} lacks {name}, which {network.name} has with shape {shape}")
        if weights[name].shape != shape:
            seen = tuple(weights[name].shape)
            raise InputError(f"{name} in {path} has shape {seen}, {network.name} has {shape}")
    for name in sorted(weights.keys() - expected.keys()):
        seen = tuple(weights[name].shape)
        raise InputError(f"{path} has {name} with shape {seen}, which {network.name} has not")
    return {name: value.to(torch.float32, copy=True) for name, value in weights.items()}


def _resampled(positions: Tensor, network: TimmNetwork, grid: int) -> Tensor:
    """Return the position embedding for (grid, grid) patches, antialiased as in timm."""
    before, places = positions.split(
        [network.positions_before, positions.shape[1] - network.positions_before], dim=1
    )
    edge = math.isqrt(places.shape[1])
    if edge == grid:
        return positions
    if grid < 1:
        raise InputError(f"images smaller than {network.patch} pixels hold no patch")
    square = places.transpose(1, 2).unflatten(2, (edge, edge))
    resized = functional.interpolate(square, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([before, resized.flatten(2).transpose(1, 2)], dim=1)
