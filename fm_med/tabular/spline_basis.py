"""The columns of a regression with curved effects: nothing to train, everything is in the head."""

from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.tabular.inputs import Cells, TableConfig
from fm_med.tabular.scaling import FARTHEST, RANKS

KNOT_RANKS = {
    3: (0.10, 0.50, 0.90),
    4: (0.05, 0.35, 0.65, 0.95),
    5: (0.05, 0.275, 0.50, 0.725, 0.95),
}
MISSING, FIRST_LEVEL = 1, 2  # codes of categorical cells; 0 is a level that training did not have


@strict
class SplineBasisConfig(TableConfig):
    """How columns are expanded.

    Args:
        num_knots: Of each column's restricted cubic spline; 0 for straight effects.
        history: What is said of earlier visits beside the latest: "time" adds how many there were
            and how long ago the first was; "mean" also the mean over visits of each column.
    """

    model_type = "fm_med_spline_basis"

    num_knots: Literal[0, 3, 4, 5] = 4
    history: Literal["none", "time", "mean"] = "time"

    @property
    def knots(self) -> dict[int, list[float]]:
        """The different knots of each numeric column that is curved."""
        ranks = KNOT_RANKS[self.num_knots] if self.num_knots else ()
        found = {}
        for column, values in enumerate(self.quantiles):
            knots = sorted({values[RANKS.index(rank)] for rank in ranks if values})
            if len(knots) >= 3:
                found[column] = knots
        return found

    @property
    def hidden_size(self) -> int:
        """Columns of one visit."""
        bends = sum(len(knots) - 2 for knots in self.knots.values())
        levels = sum(_contrasts(codes) for codes in self.levels)
        return self.num_numeric + bends + sum(self.flagged) + levels + sum(self.blank)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        width = self.hidden_size
        if self.visits and self.history != "none":
            width += 2
        if self.visits and self.history == "mean":
            width += self.hidden_size
        return width


class SplineBasisModel(PreTrainedModel):
    r"""The design matrix of a regression: what statisticians would put into Cox's model.

    A numeric column becomes x and its restricted cubic spline's bends, with knots at quantiles of
    the training rows; a flag where its cells were missing; a categorical column one column per
    level, or the difference of its two. Unseen levels are 0 everywhere. With the recipe's convex
    head this IS ridge Cox, logistic or linear regression, by the same folds as every network.

    Outside of the training values' 1st to 99th percentile a curved number counts as if it lay
    there, so that one wild value cannot decide a prediction.

    There are no weights: knots and limits are data, kept as buffers.

    Shape:
        - numeric, missing: (batch, visits, num_numeric); categorical: (batch, visits, columns).
        - pooler_output: (batch, pooled_size), the latest visit's columns, then the history's.
        - last_hidden_state: (batch, visits, hidden_size), each visit's columns.

    References:
        Harrell, Regression Modeling Strategies, 2nd edition, section 2.4.5.
    """

    config_class = SplineBasisConfig
    base_model_prefix = "encoder"
    main_input_name = "numeric"
    has_weights = False
    lora_targets: tuple[str, ...] = ()
    lora_parameters: tuple[str, ...] = ()

    low: Tensor
    high: Tensor
    knots: Tensor

    def __init__(self, config: SplineBasisConfig) -> None:
        super().__init__(config)
        for name, values in _limits_and_knots(config).items():
            self.register_buffer(name, values)
        self.curved = list(config.knots)
        # A column with fewer different knots has fewer bends: its first ones are left out.
        most = self.knots.shape[1] - 2
        self.bends = [
            place * most + bend
            for place, knots in enumerate(config.knots.values())
            for bend in range(most - (len(knots) - 2), most)
        ]
        self.flagged = [column for column, flag in enumerate(config.flagged) if flag]
        self.blank = [column for column, flag in enumerate(config.blank) if flag]
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if module is self:
            for name, values in _limits_and_knots(self.config).items():
                init.copy_(getattr(self, name), values)

    @property
    def device(self) -> torch.device:
        """Where the knots lie; other encoders ask their parameters."""
        return self.low.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the knots."""
        return self.low.dtype

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
        """Expand a batch.

        Args:
            numeric: (batch, visits, columns), scaled.
            categorical: (batch, visits, columns) codes.
            missing: (batch, visits, columns) bool, of the numeric columns.
            visit_mask: (batch, visits) bool; all True by default.
            visit_time: (batch, visits), in units of a typical gap; zero by default.
            output_attentions: There are none.
            output_hidden_states: Also return the visits' columns as the only state.

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
        x = cells.numeric.clamp(self.low, self.high)
        parts = [x, self._bends(x), cells.missing[..., self.flagged]]
        for column, codes in enumerate(self.config.levels):
            parts.append(level_columns(cells.categorical[..., column], codes))
        parts.append(cells.categorical[..., self.blank] == MISSING)
        visits = torch.cat([part.to(numeric.dtype) for part in parts], -1)
        pooled = [cells.last(visits)]
        if self.config.visits and self.config.history != "none":
            count = cells.mask.sum(1, keepdim=True).to(numeric.dtype)
            pooled += [count.log1p(), cells.last(cells.time)[:, None].clamp(min=0).log1p()]
        if self.config.visits and self.config.history == "mean":
            pooled.append(cells.mean(visits))
        return BaseModelOutputWithPooling(
            last_hidden_state=visits,
            pooler_output=torch.cat(pooled, -1),
            hidden_states=(visits,) if output_hidden_states else None,
        )

    def _bends(self, x: Tensor) -> Tensor:
        """Return (..., all bends) of the curved columns of x (..., columns)."""
        return spline_bends(x[..., self.curved], self.knots).flatten(-2)[..., self.bends]


