"""Small networks on top of an encoder's pooled output."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init


class ProjectionHead(nn.Module):
    """Two layers from one tower's features to the shared space; normalising is left to the caller.

    Args:
        inputs: Width of the features.
        outputs: Width of the shared space.
        hidden: Width of the layer between.

    Shape:
        - features: (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Project the features."""
        return self.fc2(self.act(self.fc1(self.norm(features))))


@strict
class PredictionHeadConfig(PreTrainedConfig):
    """Sizes of a prediction head.

    Args:
        inputs: Width of the encoder's pooled output.
        outputs: Width of the prediction.
        output_name: "log_hazard", "logits" or "value".
        squeeze: One number per row: (batch,) instead of (batch, 1).
        hidden: Widths of the layers between; none for a linear head.
        dropout: Of the pooled features.
        batchwise_dropout: One dropout mask for all rows of a (micro-)batch, as in Chen et al. 2025.
        clinical: Names of the clinical covariates, in their order; none for no clinical part.
    """

    model_type = "fm_med_prediction_head"

    inputs: int = 512
    outputs: int = 1
    output_name: str = "log_hazard"
    squeeze: bool = True
    hidden: tuple[int, ...] | list[int] = ()
    dropout: float = 0.0
    batchwise_dropout: bool = False
    clinical: tuple[str, ...] | list[str] = ()


class Standardise(nn.Module):
    """Subtract a mean and divide by a scale that are data, not parameters."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise (..., width)."""
        return (x - self.mean) / self.scale

    @torch.no_grad()
    def set(self, mean: Tensor, scale: Tensor) -> None:
        """Take the statistics of the training rows; a constant column is only centred."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-6, scale, 1.0))


class PredictionHead(PreTrainedModel):
    """From pooled features, and perhaps clinical covariates, to a prediction.

    The clinical part is linear and is never penalised: age alone is a better predictor of heart
    failure than most small ECG models, and a penalty on it costs more than the ECG brings.

    Shape:
        - features: (batch, inputs); clinical: (batch, covariates), not standardised.
        - result: {output_name: (batch, outputs)}, or (batch,) with `squeeze`.
    """

    config_class = PredictionHeadConfig
    base_model_prefix = "head"

    def __init__(self, config: PredictionHeadConfig) -> None:
        super().__init__(config)
        self.features = Standardise(config.inputs)
        widths = [config.inputs, *config.hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], config.outputs)
        if config.clinical:
            self.covariates = Standardise(len(config.clinical))
            self.clinical = nn.Linear(len(config.clinical), config.outputs, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Start at a prediction of zero, from which the clinical part and the network grow."""
        if isinstance(module, nn.Linear):
            is_last = module is self.output or module is getattr(self, "clinical", None)
            if is_last:
                init.zeros_(module.weight)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Standardise):
            init.zeros_(module.mean)
            init.ones_(module.scale)

    def forward(self, features: Tensor, clinical: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            features: (batch, inputs) pooled output of the encoder.
            clinical: (batch, covariates) in their own units; needed when the head has them.
        """
        x = self._drop(self.features(features))
        for layer in self.layers:
            x = functional.gelu(layer(x))
        value = self.output(x)
        if self.config.clinical:
            if clinical is None:
                raise ValueError(f"the head needs {', '.join(self.config.clinical)}")
            value = value + self.clinical(self.covariates(clinical))
        value = value.squeeze(-1) if self.config.squeeze else value
        return {self.config.output_name: value}

    def _drop(self, x: Tensor) -> Tensor:
        if not self.config.batchwise_dropout:
            return functional.dropout(x, self.config.dropout, self.training)
        return x * functional.dropout(torch.ones_like(x[:1]), self.config.dropout, self.training)

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor, clinical: Tensor | None = None) -> None:
        """Take coefficients on standardised features and covariates from a fit elsewhere.

        Args:
            weight: (outputs, inputs).
            bias: (outputs,).
            clinical: (outputs, covariates).
        """
        self.output.weight.copy_(weight)
        self.output.bias.copy_(bias)
        if clinical is not None:
            self.clinical.weight.copy_(clinical)


def prediction_head(
    encoder: PreTrainedModel,
    *,
    outputs: int,
    output_name: str,
    squeeze: bool,
    clinical: Sequence[str] = (),
    **settings: object,
) -> PredictionHead:
    """Make a head that fits an encoder; `settings` as in `PredictionHeadConfig`."""
    config = PredictionHeadConfig(
        inputs=encoder.config.pooled_size,
        outputs=outputs,
        output_name=output_name,
        squeeze=squeeze,
        clinical=list(clinical),
        **settings,
    )
    return PredictionHead(config)
