"""The published dual-attention network, taken literally, to compare with.

Use `dual_attention`. What is wrong with this one:

- **Its lead attention does not speak about leads.** The second input convolution is dense, and the
  lead-major channels of the grouped one are viewed as feature-major, so that "lead I" is fed by I,
  aVR, V1 and V4. A token takes .091 of its gradient from its own lead; chance is .083.
- **Its size grows with the square of the length**: the cross-lead token is the flattened time axis,
  1.3 M parameters for 608 samples, 75 M for 4,992.
- Heads of 2 channels, which no fused attention kernel takes; a loop over leads.
- BatchNorm, whose running statistics a LoRA adapter does not carry.
"""

from itertools import pairwise

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import attend, initialise, merge_heads, sinusoidal_positions, split_heads
from fm_med.ecg.inputs import check_signal, silence_absent_leads

BLOCKS = 5
STEPS = 2**BLOCKS


@strict
class DualAttentionPaperConfig(PreTrainedConfig):
    """Sizes of the published network.

    Args:
        num_leads: Leads of the input.
        samples: Length that the weights are made for: 608 (a median beat at 500 Hz, padded) or
            1024 (10 s at 100 Hz) in the paper; a multiple of 32.
        base_features: Channels per lead after the input convolutions.
        num_heads: Heads of both attentions.
        pooled_size: Width of the pooled output.
        dropout: In the perceptrons and on the position-encoded tokens.
    """

    model_type = "fm_med_dual_attention_paper"

    num_leads: int = 12
    samples: int = 608
    base_features: int = 4
    num_heads: int = 8
    pooled_size: int = 512
    dropout: float = 0.2

    def validate_samples(self) -> None:
        """Refuse a length that the five halvings do not divide."""
        if self.samples < STEPS or self.samples % STEPS:
            raise ValueError(f"samples must be a multiple of {STEPS}, got {self.samples}")

    @property
    def hidden_size(self) -> int:
        """Channels per lead at the end of the convolutions."""
        return 4 * self.base_features

    @property
    def time_width(self) -> int:
        """Channels of the time features, the last of `hidden_states`."""
        return self.num_leads * self.hidden_size


class PublishedConvBlock(nn.Module):
    """Residual convolution over time with stride 2, the same weights for each (so-called) lead.

    Shape:
        - x: (batch, inputs, leads, steps) -> (batch, outputs, leads, steps / 2).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        taps, pad = (1, 5), (0, 2)
        self.conv1 = nn.Conv2d(inputs, outputs, taps, stride=(1, 2), padding=pad, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, taps, padding=pad, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the number of steps."""
        y = functional.leaky_relu(self.bn1(self.conv1(x)))
        y = functional.leaky_relu(self.bn2(self.conv2(y)))
        return functional.gelu(y + self.skip(functional.max_pool2d(x, (1, 2))))


class PublishedAttentionBlock(nn.Module):
    """Pre-norm attention and perceptron with dropout as published: not on the attention.

    Shape:
        - x: (batch, tokens, width), the same out; weights (batch, heads, tokens, tokens).
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Add positions, drop out with one mask for all records, then attend."""
        x = x + sinusoidal_positions(x.shape[1], x.shape[2], like=x)
        x = x * self.drop(torch.ones_like(x[:1]))
        y = self.norm1(x)
        context, weights = attend(
            split_heads(self.q_proj(y), self.heads),
            split_heads(self.k_proj(y), self.heads),
            split_heads(self.v_proj(y), self.heads),
            need_weights=need_weights,
        )
        x = x + self.out_proj(merge_heads(context))
        y = self.drop(functional.gelu(self.fc1(self.norm2(x))))
        return x + self.drop(self.fc2(y)), weights


