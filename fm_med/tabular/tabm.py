"""An ensemble of perceptrons in one network, with embedded numbers, in the manner of TabM."""

from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import GroupLinear, initialise
from fm_med.tabular.inputs import Cells, LevelEmbedding, TableConfig


@strict
class TabmConfig(TableConfig):
    """Sizes of the ensemble.

    Args:
        num_members: Perceptrons.
        hidden_size: Units of their layers.
        num_layers: Their layers.
        embedding_size: Channels of an embedded cell.
        dropout: After each layer.
        sampling: In training, "row" shows the head one member of each row, drawn at random, so
            that members learn on their own; "none" shows all, so that only their sum learns.
    """

    model_type = "fm_med_tabm"

    num_members: int = 16
    hidden_size: int = 64
    num_layers: int = 2
    embedding_size: int = 8
    dropout: float = 0.1
    sampling: Literal["row", "none"] = "row"

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.num_members * self.hidden_size


class MemberLinear(nn.Module):
    """A linear layer whose weights the members share, but for scales of inputs and outputs.

    Shape:
        - x: (batch, members, inputs) -> (batch, members, outputs).

    References:
        Wen et al., "BatchEnsemble", ICLR 2020.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.shared = nn.Linear(inputs, outputs, bias=False)
        self.scale_in = nn.Parameter(torch.ones(members, inputs))
        self.scale_out = nn.Parameter(torch.ones(members, outputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor, member: Tensor | None) -> Tensor:
        """Apply every member's layer or, of each row, that of one `member` (batch,)."""
        scales = (self.scale_in, self.scale_out, self.bias)
        scale_in, scale_out, bias = (s if member is None else s[member][:, None] for s in scales)
        return self.shared(x * scale_in) * scale_out + bias


class NumericEmbedding(nn.Module):
    """Embed each number by how far it reaches into the bins of its column.

    Shape:
        - x: (..., columns) -> (..., columns, width).

    References:
        Gorishniy et al., "On embeddings for numerical features", NeurIPS 2022 (piecewise linear).
    """

    def __init__(self, bins: list[list[float]], width: int) -> None:
        super().__init__()
        self.bins = bins
        self.columns = GroupLinear(len(bins), max(len(edges) for edges in bins) - 1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        encoded = piecewise_linear(x, self.bins).flatten(0, -3).transpose(0, 1)
        y = self.columns(encoded).transpose(0, 1)
        return functional.relu(y).unflatten(0, x.shape[:-1])


def piecewise_linear(x: Tensor, bins: list[list[float]]) -> Tensor:
    """Return, of each bin, which share of it lies below the value.

    Args:
        x: (..., columns).
        bins: Ascending edges of each column.

    Returns:
        (..., columns, bins): 1 in the bins below, 0 in those above, the share in the value's own;
        below the first edge and above the last it goes on in a straight line. Columns with fewer
        bins are padded with 0.
    """
    most = max(len(edges) for edges in bins)
    padded = [edges + [edges[-1] + 1.0] * (most - len(edges)) for edges in bins]
    edge = x.new_tensor(padded)
    low, width = edge[:, :-1], edge.diff(dim=1).clamp(min=1e-6)
    share = (x[..., None] - low) / width
    number = torch.arange(most - 1, device=x.device)
    last = torch.tensor([len(edges) - 2 for edges in bins], device=x.device)[:, None]
    share = torch.where(number > 0, share.clamp(min=0), share)
    share = torch.where(number < last, share.clamp(max=1), share)
    return torch.where(number <= last, share, 0.0)


class TabmModel(PreTrainedModel):
    """Perceptrons that share most of their weights and are averaged.

    The members help only if each has learnt to predict by itself: trained on their sum, they
    become one wide network. The pooled output therefore holds the members side by side, so that a
    linear head has weights for each, and its prediction is the mean of the members' predictions.
    In training, every row shows the head a single member (times their number), drawn at random:
    the expected loss is the mean of the members' losses, as with one loss per member, and a step
    costs that of one perceptron.

    Of several visits, the latest counts, moved towards the mean over visits by a learnt share of
    each column.

    Shape:
        - numeric, missing: (batch, visits, num_numeric); categorical: (batch, visits, columns).
        - pooler_output: (batch, num_members * hidden_size).
        - last_hidden_state: (batch, num_members, hidden_size).

    References:
        Gorishniy et al., "TabM", ICLR 2025.
    """

    config_class = TabmConfig
    base_model_prefix = "encoder"
    main_input_name = "numeric"
    lora_targets: tuple[str, ...] = ("shared",)
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: TabmConfig) -> None:
        super().__init__(config)
        width, size = config.hidden_size, config.embedding_size
        self.numbers = NumericEmbedding(config.bins, size) if config.num_numeric else None
        self.level_cells = LevelEmbedding(config.levels, size) if config.levels else None
        inputs = size * (config.num_numeric + len(config.levels)) + config.num_numeric
        self.history = History(inputs)
        self.layers = nn.ModuleList(
            MemberLinear(config.num_members, inputs if k == 0 else width, width, is_first=k == 0)
            for k in range(config.num_layers)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if isinstance(module, LevelEmbedding):
            init.normal_(module.weight, std=0.5)
        elif isinstance(module, History):
            init.zeros_(module.share)
        elif isinstance(module, MemberLinear):
            init.ones_(module.scale_out)
            init.zeros_(module.bias)
            if module.is_first:  # members begin with different views of the input
                init.normal_(module.scale_in)
            else:
                init.ones_(module.scale_in)
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
        """Encode a batch; `visit_time` is not read.

        Args:
            numeric: (batch, visits, columns), scaled.
            categorical: (batch, visits, columns) codes.
            missing: (batch, visits, columns) bool, of the numeric columns.
            visit_mask: (batch, visits) bool; all True by default.
            visit_time: As of the other encoders.
            output_attentions: There are none.
            output_hidden_states: Also return the members after each layer.

        Raises:
            InputError: Another number of columns or visits.
        """
        del output_attentions
        cells = Cells.checked(
            self.config,
            numeric,
            categorical=categorical,
            missing=missing,
            visit_mask=visit_mask,
            visit_time=visit_time,
        )
        embedded = [cells.missing.to(numeric.dtype)]
        if self.numbers is not None:
            embedded.append(self.numbers(cells.numeric).flatten(-2))
        if self.level_cells is not None:
            embedded.append(self.level_cells(cells.categorical).flatten(-2))
        visits = torch.cat(embedded, -1)
        x = self.history(cells.last(visits), cells.mean(visits))[:, None]
        members = self.config.num_members
        drawn = None
        if self.training and self.config.sampling == "row":
            drawn = torch.randint(members, x.shape[:1], device=x.device)
        elif members > 1:
            x = x.expand(-1, members, -1)
        states = []
        for layer in self.layers:
            x = functional.relu(layer(x, drawn))
            x = functional.dropout(x, self.config.dropout, self.training)
            states.append(x)
        if drawn is not None:
            shown = functional.one_hot(drawn, members).to(x.dtype) * members
            x = x * shown[..., None]
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=x.flatten(1),
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
        )


class History(nn.Module):
    """Move the latest visit towards the mean over visits by a learnt share of each channel.

    Shape:
        - latest, mean: (batch, width) -> (batch, width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(width))

    def forward(self, latest: Tensor, mean: Tensor) -> Tensor:
        """Mix the two."""
        return latest + self.share * (mean - latest)
