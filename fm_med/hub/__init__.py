"""A model is one folder: save it, load it from there or from the Hub, start training from it."""

from fm_med.hub.after_training import push_trained, refuse_unpushable
from fm_med.hub.card import write_card
from fm_med.hub.cohort_sharing import pull_cohort, push_cohort
from fm_med.hub.fetching import pull
from fm_med.hub.loading import LoadedModel, load, local_folder
from fm_med.hub.pinning import pinned
from fm_med.hub.pushing import push
from fm_med.hub.report_sharing import push_report
from fm_med.hub.saving import save, save_predictor
from fm_med.hub.start import Start, weights_hash
from fm_med.hub.starting import start_encoder, start_from
from fm_med.hub.uploading import Pushed

__all__ = [
    "LoadedModel",
    "Pushed",
    "Start",
    "load",
    "local_folder",
    "pinned",
    "pull",
    "pull_cohort",
    "push",
    "push_cohort",
    "push_report",
    "push_trained",
    "refuse_unpushable",
    "save",
    "save_predictor",
    "start_encoder",
    "start_from",
    "weights_hash",
    "write_card",
]
