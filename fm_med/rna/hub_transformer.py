"""A BERT of transformers over sentences of genes, such as Geneformer, as an encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import initialise
from fm_med.errors import InputError
from fm_med.quiet import quietly
from fm_med.rna.gene_tokens import read_gene_tokens
from fm_med.rna.rank_values import RankValueProcessor

FAMILIES = ("bert",)
# What says nothing about the network, or only what its old head told apart.
_NOT_KEPT = frozenset(
    "architectures dtype _name_or_path transformers_version id2label label2id problem_type "
    "return_dict output_hidden_states vocab_size".split()
)


@strict
class HubTransformerConfig(PreTrainedConfig):
    """A transformer over tokens of genes and how its tokens are pooled.

    Args:
        backbone: Config of the network as transformers writes it, with its `model_type`, one of
            `FAMILIES`.
        vocab_size: Number of tokens.
        special_tokens: Tokens that are no genes, and are not pooled.
    """

    model_type = "fm_med_hub_transformer"

    backbone: dict[str, Any] | None = None
    vocab_size: int = 1000
    special_tokens: list[int] | None = None

    def backbone_config(self) -> PreTrainedConfig:
        """Return the network's own config; without one, that of a small BERT.

        Raises:
            InputError: A network that is not known here.
        """
        small = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
        settings = self.backbone or {**small, "num_hidden_layers": 2}
        model_type = settings.get("model_type", "bert")
        if model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise InputError(f"there is no {model_type!r} over genes; there are {known}")
        return AutoConfig.for_model(
            **{"model_type": "bert"} | settings | {"vocab_size": self.vocab_size}
        )

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return self.backbone_config().hidden_size

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.hidden_size


class HubTransformerModel(PreTrainedModel):
    """Encode sentences of genes.

    Shape:
        - input_ids: (batch, tokens) int64, from `RankValueProcessor`.
        - attention_mask: (batch, tokens) bool, True where there is a token.
        - pooler_output: (batch, hidden_size), the mean over the genes of the sentence.
        - last_hidden_state: (batch, tokens, hidden_size).
        - hidden_states, if asked for: of each layer, (batch, tokens, hidden_size).
        - attentions, if asked for: of each layer, (batch, heads, tokens, tokens).
    """

    config_class = HubTransformerConfig
    processor_class = RankValueProcessor
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    lora_targets: tuple[str, ...] = ("query", "value")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: HubTransformerConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config(), add_pooling_layer=False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Fill what a checkpoint may lack; the backbone fills its own."""
        if not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens); None where every token counts.
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return `hidden_states`.

        Raises:
            InputError: The sentences are longer than the network's positions.
        """
        longest = self.backbone.config.max_position_embeddings
        if input_ids.ndim != 2 or input_ids.shape[1] > longest:
            raise InputError(
                f"input_ids must be (batch, at most {longest} tokens), its shape is "
                f"{tuple(input_ids.shape)}; lower the processor's max_tokens"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
        output = self._run(input_ids, attention_mask, output_attentions)
        last = output.last_hidden_state
        special = input_ids.new_tensor(self.config.special_tokens or [])
        is_special = (input_ids[..., None] == special).any(-1)  # ONNX has no isin
        genes = (attention_mask.bool() & ~is_special).to(last.dtype)[..., None]
        pooled = (last * genes).sum(1) / genes.sum(1).clamp(min=1)
        return BaseModelOutputWithPooling(
            last_hidden_state=last,
            pooler_output=pooled,
            hidden_states=tuple(output.hidden_states[1:]) if output_hidden_states else None,
            attentions=tuple(output.attentions) if output_attentions else None,
        )

    def _run(self, input_ids: Tensor, attention_mask: Tensor, attentions: bool) -> Any:
        """Call the backbone; its fused attention has no weights to show, so it is put off."""
        asked = {"attention_mask": attention_mask, "output_hidden_states": True}
        if not attentions:
            return self.backbone(input_ids, **asked)
        usual = self.backbone.config._attn_implementation
        self.backbone.set_attn_implementation("eager")
        try:
            return self.backbone(input_ids, output_attentions=True, **asked)
        finally:
            self.backbone.set_attn_implementation(usual)


def adopt(
    folder: Path, encoder_settings: Mapping[str, Any], processor_settings: Mapping[str, Any]
) -> tuple[HubTransformerModel, RankValueProcessor]:
    """Take a checkpoint of transformers as an encoder, with its tokens of genes.

    Args:
        folder: With config.json and model.safetensors.
        encoder_settings: There are none.
        processor_settings: `tokens` and `medians`, files as `read_gene_tokens` takes them, and
            arguments of `RankValueProcessor`.

    Raises:
        InputError: Files or weights are missing, or a setting is unknown.
    """
    if encoder_settings:
        raise InputError(f"a foreign transformer has no setting {next(iter(encoder_settings))!r}")
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} has no model.safetensors; pickled weights are not read")
    processor = _processor(folder, dict(processor_settings))
    try:
        with quietly():
            backbone, found = AutoModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, add_pooling_layer=False
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the transformer in {folder} cannot be loaded: {reason}") from error
    if found["missing_keys"]:
        raise InputError(f"the weights in {folder} lack {sorted(found['missing_keys'])[0]}")
    settings = processor.encoder_settings()
    known, longest = backbone.config.vocab_size, backbone.config.max_position_embeddings
    if settings["vocab_size"] > known:
        raise InputError(
            f"the tokens go up to {settings['vocab_size'] - 1}, but the network in {folder} knows "
            f"{known}: they belong to another checkpoint"
        )
    if processor.max_tokens > longest:
        raise InputError(f"max_tokens is {processor.max_tokens}, but {folder} has {longest}")
    inner = {k: v for k, v in backbone.config.to_dict().items() if k not in _NOT_KEPT}
    try:
        config = HubTransformerConfig(
            backbone=inner, vocab_size=known, special_tokens=settings["special_tokens"]
        )
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"hub_transformer: {' '.join(str(error).split())[:200]}") from error
    encoder = HubTransformerModel(config)
    encoder.backbone = backbone
    return encoder.eval(), processor


def _processor(folder: Path, settings: dict[str, Any]) -> RankValueProcessor:
    """Return the processor of a checkpoint's genes."""
    found = read_gene_tokens(folder, settings.pop("tokens", None), settings.pop("medians", None))
    positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    try:
        return RankValueProcessor(**{"max_tokens": positions, **found, **settings})
    except TypeError as error:
        raise InputError(f"processor_settings: {error}") from None
