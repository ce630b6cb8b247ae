"""The end of a fine-tuning run: metrics, predictions, and what is noted beside the model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fm_med.disclosure import without_small_counts
from fm_med.finetuning.building import Job
from fm_med.finetuning.crossvalidation import CrossValidation
from fm_med.finetuning.finishing import Finetuned, thresholds
from fm_med.finetuning.rejection import describe, rejection
from fm_med.finetuning.results import Prediction, prediction_columns, split_metrics, summary
from fm_med.finetuning.splits import Split
from fm_med.folds import write_table
from fm_med.reference import kept_reference
from fm_med.report import write_metrics
from fm_med.run import Run
from fm_med.tasks import CompetingRisksTask, FollowUpTask, Task

Judged = dict[str, Prediction]


def judge(finished: Finetuned, split: Split) -> Judged:
    """Predict the parts that the fit did not learn from; every process must call this."""
    seen = set(finished.tuning.train.id.tolist())
    parts = {
        name: part
        for name, part in split.parts().items()
        if name != "train" and part.id[0] not in seen
    }
    return {name: finished.predict(part) for name, part in parts.items()}


def write_results(run: Run, task: Task, judged: Judged, folds: CrossValidation | None) -> str:
    """Write `report/metrics.json` and `report/predictions.csv`; return the main results as text.

    The metrics are those of the test split, of the folds under `cross_validation`; each beside the
    clinical covariates alone.
    """
    metrics: dict[str, Any] = {}
    lines = []
    if folds is not None:
        metrics["cross_validation"] = folds.metrics
        lines.append(summary("cross-validation (mean of the folds, 95 % interval):", folds.metrics))
    if "test" in judged:
        tested = split_metrics(task, judged["test"])
        metrics |= tested
        lines.append(summary("test split (95 % interval over patients):", tested))
    if run.accelerator.is_main_process:
        write_metrics(run.report_folder / "metrics.json", metrics)
        tables = [prediction_columns(task, prediction) for prediction in judged.values()]
        if tables:
            joined: dict[str, np.ndarray | list[Any]] = {
                name: np.concatenate([np.asarray(table[name]) for table in tables])
                for name in tables[0]
            }
            write_table(run.report_folder / "predictions.csv", joined)
    return "\n".join(lines) or "no test split, so nothing was judged"


def notes(
    finished: Finetuned,
    job: Job,
    encoder: str,
    judged: Judged,
    *,
    reject_error: float | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Return what is saved beside the model: thresholds, and how it was trained; aggregates only.

    Args:
        finished: The final fit.
        job: What was done.
        encoder: Where the encoder came from.
        judged: From `judge`.
        reject_error: Share of wrong rows that a classifier aims at by rejecting others; or None.
        say: Told how many rows are rejected.
    """
    rejected = rejection(finished.tuning.task, judged.get("validation"), reject_error)
    if rejected is not None:
        say(describe(rejected))
    train = finished.tuning.train
    training: dict[str, Any] = {
        "encoder": encoder,
        "peft": job.method,
        "cohort": train.cohort.card.name,
        "fingerprint": train.cohort.fingerprint,
        "fitted_on": sorted(set(train.split.tolist())),
        "rows": len(train),
        "persons": len(np.unique(train.subject_id)),
        **finished.fit,
    }
    if isinstance(job.task, FollowUpTask):
        training["events"] = int(train.targets["event"].sum())
    if isinstance(job.task, CompetingRisksTask):
        training["events_by_cause"] = job.task.events_by_cause(train.targets)
    return {
        "thresholds": thresholds(finished.tuning.task, judged.get("validation")),
        "rejection": rejected,
        "training": without_small_counts(training),
        "reference": kept_reference(
            train, finished.tuning.predictor.encoder, finished.tuning.processor
        ),
    }
