"""Late fusion: two encoders side by side, each silent in rows that lack its modality."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.errors import InputError
from fm_med.fusion.naming import PARTS, inputs_of
from fm_med.fusion.presence import blanked, presence, refuse_batch_norm
from fm_med.heads import Standardise


@strict
class LateFusionConfig(PreTrainedConfig):
    """Two encoders.

    Args:
        first: Config of an encoder with its `model_type`, as `PreTrainedConfig.to_diff_dict` gives.
        second: Likewise, of another modality.
        modality_dropout: In training, share of the rows with both modalities in which one of
            them, drawn at random, is hidden, so that either can be read without the other.
    """

    model_type = "fm_med_late_fusion"

    first: dict[str, Any] | None = None
    second: dict[str, Any] | None = None
    modality_dropout: float = 0.1

    def of_part(self, part: str) -> PreTrainedConfig:
        """Return the config of an encoder.

        Raises:
            InputError: It is not stated.
        """
        settings = getattr(self, part)
        if not settings or "model_type" not in settings:
            raise InputError(f"a late fusion needs the config of its {part} encoder")
        kind = type(AutoConfig.for_model(settings["model_type"]))
        return kind.from_dict(settings)  # as from a file: what it lacks may be older than a field

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output: both encoders' and two presences."""
        return sum(self.of_part(part).pooled_size for part in PARTS) + len(PARTS)

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state, which is the pooled output."""
        return self.pooled_size


class LateFusionModel(PreTrainedModel):
    """Encode two modalities; what a row lacks contributes exactly zero and gets no gradient.

    A part's pooled output is standardised (`standardise_by`), so that zero is what is known of a
    row whose part is absent: the mean. Whether it is absent stands beside.

    Inputs are those of the encoders as `first_<name>` and `second_<name>`. What they hold in rows
    without the part is never read; a part that no row of a batch has may be left out.

    Shape:
        - first_present, second_present: (batch,) bool; all True by default.
        - pooler_output: (batch, pooled_size): first, second, whether there is a first, a second.
        - last_hidden_state: (batch, 1, pooled_size), the same.
        - hidden_states, attentions, if asked for: those of the first, then those of the second.

    Attributes:
        new_parts: Parts whose weights are new, beside a saved one: they are trained in full
            whatever is done with the other.
    """

    config_class = LateFusionConfig
    base_model_prefix = "encoder"
    main_input_name = "first_present"

    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        if not 0 <= config.modality_dropout <= 1:
            raise InputError(
                f"modality_dropout is {config.modality_dropout}, expected a share from 0 to 1"
            )
        self.first = AutoModel.from_config(config.of_part("first"))
        self.second = AutoModel.from_config(config.of_part("second"))
        self.first_scale = Standardise(self.first.config.pooled_size)
        self.second_scale = Standardise(self.second.config.pooled_size)
        self.new_parts: tuple[str, ...] = ()
        self.post_init()

    @classmethod
    def of_encoders(
        cls,
        encoders: Mapping[str, PreTrainedModel],
        *,
        new_parts: tuple[str, ...] = (),
        **settings: Any,
    ) -> Self:
        """Join two encoders, which keep their weights.

        Args:
            encoders: "first" and "second".
            new_parts: As of the class.
            settings: Other fields of the config.
        """
        stated = {part: _settings_of(encoders[part].config) for part in PARTS}
        fused = cls(LateFusionConfig(**stated, **settings))
        for part in PARTS:
            setattr(fused, part, encoders[part])
        fused.new_parts = new_parts
        return fused

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Whole names of the layers that carry adapters, in the parts that are not new."""
        return self._adapted("lora_targets")

    @property
    def lora_parameters(self) -> tuple[str, ...]:
        """Whole names of the stacked parameters that carry adapters."""
        return self._adapted("lora_parameters")

    def _adapted(self, kind: str) -> tuple[str, ...]:
        """Return whole names, because the end of one may also be that of a layer in the other."""
        found = []
        for part in PARTS:
            encoder = getattr(self, part)
            layers: Iterable[tuple[str, Any]] = encoder.named_modules()
            if kind == "lora_parameters":
                layers = _plain_names(encoder)
            names = [name for name, _ in layers]
            for end in () if part in self.new_parts else getattr(encoder, kind):
                own = (name for name in names if name == end or name.endswith(f".{end}"))
                found += [f"{part}.{name}" for name in own]
        return tuple(found)

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack; the encoders fill their own."""
        if isinstance(module, Standardise):
            init.zeros_(module.mean)
            init.ones_(module.scale)

    def place_of(self, part: str) -> tuple[slice, int]:
        """Return where the pooled output holds a part's features, and whether it is there."""
        first, both = self.first.config.pooled_size, self.config.pooled_size - len(PARTS)
        return (slice(0, first), both) if part == "first" else (slice(first, both), both + 1)

    def trained_in_full(self) -> list[nn.Module]:
        """Return the encoders that are trained in full whatever is done with the other."""
        return [getattr(self, part) for part in self.new_parts]

    @torch.no_grad()
    def standardise_by(self, part: str, inputs: Mapping[str, Tensor]) -> None:
        """Centre and scale a part's pooled output by that of some training rows.

        Args:
            part: "first" or "second", with saved weights: those of a new encoder will change, and
                with them their scale.
            inputs: Of its encoder.
        """
        encoder = getattr(self, part)
        pooled = encoder.eval()(**inputs).pooler_output
        deviation = pooled.std(0, correction=0)
        getattr(self, f"{part}_scale").set(pooled.mean(0), deviation)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; beside a part that is trained, a frozen one stays as it is used."""
        super().train(mode)
        frozen = [part for part in PARTS if not _is_trained(getattr(self, part))]
        if len(frozen) == 1:
            getattr(self, frozen[0]).eval()
        return self

    def forward(
        self,
        first_present: Tensor | None = None,
        second_present: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: Tensor,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            first_present: (batch,) bool, the rows that have the first modality.
            second_present: (batch,) bool.
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return `hidden_states`.
            inputs: Of the encoders, as `first_<name>` and `second_<name>`.
        """
        own = {part: inputs_of(part, inputs) for part in PARTS}
        given = dict(zip(PARTS, (first_present, second_present)))
        shown = self._hidden_at_random(presence(given, own))
        asked = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        pooled: list[Tensor] = []
        states: list[Tensor] = []
        attentions: list[Tensor] = []
        for part in PARTS:
            if not own[part]:
                pooled.append(self._nothing(part, len(shown[part])))
                continue
            encoder = getattr(self, part)
            refuse_batch_norm(encoder, shown[part])
            output = encoder(**blanked(own[part], shown[part]), **asked)
            features = getattr(self, f"{part}_scale")(output.pooler_output)
            pooled.append(torch.where(shown[part][:, None], features, 0.0))
            states += output.hidden_states or ()
            attentions += output.attentions or ()
        joined = torch.cat([*pooled, *(s[:, None].to(pooled[0].dtype) for s in shown.values())], 1)
        return BaseModelOutputWithPooling(
            last_hidden_state=joined[:, None],
            pooler_output=joined,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _hidden_at_random(self, shown: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide one modality of some rows that have both."""
        share = self.config.modality_dropout
        if not self.training or share == 0:
            return shown
        first, second = shown.values()
        drawn = torch.rand(len(first), device=first.device)
        hide_first = first & second & (drawn < share / 2)
        hide_second = first & second & (drawn >= share / 2) & (drawn < share)
        return {"first": first & ~hide_first, "second": second & ~hide_second}

    def _nothing(self, part: str, rows: int) -> Tensor:
        """Return zeros that hang on the part's weights: every process must give them a gradient."""
        encoder = getattr(self, part)
        zeros = self.first_scale.mean.new_zeros((rows, encoder.config.pooled_size))
        weights = [p for p in encoder.parameters() if p.requires_grad]
        return zeros + sum((weight.flatten()[:1].sum() * 0 for weight in weights), zeros.sum())


def _plain_names(encoder: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters by the names that they have without adapters."""
    for name, parameter in encoder.named_parameters():
        yield name.replace(".base_layer", ""), parameter


def _settings_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what makes a config anew, as it will be read from a file."""
    stated = json.loads(config.to_json_string(use_diff=True))
    return {k: v for k, v in stated.items() if k not in ("transformers_version", "architectures")}


def _is_trained(encoder: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in encoder.parameters())
