"""All ECG encoders by name. Kept out of `fm_med.ecg`, which must stay light."""

from transformers import PreTrainedModel

from fm_med.ecg.dual_attention import DualAttentionModel
from fm_med.ecg.dual_attention_paper import DualAttentionPaperModel
from fm_med.ecg.resnet1d import ResNet1dModel
from fm_med.ecg.vit1d import ViT1dModel

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "dual_attention": DualAttentionModel,
    "dual_attention_paper": DualAttentionPaperModel,
    "resnet1d": ResNet1dModel,
    "vit1d": ViT1dModel,
}
