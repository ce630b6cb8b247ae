"""The default ECG encoder: attention over time within each lead, then attention between leads.

It follows Chen et al. (arXiv 2403.10581) with what their network promises made true: no operation
before the cross-lead block mixes leads, so its attention map speaks about leads, and the number of
parameters does not depend on the length of the recording.
"""

from itertools import pairwise

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import (
    GroupTransformerBlock,
    TransformerBlock,
    attend,
    initialise,
    sinusoidal_positions,
    split_heads,
)
from fm_med.ecg.inputs import check_signal, silence_absent_leads
from fm_med.ecg.lead_stem import PatchStem, ResidualStage


@strict
class DualAttentionConfig(PreTrainedConfig):
    """Sizes of the dual-attention encoder.

    Args:
        num_leads: Leads of the input, in the order of `fm_med.ecg.leads.LEADS`.
        patch_samples: Samples seen by one token of the stem.
        strides: Downsampling of the stem and of each later stage; their product is the number of
            samples between two tokens of the attention.
        widths: Channels of the stem and of each later stage.
        kernel_size: Taps of the convolutions in the residual stages.
        hidden_size: Channels of a token in both attentions.
        time_layers: Blocks of temporal attention.
        time_heads: Heads of the temporal attention.
        lead_heads: Heads of the cross-lead attention.
        mlp_ratio: Channels inside the blocks' perceptrons, in units of `hidden_size`.
        shared_time_attention: One set of temporal weights for all leads, not one per lead.
        pooled_size: Width of the pooled output, half of it from the mean, half from the maximum.
        dropout: In the attention blocks.
    """

    model_type = "fm_med_dual_attention"

    num_leads: int = 12
    patch_samples: int = 16
    strides: tuple[int, ...] | list[int] = (4, 2, 4)
    widths: tuple[int, ...] | list[int] = (16, 32, 48)
    kernel_size: int = 3
    hidden_size: int = 48
    time_layers: int = 1
    time_heads: int = 1
    lead_heads: int = 4
    mlp_ratio: int = 1
    shared_time_attention: bool = False
    pooled_size: int = 512
    dropout: float = 0.0

    @property
    def time_width(self) -> int:
        """Channels of the time features, the last of `hidden_states`."""
        return self.pooled_size // 2

    def validate_stages(self) -> None:
        """Refuse sizes that do not fit together."""
        if len(self.strides) != len(self.widths):
            raise ValueError(f"{len(self.strides)} strides but {len(self.widths)} widths")
        if self.patch_samples < self.strides[0]:
            raise ValueError("patch_samples must be at least strides[0], or samples are skipped")


