"""A transformer over patches of time, each patch holding all leads."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import TransformerBlock, initialise, sinusoidal_positions
from fm_med.ecg.inputs import check_signal, silence_absent_leads


@strict
class ViT1dConfig(PreTrainedConfig):
    """Sizes of the patch transformer; the defaults are ViT-tiny with 5.4 M parameters.

    Args:
        num_leads: Leads of the input.
        patch_samples: Samples of one patch; what is left over at the end is not read.
        hidden_size: Channels of a token.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Channels inside the perceptrons, in units of `hidden_size`.
        dropout: In the blocks.
    """

    model_type = "fm_med_vit1d"

    num_leads: int = 12
    patch_samples: int = 10
    hidden_size: int = 192
    num_layers: int = 12
    num_heads: int = 3
    mlp_ratio: int = 4
    dropout: float = 0.0

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.hidden_size

    @property
    def time_width(self) -> int:
        """Channels of the time features, the last of `hidden_states`."""
        return self.hidden_size


class ViT1dModel(PreTrainedModel):
    """Encode an ECG of any length as a sequence of patches.

    Shape:
        - signal: (batch, 12, samples) mV, samples >= `patch_samples`.
        - pooler_output: (batch, hidden_size), the mean over the tokens.
        - last_hidden_state: (batch, tokens, hidden_size).

    References:
        Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.
    """

    config_class = ViT1dConfig
    base_model_prefix = "encoder"
    main_input_name = "signal"
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: ViT1dConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_samples
        self.patch = nn.Conv1d(config.num_leads, width, patch, stride=patch)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width,
                heads=config.num_heads,
                hidden=config.mlp_ratio * width,
                dropout=config.dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        signal: Tensor,
        lead_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            signal: (batch, leads, samples) mV.
            lead_mask: (batch, leads) bool, True where present; absent leads are zeroed.
            output_attentions: Also return `attentions`: per block
                (batch, heads, tokens, tokens).
            output_hidden_states: Also return `hidden_states`: the tokens after each block, the last
                normalised, each (batch, tokens, hidden_size).

        Raises:
            InputError: Wrong number of leads, or too few samples.
        """
        config = self.config
        lead_mask = check_signal(
            signal, lead_mask, leads=config.num_leads, min_samples=config.patch_samples
        )
        x = self.patch(silence_absent_leads(signal, lead_mask)).transpose(1, 2)
        x = x + sinusoidal_positions(x.shape[1], x.shape[2], like=x)
        states, attentions = [], []
        for block in self.blocks:
            x, weights = block(x, need_weights=output_attentions)
            states.append(x)
            attentions.append(weights)
        x = self.norm(x)
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=x.mean(1),
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
