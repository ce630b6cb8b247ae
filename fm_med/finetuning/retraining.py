"""Train once more on all rows, for as many epochs as the validation rows found best.

A seventh of a small cohort that only chooses an epoch is a seventh that nothing is learnt from.
"""

import shutil
from dataclasses import replace
from typing import Protocol

from fm_med.finetuning.crossvalidation import Fit, Rows
from fm_med.finetuning.finishing import Finetuned
from fm_med.finetuning.training import Plan
from fm_med.run import Run

FOLDER = "retrained"


class Settings(Protocol):
    """What is read of a recipe's settings."""

    retrain: bool


class FitOnce(Protocol):
    """The recipe's fit."""

    def __call__(self, run: Run, rows: Rows, seed: int, plan: Plan | None = None, /) -> Finetuned:
        """Fit on the first rows; with a plan nothing is chosen by the second ones."""


def fit_or_retrain(fit: FitOnce, settings: Settings) -> Fit:
    """Return a fit that is done once more on all rows, if the settings say so."""
    if not settings.retrain:
        return fit
    return lambda run, rows, seed: retrain(fit, settings, run, rows, seed)


def retrain(fit: FitOnce, settings: Settings, run: Run, rows: Rows, seed: int) -> Finetuned:
    """Fit, then start anew on training and validation rows and stop where the first fit was best.

    The learning rate follows the same schedule, and the head is fitted anew if the first fit's was.
    Thresholds are still chosen by what the first fit predicts for the validation rows.

    Args:
        fit: The recipe's.
        settings: The recipe's, for the folder of the second run, `retrained` in that of the first.
        run: Of the first fit.
        rows: To learn from, and to choose by.
        seed: Of both fits.

    Returns:
        The second fit; the first where there was no loop, or no epoch was better than its start.
    """
    train, validation = rows
    first = fit(run, rows, seed)
    epochs = first.tuning.best_epoch
    if not epochs:
        return first
    held_out = first.predict(validation)
    plan = Plan(epochs, refit=bool(first.fit.get("refitted")))
    run.say(f"once more on {len(train) + len(validation)} rows, {epochs} epoch(s)")
    again = fit(_beside(run, settings), (train.joined(validation), validation), seed, plan)
    fitted = {**first.fit, **again.fit, "retrained_epochs": epochs}
    return replace(again, held_out=held_out, fit=fitted)


def _beside(run: Run, settings: Settings) -> Run:
    """Return a run in a folder within that of another one, continued if it had begun."""
    folder = run.folder / FOLDER
    begun = (folder / "config.yaml").is_file()
    if run.accelerator.is_main_process and not begun:
        shutil.rmtree(folder, ignore_errors=True)
    run.accelerator.wait_for_everyone()
    child = Run(folder, settings, run.accelerator, resume=begun)
    child.start(announce=False)
    return child
