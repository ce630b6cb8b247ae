"""Attention between learned summaries of the transcriptome."""

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import TransformerBlock, initialise
from fm_med.errors import InputError


@strict
class GeneAttentionConfig(PreTrainedConfig):
    """Sizes of the encoder.

    Args:
        num_genes: Genes of the input; the processor knows which.
        num_tokens: Learned summaries of all genes, between which attention runs.
        hidden_size: Channels of a summary.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Channels inside the perceptrons, in units of `hidden_size`.
        linear_size: Linear features beside the summaries; with few samples they carry most.
        gene_dropout: Share of the genes set to their mean in training.
        dropout: In the blocks.
    """

    model_type = "fm_med_gene_attention"

    num_genes: int = 1000
    num_tokens: int = 16
    hidden_size: int = 32
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 2
    linear_size: int = 64
    gene_dropout: float = 0.2
    dropout: float = 0.1

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return 2 * self.hidden_size + self.linear_size


class GeneAttentionModel(PreTrainedModel):
    """Summarise the genes in several learned ways and let the summaries attend to each other.

    A sample's expression is one vector without order, so there is nothing to attend over until it
    is cut into tokens: each token is its own linear view of all genes. (Attention over a sequence
    of length one, as published for this task, returns its input whatever the queries and keys.)

    Shape:
        - expression: (batch, num_genes), centred and scaled per gene.
        - pooler_output: (batch, pooled_size): attention-weighted mean of the tokens, their plain
          mean, and linear features of the genes.
        - last_hidden_state: (batch, num_tokens, hidden_size).
        - attentions, if asked for: per block (batch, heads, tokens, tokens), and last the pooling's
          weights (batch, 1, 1, tokens).
    """

    config_class = GeneAttentionConfig
    base_model_prefix = "encoder"
    main_input_name = "expression"
    lora_targets: tuple[str, ...] = ("tokens", "linear", "q_proj", "v_proj")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: GeneAttentionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.tokens = nn.Linear(config.num_genes, config.num_tokens * width)
        self.token_norm = nn.LayerNorm(width)
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
        self.pool = nn.Linear(width, 1)
        self.linear = nn.Linear(config.num_genes, config.linear_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if not initialise(module):
            super()._init_weights(module)

    def gene_weights(self) -> Tensor:
        """Return (num_tokens, num_genes) the length of each gene's weights in each summary."""
        weight = self.tokens.weight.detach()
        return weight.unflatten(0, (self.config.num_tokens, self.config.hidden_size)).norm(dim=1)

    def forward(
        self,
        expression: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            expression: (batch, num_genes).
            output_attentions: Also return `attentions`.
            output_hidden_states: Also return the tokens after each block.

        Raises:
            InputError: Another number of genes.
        """
        config = self.config
        check_genes(expression, config.num_genes)
        dropout = config.gene_dropout if self.training else 0.0
        genes = functional.dropout(expression, dropout)
        x = self.tokens(genes)
        x = self.token_norm(x.unflatten(-1, (config.num_tokens, config.hidden_size)))
        states, attentions = [], []
        for block in self.blocks:
            x, weights = block(x, need_weights=output_attentions)
            states.append(x)
            attentions.append(weights)
        x = self.norm(x)
        share = self.pool(x).softmax(dim=1)
        pooled = torch.cat([(share * x).sum(1), x.mean(1), self.linear(genes)], dim=-1)
        attentions.append(share.transpose(1, 2)[:, None])
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=pooled,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


def check_genes(expression: Tensor, genes: int) -> None:
    """Refuse an input with another number of genes.

    Raises:
        InputError: Names both numbers.
    """
    if expression.dim() != 2 or expression.shape[1] != genes:
        raise InputError(
            f"expression must be (batch, {genes} genes), its shape is {tuple(expression.shape)}"
        )
