"""What is reported: pure functions of arrays, each with a patient-bootstrap interval on request.

Every metric takes ``multiplicity``, how often each row counts in each bootstrap resample, so that
`bootstrap` evaluates all resamples at once instead of one by one.
"""

from fm_med.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier,
    ece,
    macro_f1,
    mcc,
    mean,
)
from fm_med.metrics.embedding import (
    collapse_warning,
    effective_rank,
    embedding_scores,
    mean_pairwise_cosine,
)
from fm_med.metrics.interval import Interval, bootstrap, paired_difference
from fm_med.metrics.ranking import auroc, average_precision, evaluable, macro_auroc
from fm_med.metrics.retrieval import recall_at_k, retrieval_rank, retrieval_scores

__all__ = [
    "Interval",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "brier",
    "collapse_warning",
    "ece",
    "effective_rank",
    "embedding_scores",
    "evaluable",
    "macro_auroc",
    "macro_f1",
    "mcc",
    "mean",
    "mean_pairwise_cosine",
    "paired_difference",
    "recall_at_k",
    "retrieval_rank",
    "retrieval_scores",
]
