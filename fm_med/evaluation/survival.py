"""Evaluate a risk model: beside simple rivals, in absolute terms, in groups, in single patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.evaluation.baselines import Design, designs
from fm_med.evaluation.follow_up import (
    follow_up_participants,
    outcome_methods,
    reference_outputs,
)
from fm_med.evaluation.methods import cautions, common_methods, software
from fm_med.evaluation.model import FittedModel, predict
from fm_med.evaluation.participants import Participants, characteristics
from fm_med.evaluation.patients import patient_figures
from fm_med.evaluation.result import Evaluation
from fm_med.evaluation.survival_plots import (
    calibration_plots,
    decision_lines,
    over_time_lines,
    risk_groups,
    subgroups,
)
from fm_med.evaluation.survival_scores import (
    Horizons,
    Outcome,
    RiskScore,
    differences,
    fit_baseline,
    gap_closed,
    scores,
    usable_horizons,
)
from fm_med.examples import Examples
from fm_med.report.calibration_drawing import calibration_drawing
from fm_med.report.survival_results import BASELINES, SURVIVAL_FOOTER, SurvivalResults
from fm_med.report.survival_sections import survival_sections
from fm_med.survival.baseline import BaselineHazard
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.tasks import CompetingRisksTask, DiscreteTimeTask, FollowUpTask, Task

TRUTH = "log_hazard_all"  # column of simulated cohorts
ORACLE = "oracle"
FEW_EVENTS = 20
DEATHS = "Death from other causes counts as the end of follow-up."
SCORES = (
    "C-index: Harrell’s, analytic interval (infinitesimal jackknife); Uno’s, cut at the last "
    "horizon; AUROC at a horizon: cumulative/dynamic.",
)


@dataclass(frozen=True)
class _Judged:
    """Everything that was computed.

    Attributes:
        people: Evaluated and training rows.
        outputs: Of the model's head.
        outcome: Of the evaluated rows.
        model: The model's predictions.
        rivals: The baselines'.
        designs: What the baselines are made of.
        horizons: At which absolute risks are judged.
        metrics: Content of ``metrics.json``.
        p_values: Of the difference in C-index, by baseline.
        cautions: What the reader must know first.
    """

    people: Participants
    outputs: np.ndarray
    outcome: Outcome
    model: RiskScore
    rivals: Sequence[RiskScore]
    designs: Sequence[Design]
    horizons: Horizons
    metrics: dict[str, Any]
    p_values: Mapping[str, float]
    cautions: Sequence[str]


def evaluate_survival(
    model: FittedModel, cohort: Cohort, *, split: str, years: Sequence[float], event: str
) -> Evaluation:
    """Evaluate a risk model on a split of a cohort.

    Args:
        model: With a task on a follow-up of one event: survival or discrete time.
        cohort: Its training split, where there is one, is what baselines are fitted on.
        split: To evaluate on.
        years: Horizons of absolute risk.
        event: What is predicted, in words.

    Raises:
        InputError: The cohort has no follow-up, or nothing that can be evaluated.
    """
    judged = _judge(model, cohort, split, years)
    results = _results(model, cohort, judged, split=split, event=event)
    lines = [("C-index, model", judged.metrics["model"]["c_index"])]
    for name, found in judged.metrics["baselines"].items():
        lines.append((f"C-index, {BASELINES.get(name, name)}", found["c_index"]))
    for name, found in judged.metrics["difference"].items():
        lines.append((f"model minus {BASELINES.get(name, name)}", found["c_index"]))
    if "oracle_gap_closed" in judged.metrics["model"]:
        gap = judged.metrics["model"]["oracle_gap_closed"]
        lines.append(("share of the gap from age and sex to the truth", gap))
    return Evaluation(
        title=f"Risk of {event}",
        subtitle=f"{cohort.card.name}; {len(judged.people.test):,} persons of the split “{split}”",
        metrics=judged.metrics,
        sections=survival_sections(results),
        predictions=_predictions(model.task, judged),
        footer=SURVIVAL_FOOTER,
        lines=lines,
        cautions=judged.cautions,
        calibration=calibration_drawing(
            [plot.points for plot in results.calibration], judged.outcome.subject_id
        ),
    )


def _judge(model: FittedModel, cohort: Cohort, split: str, years: Sequence[float]) -> _Judged:
    """Predict, fit the baselines and measure everything."""
    people = follow_up_participants(model, cohort, split)
    targets = people.test.targets
    outcome = Outcome(targets["time"], targets["event"], people.test.subject_id)
    if not outcome.event.any():
        raise InputError(f"{cohort.path}: nobody in the split {split!r} has the event")
    outputs = predict(model, people.test)
    own = _own(model, outputs)
    horizons = usable_horizons(years, getattr(model.task, "unit", ""), outcome, own.hazard)
    made = [] if people.train is None else list(designs(model, people.train, people.test))
    rivals = [fit_baseline(design, people.train) for design in made if people.train is not None]
    rivals += _truth(people.test)
    compared = {rival.name: differences(own, rival, outcome, horizons) for rival in rivals}
    metrics: dict[str, Any] = {
        "model": scores(own, outcome, horizons),
        "baselines": {rival.name: scores(rival, outcome, horizons) for rival in rivals},
        "difference": {name: found for name, (found, _) in compared.items()},
    }
    by_name = {rival.name: rival for rival in rivals}
    if {ORACLE, "age_sex"} <= by_name.keys():
        metrics["model"]["oracle_gap_closed"] = gap_closed(
            own, by_name["age_sex"], by_name[ORACLE], outcome
        )
    return _Judged(
        people,
        outputs,
        outcome,
        own,
        rivals,
        made,
        horizons,
        metrics,
        {name: p for name, (_, p) in compared.items()},
        [*cautions(model, cohort, people, split), *_few(outcome, model), *horizons.left_out],
    )


def _own(model: FittedModel, outputs: np.ndarray) -> RiskScore:
    """Return the model's predictions, from what its head gave."""
    task, hazard = model.task, model.baseline
    if not isinstance(task, FollowUpTask) or isinstance(task, CompetingRisksTask):
        raise TypeError(f"the task {task.name} has not one event")
    if isinstance(hazard, CauseHazards):
        raise TypeError("the model has the hazards of several causes")
    return RiskScore("model", task.ranking(torch.from_numpy(outputs)).numpy(), hazard, outputs)