class CrossLeadBlock(nn.Module):
    """Each lead reads from the others; one attention map per head holds for the whole recording.

    Queries and keys come from each lead's mean and maximum over time, values are its tokens at all
    times: as in the paper a lead is one token, but no weight depends on the number of time steps.

    Shape:
        - x: (leads, batch, tokens, width), the same out.
        - lead_mask: (batch, leads) bool; absent leads are never read.
        - weights, if asked for: (batch, heads, leads, leads); row i tells what lead i reads.
    """

    def __init__(self, width: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(width)
        self.q_proj = nn.Linear(2 * width, width)
        self.k_proj = nn.Linear(2 * width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(
        self, x: Tensor, lead_mask: Tensor, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new tokens and, if asked for, the attention weights."""
        dropout = self.dropout if self.training else 0.0
        y = self.norm1(x)
        summary = torch.cat([y.mean(2), y.max(2).values], dim=-1).transpose(0, 1)
        value = self.v_proj(y).unflatten(-1, (self.heads, -1)).permute(1, 3, 0, 2, 4)
        context, weights = attend(
            split_heads(self.q_proj(summary), self.heads),
            split_heads(self.k_proj(summary), self.heads),
            value.flatten(-2),  # (batch, heads, leads, tokens * width / heads)
            key_mask=lead_mask[:, None, None, :],
            dropout=dropout,
            need_weights=need_weights,
        )
        context = context.unflatten(-1, (x.shape[2], -1)).permute(2, 0, 3, 1, 4).flatten(-2)
        x = x + functional.dropout(self.out_proj(context), dropout)
        y = functional.dropout(functional.gelu(self.fc1(self.norm2(x))), dropout)
        return x + functional.dropout(self.fc2(y), dropout), weights


class DualAttentionModel(PreTrainedModel):
    """Encode a 12-lead ECG of any length, with any of its leads absent.

    Shape:
        - signal: (batch, 12, samples) mV, samples >= the product of the strides (default 32).
        - pooler_output: (batch, pooled_size), the mean and the maximum over time of what the
          present leads say together.
        - last_hidden_state: (batch, 12, hidden_size), one vector per lead, zero where absent.

    References:
        Chen et al., "Large language model-informed ECG dual attention network for heart failure
        risk prediction", IEEE Transactions on Big Data 11(3), 2025.
    """

    config_class = DualAttentionConfig
    base_model_prefix = "encoder"
    main_input_name = "signal"
    # Plain projections take LoRA by module name, the stacked ones of each lead by parameter name.
    lora_targets: tuple[str, ...] = tuple(
        f"cross_lead.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    )
    lora_parameters: tuple[str, ...] = ("q_proj.group_weight", "v_proj.group_weight")

    def __init__(self, config: DualAttentionConfig) -> None:
        super().__init__(config)
        strides, widths = config.strides, config.widths
        self.stem = PatchStem(
            widths[0],
            patch_samples=config.patch_samples,
            stride=strides[0],
            multiple=torch.Size(strides[1:]).numel(),
        )
        self.stages = nn.Sequential(
            *(
                ResidualStage(before, after, stride=stride, kernel_size=config.kernel_size)
                for (before, after), stride in zip(pairwise(widths), strides[1:])
            )
        )
        self.token = nn.Linear(widths[-1], config.hidden_size)
        self.lead_embedding = nn.Embedding(config.num_leads, config.hidden_size)
        hidden = config.mlp_ratio * config.hidden_size
        self.temporal = nn.ModuleList(self._time_block(hidden) for _ in range(config.time_layers))
        self.cross_lead = CrossLeadBlock(
            config.hidden_size, heads=config.lead_heads, hidden=hidden, dropout=config.dropout
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        fused = config.num_leads * config.hidden_size
        self.mean_proj = nn.Linear(fused, config.pooled_size // 2, bias=False)
        self.max_proj = nn.Linear(fused, config.pooled_size // 2, bias=False)
        self.min_samples = torch.Size(strides).numel()
        if config.shared_time_attention:
            self.lora_targets = (*self.lora_targets, *("q_proj", "v_proj"))
            self.lora_parameters = ()
        self.post_init()

    def _time_block(self, hidden: int) -> nn.Module:
        """Build one block of temporal attention, with weights per lead or shared."""
        config = self.config
        width, heads, dropout = config.hidden_size, config.time_heads, config.dropout
        if config.shared_time_attention:
            return TransformerBlock(width, heads=heads, hidden=hidden, dropout=dropout)
        return GroupTransformerBlock(
            config.num_leads, width, heads=heads, hidden=hidden, dropout=dropout
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if module is self.lead_embedding:
            init.normal_(module.weight, std=0.5)
        elif not initialise(module):
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
            signal: (batch, leads, samples) mV; what absent leads hold has no influence.
            lead_mask: (batch, leads) bool, True where present; None if all are.
            output_attentions: Also return `attentions`: the lead attention
                (batch, heads, leads, leads), then per temporal block the time attention
                (batch, leads, heads, tokens, tokens).
            output_hidden_states: Also return `hidden_states`: tokens before and after temporal
                attention, both without any mixing of leads, and after cross-lead attention, each
                (batch, leads, tokens, hidden_size), then the fused time features
                (batch, tokens, pooled_size / 2).

        Raises:
            InputError: Wrong number of leads, or too few samples.
        """
        lead_mask = check_signal(
            signal, lead_mask, leads=self.config.num_leads, min_samples=self.min_samples
        )
        # Leads come first from here on: the batched per-lead weights then need no copies.
        states = [self._lead_tokens(silence_absent_leads(signal, lead_mask).transpose(0, 1))]
        time_attentions = []
        x = states[0]
        for block in self.temporal:
            x, weights = block(x, need_weights=output_attentions)
            time_attentions.append(weights)
        states.append(x)
        x, lead_attention = self.cross_lead(x, lead_mask, need_weights=output_attentions)
        x = self.norm(x) * lead_mask.t()[:, :, None, None].to(x.dtype)
        states.append(x)
        time_features, pooled = self._fuse(x, lead_mask)
        hidden = (*(state.transpose(0, 1) for state in states), time_features)
        times = (weights.transpose(0, 1) for weights in time_attentions if weights is not None)
        return BaseModelOutputWithPooling(
            last_hidden_state=x.mean(2).transpose(0, 1),
            pooler_output=pooled,
            hidden_states=hidden if output_hidden_states else None,
            attentions=(lead_attention, *times) if output_attentions else None,
        )

    def _lead_tokens(self, signal: Tensor) -> Tensor:
        """Turn (leads, batch, samples) into (leads, batch, tokens, hidden), each lead by itself."""
        x = self.stages(self.stem(signal))
        x = self.token(x.squeeze(2).transpose(1, 2)).unflatten(0, signal.shape[:2])
        positions = sinusoidal_positions(x.shape[2], x.shape[3], like=x)
        return x + (positions + self.lead_embedding.weight[:, None, None])

    def _fuse(self, x: Tensor, lead_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read all leads of (leads, batch, tokens, hidden) at each time, then pool over time."""
        x = x.permute(1, 2, 0, 3).flatten(2)  # (batch, tokens, leads * hidden)
        time_features = self.max_proj(x)
        pooled = torch.cat([self.mean_proj(x.mean(1)), time_features.max(1).values], dim=-1)
        # Absent leads are zero: scale up, so that three leads speak as loudly as twelve.
        loudness = lead_mask.shape[1] / lead_mask.sum(1).clamp(min=1)
        return time_features, pooled * loudness.to(pooled.dtype)[:, None]
