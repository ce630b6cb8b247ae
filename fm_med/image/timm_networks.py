"""What a vision transformer of timm is by its architecture's name and arguments.

The facts are those of timm 1.0, read off its models; `tests/image/reference_timm.py` does it again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm_med.errors import InputError

# Width, depth and heads of each size.
_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
}
# The giant among the plain ones is another network than that of DINOv2.
_NAMES = re.compile(
    r"vit_(?!giant_patch\d+_\d)(?P<size>tiny|small|base|large|huge|giant)_patch(?P<patch>8|14|16|32)_"
    r"(?:224|384|(?P<dino>(?P<reg>reg4_)?dinov2))"
)
KNOWN = (
    "vit_{tiny,small,base,large,huge}_patch{8,14,16,32}_{224,384} and "
    "vit_{small,base,large,giant}_patch14_{,reg4_}dinov2"
)
# Arguments that only say how to train, or what lies behind the features, or that weights show.
_NO_MATTER = frozenset(
    "num_classes global_pool fc_norm img_size dynamic_img_size weight_init drop_rate pos_drop_rate "
    "patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate".split()
)
# Those that change the network, with what is read of them; other ones only as timm has them.
_READ = (
    "patch_size embed_dim depth num_heads mlp_ratio init_values reg_tokens no_embed_class".split()
)
_USUAL = {"in_chans": 3, "class_token": True, "qkv_bias": True, "qk_norm": False, "pre_norm": False}


@dataclass(frozen=True)
class TimmNetwork:
    """A vision transformer with a class token.

    Attributes:
        name: Of the architecture.
        width: Of a token.
        depth: Number of layers.
        heads: Of the attention.
        patch: Edge of a patch in pixels.
        hidden: Width inside the MLP; of a gated one of gate and values together.
        gated: The MLP is a SwiGLU.
        layer_scale: Each branch is scaled per channel.
        registers: Number of tokens beside the class token that are no places.
        only_places: The position embedding has no entries for class token and registers.
    """

    name: str
    width: int
    depth: int
    heads: int
    patch: int
    hidden: int
    gated: bool
    layer_scale: bool
    registers: int
    only_places: bool

    @property
    def positions_before(self) -> int:
        """Entries of the position embedding before those of the patches."""
        return 0 if self.only_places else 1 + self.registers

    def shapes(self, places: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight by timm's name.

        Args:
            places: Number of patches.
        """
        width, inner = self.width, self.hidden // 2 if self.gated else self.hidden
        found: dict[str, tuple[int, ...]] = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, places + self.positions_before, width),
            "patch_embed.proj.weight": (width, 3, self.patch, self.patch),
            "patch_embed.proj.bias": (width,),
        }
        if self.registers:
            found["reg_token"] = (1, self.registers, width)
        matrices = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (self.hidden, width),
            "mlp.fc2": (width, inner),
        }
        for block in (f"blocks.{k}" for k in range(self.depth)):
            for norm in ("norm1", "norm2"):
                found |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
            for name, shape in matrices.items():
                found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
            if self.layer_scale:
                found |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        return found | {"norm.weight": (width,), "norm.bias": (width,)}


def timm_network(config: Mapping[str, Any], folder: Path) -> TimmNetwork:
    """Return the network that a checkpoint's config names.

    Args:
        config: Its config.json, with `architecture` and perhaps `model_args`.
        folder: Of the checkpoint, for messages.

    Raises:
        InputError: An architecture or an argument whose mathematics is not known here.
    """
    name = str(config["architecture"])
    match = _NAMES.fullmatch(name)
    if match is None:
        raise InputError(f"{folder}: timm's {name!r} is not read; read are {KNOWN}")
    given = {k: v for k, v in (config.get("model_args") or {}).items() if k not in _NO_MATTER}
    for key, value in given.items():
        if key not in _READ and (key not in _USUAL or value != _USUAL[key]):
            raise InputError(
                f"{folder}: {name} has the argument {key} = {value!r}, which is not read; read are "
                f"{', '.join(_READ)}"
            )
    patch = given.get("patch_size", int(match["patch"]))
    size, gated = match["size"], match["size"] == "giant"
    width, depth, heads = _SIZES[size]
    width, heads = given.get("embed_dim", width), given.get("num_heads", heads)
    if width % heads:
        raise InputError(f"{folder}: embed_dim {width} is no multiple of num_heads {heads}")
    return TimmNetwork(
        name,
        width,
        given.get("depth", depth),
        heads,
        patch=patch if isinstance(patch, int) else patch[0],
        hidden=int(width * given.get("mlp_ratio", 5.33334 if gated else 4.0)),
        gated=gated,
        layer_scale=bool(given.get("init_values", 1e-5 if match["dino"] else None)),
        registers=given.get("reg_tokens", 4 if match["reg"] else 0),
        only_places=given.get("no_embed_class", match["reg"] is not None),
    )