class DualAttentionPaperModel(PreTrainedModel):
    """Encode an ECG as published; 1,274,536 parameters for 608 samples, 3,313,976 for 1,024.

    A longer signal is cropped to its central `config.samples` samples, a shorter one is padded with
    as many zeros on both sides. Absent leads are zeroed at the input; the published default does
    not mask them in the attention.

    Shape:
        - signal: (batch, 12, samples) mV.
        - pooler_output: (batch, 512), mean and maximum over time.
        - last_hidden_state: (batch, 12, 16).

    References:
        Chen et al., "Large language model-informed ECG dual attention network for heart failure
        risk prediction", IEEE Transactions on Big Data 11(3), 2025.
    """

    config_class = DualAttentionPaperConfig
    base_model_prefix = "encoder"
    main_input_name = "signal"
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: DualAttentionPaperConfig) -> None:
        super().__init__(config)
        leads, base, width = config.num_leads, config.base_features, config.hidden_size
        self.input_conv = nn.Sequential(
            nn.Conv1d(leads, leads * base, 5, padding=2, groups=leads),
            nn.GroupNorm(leads, leads * base),
            nn.GELU(),
            nn.Conv1d(leads * base, leads * base, 5, padding=2),
            nn.GroupNorm(leads, leads * base),
            nn.GELU(),
        )
        sizes = (base, 2 * base, *[width] * (BLOCKS - 1))
        self.stages = nn.Sequential(
            *(PublishedConvBlock(before, after) for before, after in pairwise(sizes))
        )
        self.temporal = nn.ModuleList(self._block(width) for _ in range(leads))
        self.cross_lead = self._block(width * config.samples // STEPS)
        self.mean_proj = nn.Conv1d(width * leads, config.pooled_size // 2, 1)
        self.max_proj = nn.Conv1d(width * leads, config.pooled_size // 2, 1)
        self.post_init()

    def _block(self, width: int) -> nn.Module:
        """Build one attention block."""
        config = self.config
        return PublishedAttentionBlock(width, heads=config.num_heads, dropout=config.dropout)

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
            lead_mask: (batch, leads) bool, True where present; None if all are.
            output_attentions: Also return `attentions`: (batch, heads, 12, 12) of the so-called
                leads, and (batch, 12, heads, tokens, tokens) over time.
            output_hidden_states: Also return `hidden_states`: the tokens after the convolutions
                (batch, 12, tokens, 16), then the fused time features (batch, tokens, 192).

        Raises:
            InputError: Wrong number of leads, or no samples.
        """
        leads = self.config.num_leads
        lead_mask = check_signal(signal, lead_mask, leads=leads, min_samples=1)
        x = fit_length(silence_absent_leads(signal, lead_mask), self.config.samples)
        # The published view: grouped channels come lead by lead, here they are read feature by
        # feature, which scatters each lead over four of the twelve "leads".
        x = self.input_conv(x).unflatten(1, (self.config.base_features, leads))
        x = self.stages(x)
        tokens = x.permute(0, 2, 3, 1)  # (batch, leads, tokens, width)
        over_time, time_weights = self._attend_over_time(tokens, output_attentions)
        lead_tokens = x.transpose(1, 2).flatten(2)  # (batch, leads, width * tokens)
        over_leads, lead_weights = self.cross_lead(lead_tokens, need_weights=output_attentions)
        over_leads = over_leads.unflatten(2, (x.shape[1], -1)).transpose(2, 3)
        fused = over_time + over_leads
        channels = fused.permute(0, 3, 1, 2).flatten(1, 2)  # (batch, width * leads, tokens)
        pooled = torch.cat([self.mean_proj(channels).mean(2), self.max_proj(channels).amax(2)], 1)
        return BaseModelOutputWithPooling(
            last_hidden_state=fused.mean(2),
            pooler_output=pooled,
            hidden_states=(tokens, channels.transpose(1, 2)) if output_hidden_states else None,
            attentions=(lead_weights, time_weights) if output_attentions else None,
        )

    def _attend_over_time(self, tokens: Tensor, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Run each "lead" through its own block, one after the other."""
        outputs, weights = zip(
            *(
                block(tokens[:, lead], need_weights=need_weights)
                for lead, block in enumerate(self.temporal)
            )
        )
        return torch.stack(outputs, 1), torch.stack(weights, 1) if need_weights else None


def fit_length(signal: Tensor, samples: int) -> Tensor:
    """Crop to the centre, or pad both sides with zeros, to (..., samples)."""
    surplus = samples - signal.shape[-1]
    return functional.pad(signal, (surplus // 2, surplus - surplus // 2))
