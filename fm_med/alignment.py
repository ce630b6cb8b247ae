"""Two towers: a trained signal encoder and a frozen text encoder's vectors in one shared space."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from fm_med.heads import ProjectionHead


@strict
class AlignmentConfig(PreTrainedConfig):
    """What the shared space is made of, and which text model spans it.

    Args:
        signal_dim: Width of the encoder's pooled output.
        text_dim: Width of the text model's embeddings.
        embedding_dim: Width of the shared space.
        hidden_dim: Width of the layer inside each projection.
        sigmoid: Has a bias of the similarities, which the sigmoid loss needs.
        temperature: Initial temperature of the similarities.
        max_logit_scale: Upper bound of 1/temperature (Radford et al. 2021 use 100).
        text: How reports become vectors: model, revision, pooling, prompt, source.
    """

    model_type = "fm_med_alignment"

    signal_dim: int = 512
    text_dim: int = 768
    embedding_dim: int = 256
    hidden_dim: int = 512
    sigmoid: bool = False
    temperature: float = 0.07
    max_logit_scale: float = 100.0
    text: dict[str, Any] | None = None


class Temperature(nn.Module):
    """The learned scale of the similarities, as its logarithm, and SigLIP's bias.

    Vectors of one number: parameters without a dimension cannot be sharded.
    """

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__()
        self.initial = {"log_scale": math.log(1 / config.temperature), "bias": -10.0}
        self.maximum = config.max_logit_scale
        self.log_scale = nn.Parameter(torch.tensor([self.initial["log_scale"]]))
        if config.sigmoid:
            self.bias = nn.Parameter(torch.tensor([self.initial["bias"]]))

    def forward(self) -> dict[str, Tensor]:
        """Return the scalars `logit_scale` and, for the sigmoid loss, `logit_bias`."""
        scalars = {"logit_scale": self.log_scale[0].exp().clamp(max=self.maximum)}
        if hasattr(self, "bias"):
            scalars["logit_bias"] = self.bias[0]
        return scalars


class AlignmentHeads(PreTrainedModel):
    """Project both towers' outputs onto the unit sphere of the shared space.

    Shape:
        - signal features: (batch, signal_dim) -> (batch, embedding_dim), L2-normalised.
        - report embeddings: (batch, text_dim), not yet centred -> (batch, embedding_dim).
    """

    config_class = AlignmentConfig
    base_model_prefix = "alignment"

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__(config)
        self.signal_projection = ProjectionHead(
            config.signal_dim, config.embedding_dim, config.hidden_dim
        )
        self.text_projection = ProjectionHead(
            config.text_dim, config.embedding_dim, config.hidden_dim
        )
        self.temperature = Temperature(config)
        # Mean report embedding of the training split: raw embeddings of reports all point one way
        # (cosine .88 between random reports), centred ones do not (.01).
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill every parameter and buffer that a checkpoint may lack."""
        super()._init_weights(module)
        if isinstance(module, Temperature):
            for name, parameter in module.named_parameters():
                init.constant_(parameter, module.initial[name])
        if isinstance(module, AlignmentHeads):
            init.zeros_(module.text_mean)

    def project_signal(self, features: Tensor) -> Tensor:
        """Map pooled signal features into the shared space."""
        return functional.normalize(self.signal_projection(features).float(), dim=-1)

    def project_text(self, report_embedding: Tensor) -> Tensor:
        """Centre report embeddings with the training mean and map them into the shared space."""
        centred = report_embedding - self.text_mean
        return functional.normalize(self.text_projection(centred).float(), dim=-1)


class TwoTowers(nn.Module):
    """What is trained: encoder, projections, temperature and, if asked for, a decoder.

    The text tower is frozen and outside: its vectors come with the batch.
    """

    def __init__(
        self, encoder: PreTrainedModel, heads: AlignmentHeads, decoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.decoder = decoder

    def forward(self, report_embedding: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Encode one micro-batch of pairs.

        Args:
            report_embedding: (batch, text_dim).
            inputs: The encoder's inputs.

        Returns:
            `signal_embedding` and `text_embedding`, (batch, embedding_dim) each; the temperature's
            scalars repeated for each row, so that a loss on gathered rows trains them exactly; with
            a decoder `reconstruction`, (batch, leads, samples).
        """
        output = self.encoder(**inputs, output_hidden_states=self.decoder is not None)
        outputs = {
            "signal_embedding": self.heads.project_signal(output.pooler_output),
            "text_embedding": self.heads.project_text(report_embedding),
        }
        for name, scalar in self.heads.temperature().items():
            outputs[name] = scalar.repeat(len(report_embedding))  # no view: FSDP2 warns
        if self.decoder is not None:
            outputs["reconstruction"] = self.decoder(output.hidden_states[-1])
        return outputs


def build_towers(
    encoder: PreTrainedModel,
    text_mean: Tensor,
    *,
    text: dict[str, Any],
    embedding_dim: int,
    temperature: float,
    sigmoid: bool,
    decoder: nn.Module | None,
) -> TwoTowers:
    """Put new projections on an encoder and on a text model's vectors.

    Args:
        encoder: With `config.pooled_size`.
        text_mean: (text_dim,) mean report embedding of the training split.
        text: What the text embeddings depend on; saved with the model.
        embedding_dim: Width of the shared space.
        temperature: Initial temperature.
        sigmoid: For the sigmoid loss.
        decoder: Rebuilds the recording; None for none.
    """
    config = AlignmentConfig(
        signal_dim=encoder.config.pooled_size,
        text_dim=len(text_mean),
        embedding_dim=embedding_dim,
        temperature=temperature,
        sigmoid=sigmoid,
        text=text,
    )
    heads = AlignmentHeads(config)
    heads.text_mean.copy_(text_mean)
    return TwoTowers(encoder, heads, decoder)
