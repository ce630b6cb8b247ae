"""Make transformers' Auto classes know all encoders and processors; importing is enough."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from fm_med.modalities import FUSION, MODALITIES

for _modality in (*MODALITIES.values(), FUSION):
    for _model in _modality.encoders.values():
        AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
        AutoModel.register(_model.config_class, _model, exist_ok=True)
        _reads = getattr(_model, "processor_class", _modality.processor)
        AutoFeatureExtractor.register(_model.config_class, _reads, exist_ok=True)
