"""Make reference_timm.json, what timm itself computes; no part of the suite, which has no timm.

    PYTHONPATH=tests python tests/image/reference_timm.py

Made with timm 1.0.31 and torch 2.13.0. timm imports torchvision, of which nothing here is computed:
where only a torch without it is at hand, empty modules of its names do.
"""

import json
import tempfile
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from timm_checkpoints import REFERENCE, pixels, weights
from torch import nn

SMALL = {"img_size": 28, "embed_dim": 24, "depth": 2}
CASES = {
    "dinobloom": ("vit_small_patch14_dinov2", SMALL, 42),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL, 42),
    "plain": ("vit_tiny_patch16_224", SMALL | {"patch_size": 14, "num_classes": 3}, 56),
    "gated": (
        "vit_giant_patch14_reg4_dinov2",
        {"img_size": 28, "embed_dim": 48, "depth": 1},
        None,
    ),
    "scaled": (
        "vit_large_patch16_224",
        {"img_size": 32, "embed_dim": 32, "depth": 1, "init_values": 1e-5, "num_classes": 0}
        | {"dynamic_img_size": True},
        48,
    ),
    "placed_registers": (
        "vit_base_patch16_224",
        {"img_size": 32, "embed_dim": 24, "depth": 1, "reg_tokens": 4, "num_classes": 0},
        48,
    ),
}


def numbers(values):
    return [[float(f"{v:.7g}") for v in row] for row in values[0].tolist()]


def features(model, edge):
    """Return the features, and the output of the first layer."""
    first = []
    hook = model.blocks[0].register_forward_hook(lambda *seen: first.append(seen[-1]))
    with torch.no_grad():
        last = model.forward_features(torch.from_numpy(pixels(edge)))
    hook.remove()
    return numbers(last), numbers(first[0])


def case(name, settings, other):
    model = timm.create_model(name, pretrained=False, **settings).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in weights(shapes).items()}
    model.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=settings, safe_serialization=True)
        config = json.loads((Path(folder) / "config.json").read_text())
    last, first = features(model, settings["img_size"])
    found = {"config": config, "shapes": shapes, "features": last, "first_layer": first}
    if other is not None:
        # timm resamples the position embedding when it loads weights of another image size.
        larger = timm.create_model(name, pretrained=False, **settings | {"img_size": other}).eval()
        filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), larger)
        larger.load_state_dict(filtered)
        found |= {"other_size": other, "other_features": features(larger, other)[0]}
    return found


def is_read(model):
    """Whether the mathematics is that of the networks that fm_med reads."""
    block = model.blocks[0]
    if type(block) is not Block:
        return False
    mlp = type(block.mlp).__name__, type(block.mlp.act).__name__
    return (
        model.cls_token is not None
        and isinstance(model.norm, nn.LayerNorm)
        and {model.norm.eps, block.norm1.eps} == {1e-6}
        and type(model.norm_pre) is nn.Identity
        and type(block.attn.q_norm) is nn.Identity
        and model.attn_pool is None
        and isinstance(model.patch_embed.proj, nn.Conv2d)
        and model.patch_embed.proj.bias is not None
        and block.attn.qkv.bias is not None
        and (mlp == ("Mlp", "GELU") or (mlp == ("GluMlp", "SiLU") and not block.mlp.gate_last))
    )


def facts(model):
    block = model.blocks[0]
    return {
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "heads": block.attn.num_heads,
        "patch": model.patch_embed.patch_size[0],
        "hidden": block.mlp.fc1.out_features,
        "gated": type(block.mlp).__name__ == "GluMlp",
        "layer_scale": isinstance(block.ls1, LayerScale),
        "registers": model.num_reg_tokens,
        "only_places": model.no_embed_class,
    }


def main():
    known, others = {}, []
    for name in timm.list_models("vit_*"):
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
        if isinstance(model, VisionTransformer) and is_read(model):
            known[name] = facts(model)
        else:
            others.append(name)
    found = {
        "versions": {"timm": timm.__version__, "torch": torch.__version__.partition("+")[0]},
        "cases": {name: case(*given) for name, given in CASES.items()},
        "architectures": known,
        "others": others,
    }
    REFERENCE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
