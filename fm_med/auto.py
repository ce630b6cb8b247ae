"""Make `AutoConfig` and `AutoModel` know the encoders; importing this module is enough."""

from transformers import AutoConfig, AutoModel

from fm_med.ecg.encoders import ENCODERS

for _model in ENCODERS.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)
