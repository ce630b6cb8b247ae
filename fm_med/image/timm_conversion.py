"""From a vision transformer of timm to the network of the same mathematics in transformers.

ViT; with a scale per channel (`ls1.gamma`) DINOv2; with registers DINOv2 with registers.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from fm_med.errors import InputError
from fm_med.image.timm_networks import TimmNetwork
from fm_med.quiet import quietly

# To the names in transformers' checkpoints on the Hub, which stay while those in memory change.
_ROOT = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_IN_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_IN_DINO = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}
_IN_GATED = _IN_DINO | {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}


def converted(network: TimmNetwork, weights: dict[str, Tensor], size: int) -> PreTrainedModel:
    """Return the network of transformers that computes timm's `forward_features`.

    Args:
        network: Of the weights.
        weights: By timm's names, as `network.shapes` has them.
        size: Edge of the images in pixels that the position embedding is for.

    Raises:
        InputError: Its MLP is of a width that transformers does not have.
    """
    common: dict[str, Any] = {
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "num_attention_heads": network.heads,
        "image_size": size,
        "patch_size": network.patch,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
    }
    state = _renamed(network, weights)
    if _is_plain(network):
        config = ViTConfig(intermediate_size=network.hidden, **common)
        return _filled(ViTModel, config, state, add_pooling_layer=False)
    common |= {"mlp_ratio": _mlp_ratio(network), "use_swiglu_ffn": network.gated}
    if not network.registers:
        return _filled(Dinov2Model, Dinov2Config(use_mask_token=False, **common), state)
    config = Dinov2WithRegistersConfig(num_register_tokens=network.registers, **common)
    state["embeddings.mask_token"] = torch.zeros(1, network.width)  # of pretraining alone
    return _filled(Dinov2WithRegistersModel, config, state)


def _is_plain(network: TimmNetwork) -> bool:
    return not (network.layer_scale or network.registers)


def _filled(
    kind: type[PreTrainedModel], config: Any, state: dict[str, Tensor], **more: Any
) -> PreTrainedModel:
    """Return a network of transformers with the weights of a checkpoint."""
    given = {"config": config, "state_dict": state, "dtype": torch.float32, **more}
    with quietly():
        model, found = kind.from_pretrained(None, output_loading_info=True, **given)
    wrong = [name for names in found.values() for name in names]
    if wrong:
        raise RuntimeError(f"this transformers does not load {kind.__name__}: {wrong[0]}")
    return model


def _mlp_ratio(network: TimmNetwork) -> int:
    """Return the ratio by which transformers makes a DINOv2 with an MLP of the same width."""
    for ratio in range(1, 17):
        hidden = network.width * ratio
        if network.gated:  # two thirds, to a multiple of 8, for the gate and again for the values
            hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
        if hidden == network.hidden:
            return ratio
    raise InputError(
        f"{network.name} with an MLP of width {network.hidden} for tokens of {network.width} has "
        "no equal in transformers"
    )


def _renamed(network: TimmNetwork, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as a checkpoint of transformers holds them."""
    inside = _IN_VIT if _is_plain(network) else _IN_GATED if network.gated else _IN_DINO
    found = {}
    for name, value in (weights | _tokens(network, weights)).items():
        if not name.startswith("blocks."):
            stem, kind = name.rsplit(".", 1) if "." in name else (name, "")
            found[_ROOT[stem] + (f".{kind}" if kind else "")] = value
            continue
        _, block, rest = name.split(".", 2)
        stem, kind = rest.rsplit(".", 1)
        layer, kind = f"encoder.layer.{block}", "lambda1" if kind == "gamma" else kind
        if stem != "attn.qkv":
            found[f"{layer}.{inside[stem]}.{kind}"] = value
            continue
        for part, rows in zip(("query", "key", "value"), value.chunk(3)):
            found[f"{layer}.attention.attention.{part}.{kind}"] = rows
    return found


def _tokens(network: TimmNetwork, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what transformers does in another way: positions of tokens that are no places.

    It has one for the class token, zero where timm has none, and none for registers, which timm's
    are added to. Without a scale per channel, registers have one of ones.
    """
    positions = weights["pos_embed"]
    if network.only_places:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        return {"pos_embed": positions} | _ones(network)
    after = 1 + network.registers
    changed = {"pos_embed": torch.cat([positions[:, :1], positions[:, after:]], dim=1)}
    if network.registers:
        changed["reg_token"] = weights["reg_token"] + positions[:, 1:after]
    return changed | _ones(network)


def _ones(network: TimmNetwork) -> dict[str, Tensor]:
    """Return scales that change nothing, for registers without any."""
    if network.layer_scale or not network.registers:
        return {}
    names = [f"blocks.{k}.{scale}.gamma" for k in range(network.depth) for scale in ("ls1", "ls2")]
    return {name: torch.ones(network.width) for name in names}