def _truth(test: Examples) -> list[RiskScore]:
    """Return the true log-hazard of simulated persons as a rival."""
    if TRUTH not in test.cohort.splits[str(test.split[0])].column_names:
        return []
    values = test.table([TRUTH]).column(TRUTH).to_numpy()
    return [RiskScore(ORACLE, values.astype(np.float64), None)]


def _few(outcome: Outcome, model: FittedModel) -> list[str]:
    """Return what the number of events and the model do not allow."""
    found = []
    events = int(outcome.event.sum())
    if events < FEW_EVENTS:
        found.append(f"Only {events} events: no number on this page is worth much.")
    if model.baseline is None:
        found.append("The model has no baseline hazard: it ranks persons, but gives no risks.")
    return found


def _results(
    model: FittedModel, cohort: Cohort, judged: _Judged, *, split: str, event: str
) -> SurvivalResults:
    """Gather what the page shows."""
    people, outcome, horizons = judged.people, judged.outcome, judged.horizons
    unit = getattr(model.task, "unit", "")
    known = {} if people.train is None else {"Training": people.train}
    reference = judged.model.log_hazard
    if people.train is not None:
        reference = _own(model, reference_outputs(model, people.train)).log_hazard
    groups, log_rank = risk_groups(judged.model, outcome, reference)
    shown = [judged.model, *(rival for rival in judged.rivals if rival.name != "clinical")]
    training_events = model.training.get("events")
    return SurvivalResults(
        metrics=judged.metrics,
        event=event,
        unit=unit,
        horizons=horizons.names,
        persons=len(people.test),
        events=int(outcome.event.sum()),
        training_events=training_events if isinstance(training_events, int) else None,
        p_values=judged.p_values,
        flow=people.flow,
        characteristics=characteristics({**known, "Evaluated": people.test}, unit=unit),
        calibration=calibration_plots(judged.model, outcome, horizons),
        groups=groups,
        log_rank=log_rank,
        over_time=over_time_lines(shown, outcome, horizons),
        decision=decision_lines(judged.model, judged.rivals, outcome, horizons),
        subgroups=subgroups(judged.model, outcome, people.test),
        patients=patient_figures(model, people.test, judged.model.log_hazard),
        methods=[
            *common_methods(model, cohort, split, judged.designs),
            *outcome_methods(unit, event, people, DEATHS, SCORES),
            *_absolute(model.task),
            software(),
        ],
        cautions=judged.cautions,
    )


def _absolute(task: Task) -> list[tuple[str, str]]:
    """Return how hazards per interval become risks; a baseline hazard needs no explanation."""
    if not isinstance(task, DiscreteTimeTask):
        return []
    ends = ", ".join(f"{edge:g}" for edge in task.edges)
    return [
        (
            "Absolute risk",
            f"From a hazard in each interval, spread over it at a constant rate: S(t) is the "
            "product of 1 − h over the intervals before t, times 1 − h of the interval of t to the "
            "power of the share of it that has passed. The intervals have about as many events of "
            f"the training rows each; they end at {ends} {task.unit}. Such risks come without "
            "intervals of their own.",
        )
    ]


def _predictions(task: Task, judged: _Judged) -> dict[str, np.ndarray]:
    """Return the columns of ``predictions.csv``."""
    test, own = judged.people.test, judged.model
    columns = {
        "subject_id": test.subject_id,
        "record_id": test.record_id,
        "time": judged.outcome.time,
        "event": judged.outcome.event,
        **task.columns_of(judged.outputs),
    }
    for suffix, at in judged.horizons.times.items():
        if own.hazard is not None:
            columns[f"risk_{suffix}"] = own.risk(at)
        if isinstance(own.hazard, BaselineHazard):
            low, high = own.hazard.risk_interval(own.log_hazard, at)
            columns |= {f"risk_{suffix}_low": low, f"risk_{suffix}_high": high}
    return columns | {f"log_hazard_{rival.name}": rival.log_hazard for rival in judged.rivals}
