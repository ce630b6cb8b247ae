"""Evaluate a fine-tuned model on a cohort: one page for clinicians, metrics.json, predictions.csv.

    python recipes/evaluate.py --model runs/finetune/model
    python recipes/evaluate.py --model runs/hf/model --cohort cohorts/hf --output runs/hf/report

The model stands beside Cox models of age and sex, of classical ECG measurements and of the same
encoder with random weights, fitted on the cohort's training split. Runs on one process.
"""

from dataclasses import dataclass

from jsonargparse.typing import PositiveInt

from fm_med.settings import launch, required, setting


@dataclass
class Config:
    """Settings; any of them can be a flag or a key of --config."""

    model: str = required("folder of a fine-tuned model, or a Hub id")
    cohort: str = setting("simulated", "folder of a cohort; 'simulated' makes one")
    subjects: PositiveInt = setting(2500, "persons in the simulated cohort")
    split: str = setting("test", "rows that are judged")
    horizons: list[float] | None = setting(None, "years of absolute risk: [1, 3, 5]")
    outcome: str = setting("the event", "what is predicted, in words, for the page")
    umap: bool | None = setting(None, "draw embeddings of expression; default: up to 20,000 rows")
    device: str | None = setting(None, "cpu, cuda ...; default: an accelerator if there is one")
    output: str = setting("runs/evaluate", "folder of the report; must not hold one yet")


def main(config: Config) -> None:
    """Model, data, evaluation, report."""
    from pathlib import Path

    from accelerate import Accelerator

    from fm_med import hub
    from fm_med.errors import InputError
    from fm_med.evaluation import (
        FittedModel,
        evaluate_competing,
        evaluate_labels,
        evaluate_survival,
        free_report_folder,
    )
    from fm_med.sources.embedded import open_or_simulate
    from fm_med.tasks import CompetingRisksTask, FollowUpTask

    output = free_report_folder(Path(config.output))

    # ------------------------------------------------------------------------------ Model
    device = config.device or str(Accelerator().device)
    loaded = hub.load(config.model, device=device)
    if loaded.head is None or loaded.task is None:
        raise InputError(f"{config.model} is an encoder without a head; fine-tune it first")
    model = FittedModel(
        encoder=loaded.encoder,
        head=loaded.head,
        processor=loaded.processor,
        task=loaded.task,
        coding=loaded.coding,
        baseline=loaded.baseline,
        training=loaded.details.get("training", {}),
    )

    # ------------------------------------------------------------------------------- Data
    cohort = open_or_simulate(config.cohort, subjects=config.subjects)
    model.refuse_other_input(cohort)

    # ------------------------------------------------------------------------- Evaluation
    if isinstance(loaded.task, FollowUpTask):
        years = config.horizons or [1.0, 3.0, 5.0]
        competing = isinstance(loaded.task, CompetingRisksTask)
        evaluation = (evaluate_competing if competing else evaluate_survival)(
            model, cohort, split=config.split, years=years, event=config.outcome
        )
    else:
        what = "the label" if config.outcome == "the event" else config.outcome
        evaluation = evaluate_labels(
            model,
            cohort,
            split=config.split,
            what=what,
            threshold=loaded.threshold,
            draw_map=config.umap,
        )

    # ----------------------------------------------------------------------------- Report
    evaluation.write(output)
    print(evaluation.summary())
    print(f"report {output / 'report.html'}")


if __name__ == "__main__":
    launch(Config, main)
