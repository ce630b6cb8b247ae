"""Cross-validation of a whole fit: every fold is a run of its own that can be resumed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fm_med.examples import Examples
from fm_med.finetuning.choices import warn_few_events
from fm_med.finetuning.finishing import Finetuned
from fm_med.finetuning.results import fold_summary, prediction_columns, split_metrics
from fm_med.folds import Fold, hold_out, make_folds, read_table, write_table
from fm_med.report import write_metrics
from fm_med.run import Run
from fm_med.tasks import Task

Fit = Callable[[Run, Examples, Examples, int], Finetuned]


class Settings(Protocol):
    """What cross-validation reads of a recipe's settings."""

    folds: Any
    repeats: Any
    validation_share: Any
    seed: Any
    fold_seed: Any
    resume: bool


@dataclass(frozen=True)
class CrossValidation:
    """What came of all folds.

    Attributes:
        metrics: Means over the folds with intervals; nested as `split_metrics`.
        per_fold: Metrics of each fold by its name, as JSON.
        predictions: The out-of-fold table.
    """

    metrics: dict[str, Any]
    per_fold: dict[str, Any]
    predictions: Path


def cross_validate(
    settings: Settings, run: Run, task: Task, examples: Examples, fit: Fit
) -> CrossValidation:
    """Fit once per fold on the other folds and predict the fold.

    A fold that an earlier, interrupted run has finished is read, not fitted again. Files are
    `folds/<name>/predictions.csv` and `metrics.json`, all together `out_of_fold.csv`.

    Args:
        settings: The recipe's; also the settings of each fold's run. With a `fold_seed` of their
            own, runs of several seeds have the same folds, so that they can be averaged.
        run: The whole run.
        task: What is predicted.
        examples: The rows to cut into folds.
        fit: From (run of the fold, rows to learn from, rows to choose by, seed) to the fit.
    """
    warning = warn_few_events(task, examples, settings.folds)
    if warning:
        run.say(warning)
    strata = task.strata(examples.targets)
    cut = settings.seed if settings.fold_seed is None else settings.fold_seed
    folds = list(
        make_folds(
            strata,
            examples.subject_id,
            folds=settings.folds,
            repeats=settings.repeats,
            seed=cut,
        )
    )
    folder = run.folder / "folds"
    for fold in folds:
        if not (folder / fold.name / "metrics.json").is_file():
            _run_fold(settings, run, task, examples, fit=fit, fold=fold)
        run.accelerator.wait_for_everyone()
        run.say(f"{fold.name}: {_first_score(folder / fold.name)}")
    per_fold = {fold.name: _read_metrics(folder / fold.name) for fold in folds}
    persons = len(np.unique(examples.subject_id))
    metrics = fold_summary(list(per_fold.values()), persons, repeats=settings.repeats)
    path = run.folder / "out_of_fold.csv"
    if run.accelerator.is_main_process:
        _join_tables(folder, folds, path)
    return CrossValidation(metrics, per_fold, path)


def _run_fold(
    settings: Settings, run: Run, task: Task, examples: Examples, *, fit: Fit, fold: Fold
) -> None:
    """Fit one fold in its own folder and write what it predicts; the metrics come last."""
    folder = run.folder / "folds" / fold.name
    begun = (folder / "config.yaml").is_file()
    if run.accelerator.is_main_process and not begun:
        shutil.rmtree(folder, ignore_errors=True)  # of a fold that was cut while it was written
    run.accelerator.wait_for_everyone()
    child = Run(folder, settings, run.accelerator, resume=begun)
    child.start(announce=False)
    others = examples.take(fold.train)
    seed = settings.seed + fold.repeat
    keep, held_out = hold_out(
        task.strata(others.targets), others.subject_id, share=settings.validation_share, seed=seed
    )
    finished = fit(child, others.take(keep), others.take(held_out), seed)
    prediction = finished.predict(examples.take(fold.test))
    if run.accelerator.is_main_process:
        write_table(folder / "predictions.csv", prediction_columns(task, prediction))
        write_metrics(folder / "metrics.json", split_metrics(task, prediction))
        for name in ("checkpoints", "adapter"):  # of use to the final fit only
            shutil.rmtree(folder / name, ignore_errors=True)
    run.accelerator.wait_for_everyone()
    run.accelerator.free_memory()


def _read_metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def _first_score(folder: Path) -> str:
    name, leaf = next(iter(_read_metrics(folder)["model"].items()))
    return f"{name} {leaf['value']:.3f}" if leaf["value"] is not None else f"{name} not defined"


def _join_tables(folder: Path, folds: list[Fold], path: Path) -> None:
    """Write the predictions of all folds as one table, with repeat and fold."""
    joined: dict[str, list[Any]] = {}
    for fold in folds:
        table = read_table(folder / fold.name / "predictions.csv")
        rows = len(next(iter(table.values())))
        numbered = {"repeat": [fold.repeat] * rows, "fold": [fold.number] * rows}
        for name, values in (numbered | {k: v.tolist() for k, v in table.items()}).items():
            joined.setdefault(name, []).extend(values)
    write_table(path, dict(joined))
