"""Fine-tuning: what a step sees, convex fits on cached features, and what a run has found."""

from fm_med.finetuning.choices import PeftMethod, choose_method, warn_few_events
from fm_med.finetuning.encoding import encode_rows, predict_rows
from fm_med.finetuning.linear import fit_clinical, fit_head
from fm_med.finetuning.results import (
    Prediction,
    fold_summary,
    prediction_columns,
    split_metrics,
    summary,
)
from fm_med.finetuning.training import Finetuning

__all__ = [
    "Finetuning",
    "PeftMethod",
    "Prediction",
    "choose_method",
    "encode_rows",
    "fit_clinical",
    "fit_head",
    "fold_summary",
    "predict_rows",
    "prediction_columns",
    "split_metrics",
    "summary",
    "warn_few_events",
]
