"""The rows of a cohort with their follow-up in the model's unit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.evaluation.model import FittedModel, predict
from fm_med.evaluation.participants import Participants, participants
from fm_med.evaluation.survival_scores import per_year
from fm_med.examples import Examples
from fm_med.tasks import CompetingRisksTask, FollowUpTask

REFERENCE_ROWS = 2000  # training rows on which risk groups are cut


def follow_up_participants(model: FittedModel, cohort: Cohort, split: str) -> Participants:
    """Choose one recording per person; times are converted to the unit of the model.

    Args:
        model: With a task on a follow-up.
        cohort: Its card names time and event; causes are in the column that the model learnt from.
        split: To evaluate on.

    Raises:
        InputError: The cohort has no follow-up, see also `participants`.
    """
    task, card = model.task, cohort.card
    if not isinstance(task, FollowUpTask):
        raise TypeError(f"the task {task.name} has no follow-up")
    if card.time is None or card.event is None or not card.follow_up_unit:
        raise InputError(f"{cohort.path} has no follow-up: its card names no time, event and unit")
    if not isinstance(task, CompetingRisksTask):
        task = replace(task, columns=(card.time, card.event))
    found = participants(cohort, task, model.coding, split=split, one_per_person=True)
    factor = per_year(task.unit) / per_year(card.follow_up_unit)
    if factor == 1:
        return found

    def converted(examples: Examples) -> Examples:
        return replace(
            examples, targets={**examples.targets, "time": examples.targets["time"] * factor}
        )

    train = None if found.train is None else converted(found.train)
    return Participants(converted(found.test), train, found.flow)


def reference_outputs(model: FittedModel, train: Examples) -> np.ndarray:
    """Return outputs for some training rows, on which risk groups are cut."""
    step = max(1, len(train) // REFERENCE_ROWS)
    return predict(model, train.take(np.arange(0, len(train), step)))


def outcome_methods(
    unit: str, event: str, people: Participants, censored: str, scores: Sequence[str]
) -> list[tuple[str, str]]:
    """Return what was done about the outcome and the evaluation, as topics and sentences.

    Args:
        unit: Of the follow-up.
        event: What is predicted, in words.
        people: Evaluated and training rows.
        censored: What became of those with another event.
        scores: Sentences on what was measured.
    """
    cut = "training rows" if people.train is not None else "evaluated rows, for want of others"
    return [
        (
            "Outcome",
            f"Time from the recording to {event} or to the end of follow-up, in {unit}. One "
            "recording per person, the first of the cohort. Persons without follow-up are left "
            f"out. {censored}",
        ),
        (
            "Evaluation",
            f"{' '.join(scores)} Persons censored early are made up for by inverse probability "
            "weights. Other intervals: 1,000 bootstrap samples of persons. Risk groups are cut at "
            f"thirds of the predictions of {cut}.",
        ),
    ]
