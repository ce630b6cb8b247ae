"""Judge a fitted model on rows that it has never seen, beside what it has to beat."""

from fm_med.evaluation.competing import evaluate_competing
from fm_med.evaluation.labels import evaluate_labels
from fm_med.evaluation.model import FittedModel
from fm_med.evaluation.result import Evaluation, free_report_folder
from fm_med.evaluation.survival import evaluate_survival

__all__ = [
    "Evaluation",
    "FittedModel",
    "evaluate_competing",
    "evaluate_labels",
    "evaluate_survival",
    "free_report_folder",
]
