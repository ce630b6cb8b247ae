"""All transcriptome encoders by name."""

from transformers import PreTrainedModel

from fm_med.rna.attention_aml_paper import AttentionAmlPaperModel
from fm_med.rna.gene_attention import GeneAttentionModel
from fm_med.rna.hub_transformer import HubTransformerModel

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "gene_attention": GeneAttentionModel,
    "attention_aml_paper": AttentionAmlPaperModel,
    "hub_transformer": HubTransformerModel,
}
