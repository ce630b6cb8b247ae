"""Fine-tuning: what a step sees, convex fits on cached features, and what a run has found."""

from fm_med.finetuning.building import Job, prepare, warm_start
from fm_med.finetuning.choices import PeftMethod, choose_method, warn_few_events
from fm_med.finetuning.crossvalidation import CrossValidation, cross_validate
from fm_med.finetuning.encoding import encode_rows, predict_rows
from fm_med.finetuning.finishing import Finetuned, baseline_of, finish, pooled_features, thresholds
from fm_med.finetuning.linear import fit_clinical, fit_head, set_statistics
from fm_med.finetuning.rejection import rejection
from fm_med.finetuning.reporting import judge, notes, write_results
from fm_med.finetuning.results import Prediction, fold_summary, prediction_columns, split_metrics
from fm_med.finetuning.splits import Split
from fm_med.finetuning.training import Finetuning

__all__ = [
    "CrossValidation",
    "Finetuned",
    "Finetuning",
    "Job",
    "PeftMethod",
    "Prediction",
    "Split",
    "baseline_of",
    "choose_method",
    "cross_validate",
    "encode_rows",
    "finish",
    "fit_clinical",
    "fit_head",
    "fold_summary",
    "judge",
    "notes",
    "pooled_features",
    "predict_rows",
    "prediction_columns",
    "prepare",
    "rejection",
    "set_statistics",
    "split_metrics",
    "thresholds",
    "warm_start",
    "warn_few_events",
    "write_results",
]