def spline_bends(x: Tensor, knots: Tensor) -> Tensor:
    r"""Return the curved parts of restricted cubic splines.

    Of the knots :math:`k_1 < \dots < k_m` of a column, for j = 1 ... m - 2:

    .. math:: \frac{(x-k_j)_+^3 - \frac{k_m-k_j}{k_m-k_{m-1}} (x-k_{m-1})_+^3
        + \frac{k_{m-1}-k_j}{k_m-k_{m-1}} (x-k_m)_+^3}{(k_m-k_1)^2}

    Args:
        x: (..., columns).
        knots: (columns, m), rising.

    Returns:
        (..., columns, m - 2).
    """
    cubed = (x[..., None] - knots).clamp(min=0) ** 3
    first, before, last = knots[:, :-2], knots[:, -2:-1], knots[:, -1:]
    gap = last - before
    bend = cubed[..., :-2] - (last - first) / gap * cubed[..., -2:-1]
    bend = bend + (before - first) / gap * cubed[..., -1:]
    return bend / (last - knots[:, :1]) ** 2


def level_columns(codes: Tensor, count: int) -> Tensor:
    """Return the columns of one categorical column; 0 for unseen and missing levels.

    Args:
        codes: (...) int64.
        count: How many codes there are, those of unseen and missing levels among them.

    Returns:
        (..., levels), or (..., 1) of -1 and 1 for two levels, or (..., 0) for one.
    """
    shown = functional.one_hot(codes, count)[..., FIRST_LEVEL:]
    width = _contrasts(count)
    return shown if width > 1 else (shown[..., 1:] - shown[..., :1])[..., :width]


def _contrasts(codes: int) -> int:
    """Return the columns of a categorical column with so many codes."""
    levels = codes - FIRST_LEVEL
    return levels if levels > 2 else max(levels - 1, 0)


def _limits_and_knots(config: SplineBasisConfig) -> dict[str, Tensor]:
    """Return what is kept as buffers: low and high (columns,), knots (curved columns, most)."""
    quantiles = config.quantiles or [[] for _ in range(config.num_numeric)]
    ends = [(values[0], values[-1]) if values else (-FARTHEST, FARTHEST) for values in quantiles]
    most = max((len(knots) for knots in config.knots.values()), default=3)
    padded = [knots[:1] * (most - len(knots)) + knots for knots in config.knots.values()]
    return {
        "low": torch.tensor([low for low, _ in ends]),
        "high": torch.tensor([high for _, high in ends]),
        "knots": torch.tensor(padded).reshape(-1, most),
    }
