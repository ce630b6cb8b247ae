"""Kinds of vision backbones of transformers, and what differs between them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What differs between kinds of backbones.

    Attributes:
        tokens: Layers of tokens of one width, a class token first; else stages of feature maps.
        lora_targets: Ends of the names of layers that adapters go to, where a network has them.
    """

    tokens: bool
    lora_targets: tuple[str, ...]


_CONVOLUTIONS = Family(False, tuple(f"layer.{place}.convolution" for place in range(3)))
_POINTWISE = Family(False, ("pwconv1", "pwconv2"))
_PROJECTIONS = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
_TRANSFORMER = Family(True, (*_PROJECTIONS, "mlp.fc1", "mlp.fc2", "mlp.up_proj", "mlp.down_proj"))
FAMILIES: dict[str, Family] = {
    "resnet": _CONVOLUTIONS,
    "convnext": _POINTWISE,
    "convnextv2": _POINTWISE,
    "vit": _TRANSFORMER,
    "dinov2": _TRANSFORMER,
    "dinov2_with_registers": _TRANSFORMER,
    "dinov3_vit": _TRANSFORMER,
}
