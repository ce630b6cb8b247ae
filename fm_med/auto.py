"""Make transformers' Auto classes know the encoders and their processor; importing is enough."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.processor import EcgProcessor

for _model in ENCODERS.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)
    AutoFeatureExtractor.register(_model.config_class, EcgProcessor, exist_ok=True)
