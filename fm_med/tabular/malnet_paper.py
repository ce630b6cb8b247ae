"""MAL-Net as its description reads literally: the columns of one record are the sequence."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, cat, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import attend, initialise, merge_heads, split_heads
from fm_med.tabular.inputs import Cells, TableConfig
from fm_med.tabular.lstm_attention import initialise_lstm


@strict
class MalnetPaperConfig(TableConfig):
    """Sizes of the network; the publication does not state them.

    Args:
        hidden_size: Units of the LSTM.
        num_heads: Attention heads.
        dropout: Of the attention's result.
    """

    model_type = "fm_med_malnet_paper"

    hidden_size: int = 64
    num_heads: int = 4
    dropout: float = 0.2

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.hidden_size


class MalnetPaperModel(PreTrainedModel):
    """Scan the columns with an LSTM, one number per step, and attend over the columns.

    For comparison with the publication: columns have no order, so that the scan costs about 7
    points of macro AUROC against logistic regression. Levels enter as numbers, missing cells as
    the imputed value alone, and of several visits only the latest is read.

    Shape:
        - numeric: (batch, visits, num_numeric); categorical: (batch, visits, columns).
        - pooler_output: (batch, hidden_size), the mean over columns.
        - last_hidden_state: (batch, columns, hidden_size).
        - attentions, if asked for: (batch, heads, columns, columns).

    References:
        Wang et al., "MAL-Net", Sensors 25(6):1916, 2025, sections 2.4 and 2.5.
    """

    config_class = MalnetPaperConfig
    base_model_prefix = "encoder"
    main_input_name = "numeric"
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_parameters: tuple[str, ...] = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")

    def __init__(self, config: MalnetPaperConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if isinstance(module, nn.LSTM):
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
        """Encode a batch; `missing` and `visit_time` are not read.

        Args:
            numeric: (batch, visits, columns), scaled, missing cells imputed.
            categorical: (batch, visits, columns) codes.
            missing: As of the other encoders.
            visit_mask: (batch, visits) bool; the latest visit is read.
            visit_time: As of the other encoders.
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return the columns after LSTM and after attention.

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
        highest = numeric.new_tensor(self.config.levels).clamp(min=2) - 1
        levels = cells.last(cells.categorical).to(numeric.dtype) / highest
        sequence = cat([cells.last(cells.numeric), levels], -1)[..., None]
        x = self.lstm(sequence)[0]
        heads = self.config.num_heads
        context, weights = attend(
            split_heads(self.q_proj(x), heads),
            split_heads(self.k_proj(x), heads),
            split_heads(self.v_proj(x), heads),
            need_weights=output_attentions,
        )
        y = functional.dropout(
            self.out_proj(merge_heads(context)), self.config.dropout, self.training
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=y,
            pooler_output=y.mean(1),
            hidden_states=(x, y) if output_hidden_states else None,
            attentions=(weights,) if weights is not None else None,
        )
