"""The encoders of tables by name; the first is the default."""

from transformers import PreTrainedModel

from fm_med.tabular.lstm_attention import LstmAttentionModel
from fm_med.tabular.malnet_paper import MalnetPaperModel
from fm_med.tabular.spline_basis import SplineBasisModel
from fm_med.tabular.tabm import TabmModel

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "lstm_attention": LstmAttentionModel,
    "malnet_paper": MalnetPaperModel,
    "spline_basis": SplineBasisModel,
    "tabm": TabmModel,
}
