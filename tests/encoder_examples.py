"""One small example of every encoder of every room, with inputs for it. A new encoder: one line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fm_med.auto  # noqa: F401  (a fusion finds its encoders by their model types)
from fm_med.ecg.dual_attention import DualAttentionConfig
from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig
from fm_med.ecg.resnet1d import ResNet1dConfig
from fm_med.ecg.vit1d import ViT1dConfig
from fm_med.fusion.late_fusion import LateFusionConfig
from fm_med.image.hub_backbone import HubBackboneConfig
from fm_med.image.spatial_attention import SpatialAttentionConfig
from fm_med.modalities import FUSION, MODALITIES
from fm_med.rna.attention_aml_paper import AttentionAmlPaperConfig
from fm_med.rna.gene_attention import GeneAttentionConfig
from fm_med.rna.hub_transformer import HubTransformerConfig
from fm_med.tabular.lstm_attention import LstmAttentionConfig
from fm_med.tabular.malnet_paper import MalnetPaperConfig
from fm_med.tabular.spline_basis import SplineBasisConfig
from fm_med.tabular.tabm import TabmConfig

SAMPLES = 320


def ecg_signal(batch=3, samples=SAMPLES, seed=1):
    return torch.randn(batch, 12, samples, generator=torch.Generator().manual_seed(seed))


def ecg(batch, seed=1):
    return {"signal": ecg_signal(batch, seed=seed)}


def rna(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {"expression": torch.randn(batch, 30, generator=generator)}


def genes(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = 9 - 2 * (torch.arange(batch) % 3)
    mask = torch.arange(9) < lengths[:, None]
    ids = torch.rand(batch, 20, generator=generator).argsort(1)[:, :9] + 2
    ids[:, 0] = 1
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask}


def image(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(batch, 3, 16, 24, generator=generator)}


TABLE = {
    "num_numeric": 3,
    "levels": [4, 5],
    "bins": [[-2.0, -0.5, 0.0, 0.5, 2.0], [-1.0, 1.0], [-1.0, 0.0, 1.0]],
}


def table(batch=3, seed=1, visits=4):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch) % visits + 1
    return {
        "numeric": torch.randn(batch, visits, 3, generator=generator),
        "categorical": torch.stack(
            [torch.randint(k, (batch, visits), generator=generator) for k in (4, 5)], -1
        ),
        "missing": torch.rand(batch, visits, 3, generator=generator) < 0.3,
        "visit_mask": torch.arange(visits) < lengths[:, None],
        "visit_time": torch.rand(batch, visits, generator=generator).cumsum(1),
    }


def ecg_and_table(batch, seed=1):
    """Every fourth row has no ECG, every fourth no table; what is there instead is not a number."""
    rows = torch.arange(batch)
    there = {"first_present": rows % 4 != 2, "second_present": rows % 4 != 3}
    absent = ~there["first_present"][:, None, None]
    signal = ecg_signal(batch, seed=seed).masked_fill(absent, float("nan"))
    cells = {f"second_{name}": value for name, value in table(batch, seed).items()}
    absent = ~there["second_present"][:, None, None]
    cells["second_numeric"] = cells["second_numeric"].masked_fill(absent, float("nan"))
    return {**there, "first_signal": signal, **cells}


@dataclass(frozen=True)
class Example:
    """An encoder's config and inputs.

    Attributes:
        config: Small sizes.
        inputs: Makes inputs of a batch from its size and a seed.
        attentive: Its q_proj and k_proj must matter; not for published networks in which they do
            not, and not where there is no attention.
        batch_norm: Normalises over the batch in training, as published.
        weightless: Has nothing to train, so that neither gradients nor adapters can reach it.
        without_gradient: Ends of the names of parameters that never get a gradient, as published.
    """

    config: Any
    inputs: Callable[..., dict[str, Tensor]]
    attentive: bool = True
    batch_norm: bool = False
    weightless: bool = False
    without_gradient: tuple[str, ...] = ()


EXAMPLES: dict[str, Example] = {
    "dual_attention": Example(
        DualAttentionConfig(
            strides=(8, 4), widths=(8, 8), hidden_size=16, lead_heads=2, pooled_size=24
        ),
        ecg,
    ),
    "dual_attention_paper": Example(
        DualAttentionPaperConfig(samples=96, pooled_size=24, dropout=0.0), ecg, batch_norm=True
    ),
    "resnet1d": Example(
        ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4), ecg, attentive=False
    ),
    "vit1d": Example(ViT1dConfig(hidden_size=16, num_layers=2, num_heads=2, patch_samples=20), ecg),
    "lstm_attention": Example(
        LstmAttentionConfig(**TABLE, visits=True, hidden_size=16, num_heads=2, dropout=0.0), table
    ),
    "malnet_paper": Example(
        MalnetPaperConfig(**TABLE, hidden_size=16, num_heads=2, dropout=0.0), table
    ),
    "spline_basis": Example(
        SplineBasisConfig(
            **TABLE,
            quantiles=[[0.3 * k - 1.5 for k in range(11)], [], [0.2 * k - 1.0 for k in range(11)]],
            flagged=[True, False, True],
            blank=[False, True],
            visits=True,
            history="mean",
        ),
        table,
        attentive=False,
        weightless=True,
    ),
    "tabm": Example(
        TabmConfig(**TABLE, hidden_size=8, num_members=3, embedding_size=4, dropout=0.0),
        table,
        attentive=False,
    ),
    "gene_attention": Example(
        GeneAttentionConfig(num_genes=30, num_tokens=4, hidden_size=8, num_heads=2, dropout=0.0),
        rna,
    ),
    "attention_aml_paper": Example(
        AttentionAmlPaperConfig(
            num_genes=30, inner_size=16, hidden_size=8, inner_heads=2, num_heads=2
        ),
        rna,
        attentive=False,
        without_gradient=("q_proj.weight", "q_proj.bias", "k_proj.weight"),
    ),
    "hub_transformer": Example(
        HubTransformerConfig(
            backbone={
                "model_type": "bert",
                "hidden_size": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "max_position_embeddings": 9,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            vocab_size=22,
            special_tokens=[0, 1],
        ),
        genes,
        attentive=False,  # its projections have other names; see tests/rna/test_hub_transformer.py
        without_gradient=("key.bias",),
    ),
    "hub_backbone": Example(
        HubBackboneConfig(
            backbone={
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16],
                "depths": [1, 1],
                "layer_type": "basic",
            },
            norms="frozen",
        ),
        image,
        attentive=False,
    ),
    "spatial_attention": Example(
        SpatialAttentionConfig(
            widths=(8, 16), depths=(1, 1), norm_groups=4, kernel_size=3, dropout=0.0
        ),
        image,
        attentive=False,
    ),
}
EXAMPLES["late_fusion"] = Example(
    LateFusionConfig(
        **{
            part: json.loads(EXAMPLES[name].config.to_json_string())
            for part, name in (("first", "dual_attention"), ("second", "tabm"))
        }
    ),
    ecg_and_table,
)
ROOMS = (*MODALITIES.values(), FUSION)
ENCODERS = {name: model for room in ROOMS for name, model in room.encoders.items()}


def build(name, seed=0):
    torch.manual_seed(seed)
    return ENCODERS[name](EXAMPLES[name].config).eval()


def inputs_of(name, batch=3, seed=1):
    return EXAMPLES[name].inputs(batch, seed)


def pooled(encoder, inputs):
    with torch.no_grad():
        return encoder(**inputs).pooler_output


def pooled_signal(encoder, signal, **inputs):
    return pooled(encoder, {"signal": signal, **inputs})
