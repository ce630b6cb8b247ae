"""LSTM and attention over a person's visits (MAL-Net with visits as the sequence)."""

import math
from typing import Any, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import TransformerBlock, initialise
from fm_med.tabular.inputs import Cells, LevelEmbedding, TableConfig


@strict
class LstmAttentionConfig(TableConfig):
    """Sizes of the encoder.

    Args:
        hidden_size: Channels of a visit.
        num_layers: Attention blocks after the LSTM.
        num_heads: Attention heads.
        mlp_ratio: Channels inside the perceptrons, in units of `hidden_size`.
        dropout: Of a visit's cells' sum and in the blocks.
        history_scale: Of the pooled output's first half in the beginning. Small, so that a new
            encoder is nearly linear and LSTM and attention grow where they help.
        history: Tell the encoder of visits which one of a person's each is and how long after the
            first; an LSTM of few persons does not learn to count.
    """

    model_type = "fm_med_lstm_attention"

    hidden_size: int = 32
    num_layers: int = 1
    num_heads: int = 4
    mlp_ratio: int = 2
    dropout: float = 0.1
    history_scale: float = 0.1
    history: bool = True

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Read a saved config; one that does not mention `history` is older than it."""
        return super().from_dict({"history": False, **config_dict}, **kwargs)

    @property
    def counts_visits(self) -> bool:
        """Whether there is a history to tell of."""
        return self.history and self.visits

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return 2 * self.hidden_size


class LstmAttentionModel(PreTrainedModel):
    """Read a person's visits in order, with the time between them, and attend over them.

    A record is one step of the sequence. (Read literally, the published network scans the columns
    of one record, which have no order, and loses to logistic regression.) The pooled output has
    two halves: what LSTM and attention say of the history, and a linear view of the latest visit.
    With it the model holds a logistic regression, which is hard to beat on a single visit, where
    an LSTM has one step and attention is no more than two linear layers. For the same reason a
    visit's number and the time since the first enter beside its cells: neither attention nor an
    LSTM that saw a few hundred persons can count. Of a first visit both are 0.

    Shape:
        - numeric, missing: (batch, visits, num_numeric); categorical: (batch, visits, columns).
        - visit_mask, visit_time: (batch, visits); visits first and in order, padding after.
        - pooler_output: (batch, 2 hidden_size).
        - last_hidden_state: (batch, visits, hidden_size).
        - attentions, if asked for: per block (batch, heads, visits, visits).

    References:
        Wang et al., "MAL-Net", Sensors 25(6):1916, 2025 (LSTM followed by multi-head attention).
    """

    config_class = LstmAttentionConfig
    base_model_prefix = "encoder"
    main_input_name = "numeric"
    # With one visit, queries, keys and the LSTM's recurrence have no effect: not adapted.
    lora_targets: tuple[str, ...] = ("v_proj", "fc1")
    lora_parameters: tuple[str, ...] = ("lstm.weight_ih_l0",)

    def __init__(self, config: LstmAttentionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.cells = nn.Linear(2 * config.num_numeric, width) if config.num_numeric else None
        self.level_cells = LevelEmbedding(config.levels, width) if config.levels else None
        self.number = nn.Linear(2, width, bias=False) if config.counts_visits else None
        self.gaps = nn.Linear(2, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width,
                heads=config.num_heads,
                hidden=config.mlp_ratio * width,
                dropout=config.dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm2 = nn.LayerNorm(width)
        self.history = ChannelScale(width, config.history_scale)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if isinstance(module, LevelEmbedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, ChannelScale):
            init.constant_(module.weight, self.config.history_scale)
        elif isinstance(module, nn.LSTM):
            initialise_lstm(module)
        elif not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        numeric: Tensor,
        categorical: Tensor | None = None,
        missing: Tensor | None = None,
        visit_mask: Tensor | None = None,
        visit_time: Tensor | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            numeric: (batch, visits, columns), scaled.
            categorical: (batch, visits, columns) codes.
            missing: (batch, visits, columns) bool, of the numeric columns.
            visit_mask: (batch, visits) bool; all True by default.
            visit_time: (batch, visits), in units of a typical gap; zero by default.
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return the visits after the LSTM and after each block.

        Raises:
            InputError: Another number of columns or visits.
        """
        cells = Cells.checked(
            self.config,
            numeric,
            categorical=categorical,
            missing=missing,
            visit_mask=visit_mask,
            visit_time=visit_time,
        )
        visit = numeric.new_zeros(*numeric.shape[:2], self.config.hidden_size)
        if self.cells is not None:
            flags = cells.missing.to(numeric.dtype)
            visit = visit + self.cells(torch.cat([cells.numeric, flags], -1))
        if self.level_cells is not None:
            visit = visit + self.level_cells(cells.categorical).sum(-2)
        if self.number is not None:
            visit = visit + self.number(visits_so_far(cells))
        latest = cells.last(visit)
        dropout = self.config.dropout if self.training else 0.0
        x = functional.dropout(self.norm1(visit + self.gaps(time_gaps(cells))), dropout)
        x = x + self.lstm(x)[0]
        states, attentions = [x], []
        for block in self.blocks:
            x, weights = block(x, key_mask=cells.mask, need_weights=output_attentions)
            states.append(x)
            attentions.append(weights)
        x = self.norm2(x).masked_fill(~cells.mask[..., None], 0.0)
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=torch.cat([self.history(cells.last(x)), latest], -1),
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class ChannelScale(nn.Module):
    """Multiply each channel by a learnt factor.

    Shape:
        - x: (..., width), the same out.
    """

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.weight


def time_gaps(cells: Cells) -> Tensor:
    """Return (batch, visits, 2): time since the visit before and until the latest, log1p."""
    before = torch.diff(cells.time, dim=1, prepend=cells.time[:, :1])
    until = cells.last(cells.time)[:, None] - cells.time
    return torch.stack([before, until], -1).clamp(min=0).log1p()


def visits_so_far(cells: Cells) -> Tensor:
    """Return (batch, visits, 2): log of a visit's number, and time since the first, log1p."""
    number = cells.mask.to(cells.time.dtype).cumsum(1).clamp(min=1)
    since = (cells.time - cells.time[:, :1]).clamp(min=0)
    return torch.stack([number.log(), since.log1p()], -1)


def initialise_lstm(lstm: nn.LSTM) -> None:
    """Fill an LSTM as its own constructor does."""
    bound = 1 / math.sqrt(lstm.hidden_size)
    for parameter in lstm.parameters():
        init.uniform_(parameter, -bound, bound)
