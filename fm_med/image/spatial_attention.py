"""A small residual network whose blocks weigh places of the image (spatial attention)."""

from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import initialise
from fm_med.errors import InputError
from fm_med.image.views import Views, over_views


@strict
class SpatialAttentionConfig(PreTrainedConfig):
    """Sizes of the network.

    Args:
        widths: Channels of each stage; each stage but the first halves height and width.
        depths: Residual blocks of each stage.
        stem_stride: Of the first convolution; 2 sees twice the resolution at the same cost.
        norm_groups: Groups of each GroupNorm.
        attention: Blocks weigh places; False for a plain residual network of the same size.
        kernel_size: Of the convolution that makes the weights.
        pooling: "last" pools the last stage; "skip" pools every stage and joins them, which helps
            frozen features on images unlike those of training.
        dropout: Of whole channels, after each stage.
        test_time_views: In evaluation mode, features are the mean over so many views of the image,
            mirrored and turned (1, 2, 4 or 8); for images that have no up or down.
    """

    model_type = "fm_med_spatial_attention"

    widths: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    depths: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    stem_stride: int = 1
    norm_groups: int = 8
    attention: bool = True
    kernel_size: int = 7
    pooling: Literal["last", "skip"] = "last"
    dropout: float = 0.1
    test_time_views: Views = 1

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output: mean and maximum over places."""
        return 2 * (sum(self.widths) if self.pooling == "skip" else self.widths[-1])


class PlaceWeights(nn.Module):
    """Weigh each place by a convolution over the mean and maximum of its channels.

    Shape:
        - x: (batch, channels, height, width), the same out, with the weights (batch, height, width)
          between 0 and 1.

    References:
        Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.place_conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighed features and the weights."""
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        weights = self.place_conv(summary).sigmoid()
        return x * weights, weights[:, 0]


class ResidualBlock(nn.Module):
    """Two convolutions, spatial attention, and the input added.

    Shape:
        - x: (batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride).
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, config: SpatialAttentionConfig
    ) -> None:
        super().__init__()
        self.stride, groups = stride, config.norm_groups
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.places = PlaceWeights(config.kernel_size) if config.attention else None
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the new features and the weights of places."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        weights = None
        if self.places is not None:
            y, weights = self.places(y)
        if self.shortcut is not None:
            # Not a convolution with a stride: oneDNN's of few channels writes beyond its memory.
            x = self.shortcut(x[:, :, :: self.stride, :: self.stride])
        return functional.relu(y + x), weights


class SpatialAttentionModel(PreTrainedModel):
    """Encode an image of any size of at least eight pixels a side.

    Shape:
        - pixel_values: (batch, 3, height, width), centred and scaled.
        - pooler_output: (batch, pooled_size).
        - last_hidden_state: (batch, places, hidden_size).
        - hidden_states, if asked for: the features of each stage, (batch, channels, height, width).
        - attentions, if asked for: per block the share of each place, (batch, 1, places); rows of
          the image follow each other. Empty without attention.

    References:
        The published system for acute promyelocytic leukaemia (Frontiers in Oncology 2025,
        15:1619296) names residual blocks with spatial attention and no sizes; these are ours.
    """

    config_class = SpatialAttentionConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    lora_targets: tuple[str, ...] = ("conv1", "conv2")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: SpatialAttentionConfig) -> None:
        super().__init__(config)
        first = config.widths[0]
        stride = config.stem_stride
        size = 2 * stride + 1
        self.stem = nn.Conv2d(3, first, size, stride=stride, padding=stride, bias=False)
        self.stem_norm = nn.GroupNorm(config.norm_groups, first)
        before = (first, *config.widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    ResidualBlock(
                        inputs if block == 0 else width,
                        width,
                        2 if block == 0 and stage > 0 else 1,
                        config,
                    )
                    for block in range(depth)
                )
            )
            for stage, (inputs, width, depth) in enumerate(
                zip(before, config.widths, config.depths)
            )
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            pixel_values: (batch, 3, height, width).
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return `hidden_states`.

        Raises:
            InputError: Not three channels, or an image too small.
        """
        config = self.config
        smallest = config.stem_stride * 2 ** (len(config.widths) - 1)
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < smallest:
            raise InputError(
                f"pixel_values must be (batch, 3, height, width) of at least {smallest} pixels a "
                f"side, its shape is {shape}"
            )
        states, attentions = self._stages(pixel_values)
        pooled = self._pool(states)
        if config.test_time_views > 1 and not self.training:
            encode = lambda seen: self._pool(self._stages(seen)[0])  # noqa: E731
            pooled = over_views(pooled, encode, pixel_values, config.test_time_views)
        return BaseModelOutputWithPooling(
            last_hidden_state=states[-1].flatten(2).transpose(1, 2),
            pooler_output=pooled,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=_shares(attentions) if output_attentions else None,
        )

    def _stages(self, pixel_values: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return the features of each stage and each block's weights of places."""
        # Convolutions of few channels are a quarter faster with the channels last.
        x = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))
        x = functional.relu(self.stem_norm(x))
        states, attentions = [], []
        for stage in self.stages:
            for block in stage.children():
                x, weights = block(x)
                attentions.append(weights)
            x = functional.dropout2d(x, self.config.dropout, training=self.training)
            states.append(x)
        return states, attentions

    def _pool(self, states: list[Tensor]) -> Tensor:
        """Return mean and maximum over places, (batch, pooled_size)."""
        pooled = states if self.config.pooling == "skip" else states[-1:]
        return torch.cat([part for s in pooled for part in (s.mean((2, 3)), s.amax((2, 3)))], 1)


def _shares(weights: list[Tensor | None]) -> tuple[Tensor, ...]:
    """Return each block's weights as shares of their sum, (batch, 1, places)."""
    flat = [w.flatten(1)[:, None] for w in weights if w is not None]
    return tuple(w / w.sum(-1, keepdim=True) for w in flat)
