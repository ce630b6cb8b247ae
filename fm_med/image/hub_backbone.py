"""Any vision backbone of transformers as an encoder, from its checkpoint or from scratch."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import initialise
from fm_med.errors import InputError
from fm_med.image.backbone_families import FAMILIES, Family
from fm_med.image.processor import ImageProcessor
from fm_med.image.views import Views, over_views
from fm_med.quiet import quietly

# What says nothing about the network, or only what its old head told apart.
_NOT_KEPT = frozenset(
    "architectures dtype _name_or_path transformers_version id2label label2id problem_type "
    "return_dict output_hidden_states".split()
)
JOINED_LAYERS = 4


@strict
class HubBackboneConfig(PreTrainedConfig):
    """A backbone and how its features are pooled.

    Args:
        backbone: Config of the backbone as transformers writes it, with its `model_type`, one of
            `FAMILIES`.
        pooling: "last" pools the last stage; "skip" also earlier stages (of tokens: four layers
            evenly spread), which helps frozen features on images unlike those of training.
        norms: "frozen" keeps the statistics of BatchNorms as the checkpoint has them: a small set
            only spoils them, and an adapter does not carry them. "trained" is for random weights.
        test_time_views: In evaluation mode, features are the mean over so many views of the image,
            mirrored and turned (1, 2, 4 or 8); for images that have no up or down.
    """

    model_type = "fm_med_hub_backbone"

    backbone: dict[str, Any] | None = None
    pooling: Literal["last", "skip"] = "last"
    norms: Literal["frozen", "trained"] = "trained"
    test_time_views: Views = 1

    @property
    def family(self) -> Family:
        """Kind of the backbone.

        Raises:
            InputError: One that is not known here.
        """
        model_type = (self.backbone or {}).get("model_type", "resnet")
        if model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise InputError(f"there is no backbone {model_type!r}; there are {known}")
        return FAMILIES[model_type]

    def backbone_config(self) -> PreTrainedConfig:
        """Return the backbone's own config; without one, that of ResNet-50."""
        settings = {"model_type": "resnet"} | (self.backbone or {})
        self.family  # noqa: B018  (refuses unknown ones)
        return AutoConfig.for_model(**settings)

    @property
    def widths(self) -> list[int]:
        """Width of each state that is pooled."""
        inner = self.backbone_config()
        if not self.family.tokens:
            return list(inner.hidden_sizes)[
                slice(None) if self.pooling == "skip" else slice(-1, None)
            ]
        joined = min(JOINED_LAYERS, inner.num_hidden_layers) if self.pooling == "skip" else 1
        return [inner.hidden_size] * joined

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return self.widths[-1]

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output: means over places, of tokens beside the class token."""
        return sum(self.widths) * (2 if self.family.tokens else 1)


class HubBackboneModel(PreTrainedModel):
    """Encode images by a vision backbone of transformers.

    Shape:
        - pixel_values: (batch, 3, height, width), centred and scaled as the checkpoint wants it.
        - pooler_output: (batch, pooled_size).
        - last_hidden_state: (batch, places or tokens, hidden_size).
        - hidden_states, if asked for: (batch, channels, height, width) of each stage, or
          (batch, tokens, hidden_size) of each layer.
        - attentions, if asked for: of each layer, (batch, heads, tokens, tokens); none of stages.
    """

    config_class = HubBackboneConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: HubBackboneConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config())
        if config.family.tokens:
            self.backbone.pooler = None
        parameters = inspect.signature(self.backbone.forward).parameters
        self._resizes = "interpolate_pos_encoding" in parameters
        self.post_init()

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Ends of the names of the layers that carry adapters."""
        names = [name for name, _ in self.named_modules()]
        wanted = self.config.family.lora_targets
        return tuple(end for end in wanted if any(name.endswith(f".{end}") for name in names))

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack; the backbone fills its own."""
        if not initialise(module):
            super()._init_weights(module)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; frozen statistics stay in use."""
        super().train(mode)
        if self.config.norms == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

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
            InputError: Not three channels.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            shape = tuple(pixel_values.shape)
            raise InputError(
                f"pixel_values must be (batch, 3, height, width), its shape is {shape}"
            )
        output, states, pooled = self._encode(pixel_values, output_attentions)
        views = self.config.test_time_views
        if views > 1 and not self.training:
            pooled = over_views(
                pooled, lambda seen: self._encode(seen, False)[2], pixel_values, views
            )
        tokens = self.config.family.tokens
        attentions = tuple(output.attentions) if tokens and output_attentions else ()
        return BaseModelOutputWithPooling(
            last_hidden_state=states[-1] if tokens else states[-1].flatten(2).transpose(1, 2),
            pooler_output=pooled,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )

    def _encode(self, pixel_values: Tensor, attentions: bool) -> tuple[Any, list[Tensor], Tensor]:
        """Return the backbone's output, its states, and the pooled features."""
        tokens = self.config.family.tokens
        output = self._run(pixel_values, tokens and attentions)
        if tokens:
            states = list(output.hidden_states[1:])
            states[-1] = output.last_hidden_state
            parts = self._of_tokens(states)
        else:
            count = len(self.config.backbone_config().hidden_sizes)
            states = list(output.hidden_states[-count:])
            parts = [state.mean((2, 3)) for state in states[:-1]]
            parts.append(output.pooler_output.flatten(1))
        return output, states, torch.cat(parts if self.config.pooling == "skip" else parts[-1:], 1)

    def _run(self, pixel_values: Tensor, attentions: bool) -> Any:
        """Call the backbone; its fused attention has no weights to show, so it is put off."""
        more = {}
        size = self.backbone.config.image_size if self._resizes else None
        if self._resizes and tuple(pixel_values.shape[-2:]) != _pair(size):
            more["interpolate_pos_encoding"] = True
        if not attentions:
            return self.backbone(pixel_values, output_hidden_states=True, **more)
        usual = self.backbone.config._attn_implementation
        self.backbone.set_attn_implementation("eager")
        try:
            return self.backbone(
                pixel_values, output_hidden_states=True, output_attentions=True, **more
            )
        finally:
            self.backbone.set_attn_implementation(usual)

    def _of_tokens(self, states: list[Tensor]) -> list[Tensor]:
        """Return class token and mean of the patches, for layers evenly spread to the last."""
        joined = min(JOINED_LAYERS, len(states))
        chosen = [states[len(states) * (k + 1) // joined - 1] for k in range(joined)]
        first = 1 + getattr(self.backbone.config, "num_register_tokens", 0)
        return [torch.cat([state[:, 0], state[:, first:].mean(1)], 1) for state in chosen]


def _pair(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def adopt(
    folder: Path, encoder_settings: Mapping[str, Any], processor_settings: Mapping[str, Any]
) -> tuple[HubBackboneModel, ImageProcessor]:
    """Take a checkpoint of transformers as an encoder, with the image size that it was trained on.

    Args:
        folder: With config.json, model.safetensors and preprocessor_config.json.
        encoder_settings: Fields of `HubBackboneConfig`, such as `pooling`.
        processor_settings: Of `ImageProcessor`, instead of the checkpoint's own.

    Raises:
        InputError: Files or weights are missing, or a setting is unknown.
    """
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} has no model.safetensors; pickled weights are not read")
    processor = _processor(folder, processor_settings)
    try:
        with quietly():
            backbone, found = AutoModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the backbone in {folder} cannot be loaded: {reason}") from error
    encoder = around(backbone, encoder_settings)
    # A pooler that no checkpoint of this network has is not used either.
    of_tokens = encoder.config.family.tokens
    lacking = [name for name in found["missing_keys"] if not (of_tokens and "pooler" in name)]
    if lacking:
        raise InputError(f"the weights in {folder} lack {sorted(lacking)[0]}")
    return encoder.eval(), processor


def around(backbone: PreTrainedModel, settings: Mapping[str, Any]) -> HubBackboneModel:
    """Return the encoder around a network of transformers.

    Raises:
        InputError: A setting of `HubBackboneConfig` is unknown, or the network is none of ours.
    """
    inner = {k: v for k, v in backbone.config.to_dict().items() if k not in _NOT_KEPT}
    try:
        config = HubBackboneConfig(**{"norms": "frozen", **settings, "backbone": inner})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"hub_backbone: {' '.join(str(error).split())[:200]}") from error
    encoder = HubBackboneModel(config)
    if config.family.tokens:
        backbone.pooler = None
    encoder.backbone = backbone
    return encoder


def _processor(folder: Path, settings: Mapping[str, Any]) -> ImageProcessor:
    """Return the processor that a checkpoint's preprocessor_config.json describes."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        if {"height", "width", "mean", "std"} <= settings.keys():
            return ImageProcessor(**settings)
        raise InputError(
            f"{folder} has no preprocessor_config.json, so its image size and channel means are "
            "unknown; state height, width, mean and std in --processor_settings"
        )
    stated = json.loads(path.read_text())
    cropped = bool(stated.get("do_center_crop")) and stated.get("crop_size") is not None
    size = stated["crop_size"] if cropped else stated.get("size", 224)
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        height, width = size.get("height", edge), size.get("width", edge)
        cropped = cropped or edge is not None
    else:
        height = width = size
    found = {
        "height": height,
        "width": width,
        "mean": stated["image_mean"] if stated.get("do_normalize", True) else (0.0, 0.0, 0.0),
        "std": stated["image_std"] if stated.get("do_normalize", True) else (1.0, 1.0, 1.0),
        "fit": "crop" if cropped else "stretch",
    }
    return ImageProcessor(**{**found, **settings})
