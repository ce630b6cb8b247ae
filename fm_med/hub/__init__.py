"""A model is one folder: save it, load it from there or from the Hub, start training from it."""

from fm_med.hub.card import write_card
from fm_med.hub.fetching import pull
from fm_med.hub.loading import LoadedModel, load, local_folder
from fm_med.hub.pushing import Pushed, push
from fm_med.hub.saving import save, save_predictor
from fm_med.hub.start import Start, weights_hash
from fm_med.hub.starting import start_encoder, start_from

__all__ = [
    "LoadedModel",
    "Pushed",
    "Start",
    "load",
    "local_folder",
    "pull",
    "push",
    "save",
    "save_predictor",
    "start_encoder",
    "start_from",
    "weights_hash",
    "write_card",
]
