"""AttentionAML as published, for comparison: its attention runs over one token and does nothing."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import attend, initialise, merge_heads, split_heads
from fm_med.rna.gene_attention import check_genes


@strict
class AttentionAmlPaperConfig(PreTrainedConfig):
    """Sizes as published.

    Args:
        num_genes: Genes of the input.
        inner_size: Width after the first layer.
        hidden_size: Width after the second layer, which the classifier reads.
        inner_heads: Heads of the first attention.
        num_heads: Heads of the second attention.
    """

    model_type = "fm_med_attention_aml_paper"

    num_genes: int = 1000
    inner_size: int = 512
    hidden_size: int = 256
    inner_heads: int = 8
    num_heads: int = 4

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.hidden_size


class ResidualAttention(nn.Module):
    """Self-attention added to its input, then layer normalisation (post-LN).

    Shape:
        - x: (batch, tokens, width), the same out, with weights (batch, heads, tokens, tokens).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, *, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Return the new tokens and, if asked for, the attention weights."""
        context, weights = attend(
            split_heads(self.q_proj(x), self.heads),
            split_heads(self.k_proj(x), self.heads),
            split_heads(self.v_proj(x), self.heads),
            need_weights=need_weights,
        )
        return self.norm(x + self.out_proj(merge_heads(context))), weights


class AttentionAmlPaperModel(PreTrainedModel):
    """Two layers, each followed by attention over a sequence of length one.

    The softmax over one key is 1, so queries and keys have no influence and get no gradient; what
    remains is a linear map of the values. Use `gene_attention`; this one is kept to compare.

    Shape:
        - expression: (batch, num_genes).
        - pooler_output: (batch, hidden_size).
        - last_hidden_state: (batch, 1, hidden_size).

    References:
        AttentionAML, bioRxiv 10.1101/2025.05.20.655179; written from its description.
    """

    config_class = AttentionAmlPaperConfig
    base_model_prefix = "encoder"
    main_input_name = "expression"
    lora_targets: tuple[str, ...] = ("fc1", "fc2", "v_proj", "out_proj")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: AttentionAmlPaperConfig) -> None:
        super().__init__(config)
        self.fc1 = nn.Linear(config.num_genes, config.inner_size)
        self.attention1 = ResidualAttention(config.inner_size, config.inner_heads)
        self.fc2 = nn.Linear(config.inner_size, config.hidden_size)
        self.attention2 = ResidualAttention(config.hidden_size, config.num_heads)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        expression: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            expression: (batch, num_genes).
            output_attentions: Also return `attentions`, all ones.
            output_hidden_states: Also return both layers' tokens.

        Raises:
            InputError: Another number of genes.
        """
        check_genes(expression, self.config.num_genes)
        x = functional.relu(self.fc1(expression[:, None]))
        first, first_weights = self.attention1(x, need_weights=output_attentions)
        x = functional.relu(self.fc2(first))
        x, weights = self.attention2(x, need_weights=output_attentions)
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=x[:, 0],
            hidden_states=(first, x) if output_hidden_states else None,
            attentions=(first_weights, weights) if output_attentions else None,
        )
