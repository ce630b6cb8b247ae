"""Evaluate a model of competing risks: every cause by itself, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.evaluation.baselines import Design, designs
from fm_med.evaluation.competing_plots import incidence_calibration, incidence_groups
from fm_med.evaluation.competing_scores import (
    CauseOutcome,
    CauseScore,
    cause_differences,
    cause_scores,
    fit_rivals,
)
from fm_med.evaluation.follow_up import (
    follow_up_participants,
    outcome_methods,
    reference_outputs,
)
from fm_med.evaluation.methods import cautions, common_methods, software
from fm_med.evaluation.model import FittedModel, predict
from fm_med.evaluation.participants import Participants, characteristics
from fm_med.evaluation.result import Evaluation
from fm_med.evaluation.survival import FEW_EVENTS
from fm_med.evaluation.survival_plots import subgroups
from fm_med.evaluation.survival_scores import Horizons, RiskScore, usable_horizons
from fm_med.report.calibration_drawing import calibration_drawing
from fm_med.report.competing_sections import CompetingResults, competing_sections
from fm_med.report.survival_results import BASELINES, SURVIVAL_FOOTER, SurvivalResults
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.tasks import CompetingRisksTask

ESTIMATOR = "Aalen-Johansen"
CENSORED = (
    "The first event of any kind ends the follow-up: in the C-index the other events count as its "
    "end, in incidences as events that keep the one in question from coming."
)
SCORES = (
    "C-index: Harrell’s, of each cause’s own hazard, analytic interval (infinitesimal jackknife).",
    "Predicted risk is the cumulative incidence from the hazards of all causes; observed risk is "
    "the Aalen-Johansen estimate.",
    "AUROC at a horizon: persons with the event by then against all others, also those with "
    "another event; Brier score: likewise.",
)


@dataclass(frozen=True)
class _Judged:
    """Everything that was computed; mappings are by cause.

    Attributes:
        people: Evaluated and training rows.
        outcome: Of the evaluated rows.
        model: The model's predictions.
        rivals: The baselines'.
        designs: What the baselines are made of.
        horizons: At which incidences are judged.
        metrics: ``model``, ``baselines`` and ``difference`` of each cause.
        p_values: Of the difference in C-index, by baseline.
        cautions: What the reader must know first.
    """

    people: Participants
    outcome: CauseOutcome
    model: CauseScore
    rivals: Sequence[CauseScore]
    designs: Sequence[Design]
    horizons: Mapping[str, Horizons]
    metrics: Mapping[str, dict[str, Any]]
    p_values: Mapping[str, dict[str, float]]
    cautions: Sequence[str]


def evaluate_competing(
    model: FittedModel, cohort: Cohort, *, split: str, years: Sequence[float], event: str
) -> Evaluation:
    """Evaluate a model of competing risks on a split of a cohort.

    Args:
        model: With a task of competing risks.
        cohort: Its training split, where there is one, is what baselines are fitted on.
        split: To evaluate on.
        years: Horizons of cumulative incidence.
        event: All causes in words, for the title.

    Raises:
        InputError: The cohort has no follow-up, or a cause does not occur in the split.
    """
    judged = _judge(model, cohort, split, years)
    lines = []
    for cause, found in judged.metrics.items():
        lines.append((f"C-index for {cause}, model", found["model"]["c_index"]))
        for name, scores in found["baselines"].items():
            lines.append((f"C-index for {cause}, {BASELINES.get(name, name)}", scores["c_index"]))
        for name, gains in found["difference"].items():
            lines.append((f"{cause}: model minus {BASELINES.get(name, name)}", gains["c_index"]))
    results = _results(model, cohort, judged, split=split)
    last = [(cause, one.calibration[-1:]) for cause, one in results.causes.items()]
    what = " or ".join(model.task.classes) if event == "the event" else event
    return Evaluation(
        title=f"Risk of {what}",
        subtitle=f"{cohort.card.name}; {len(judged.people.test):,} persons of the split “{split}”",
        metrics=_nested(judged.metrics),
        sections=competing_sections(results),
        predictions=_predictions(model, judged),
        footer=SURVIVAL_FOOTER,
        lines=lines,
        cautions=judged.cautions,
        calibration=calibration_drawing(
            [plot.points.of(cause) for cause, plots in last for plot in plots],
            judged.outcome.subject_id,
        ),
    )


def _judge(model: FittedModel, cohort: Cohort, split: str, years: Sequence[float]) -> _Judged:
    """Predict, fit the baselines and measure everything."""
    task = model.task
    if not isinstance(task, CompetingRisksTask):
        raise TypeError(f"the task {task.name} has no competing risks")
    people = follow_up_participants(model, cohort, split)
    targets = people.test.targets
    for cause, count in task.events_by_cause(targets).items():
        if not count:
            raise InputError(f"{cohort.path}: nobody in the split {split!r} has {cause!r}")
    outcome = CauseOutcome(targets["time"], targets["cause"], people.test.subject_id)
    own = _own(model, predict(model, people.test))
    made = [] if people.train is None else list(designs(model, people.train, people.test))
    rivals: list[CauseScore] = []
    for design in made:
        if people.train is not None:
            rivals += fit_rivals(design, people.train, task.classes)
    horizons, metrics, p_values = {}, {}, {}
    for place, cause in enumerate(task.classes):
        usable = usable_horizons(years, task.unit, outcome.of(place + 1), _hazards(model))
        compared = {r.name: cause_differences(own, r, outcome, place, usable) for r in rivals}
        metrics[cause] = {
            "model": cause_scores(own, outcome, place, usable),
            "baselines": {r.name: cause_scores(r, outcome, place, usable) for r in rivals},
            "difference": {name: found for name, (found, _) in compared.items()},
        }
        horizons[cause] = usable
        p_values[cause] = {name: p for name, (_, p) in compared.items()}
    told = [*cautions(model, cohort, people, split), *_few(task.events_by_cause(targets))]
    told += [f"{cause}: {line}" for cause, h in horizons.items() for line in h.left_out]
    return _Judged(people, outcome, own, rivals, made, horizons, metrics, p_values, told)


def _hazards(model: FittedModel) -> CauseHazards | None:
    """Return the baseline hazards of all causes."""
    if model.baseline is not None and not isinstance(model.baseline, CauseHazards):
        raise TypeError("the model has the hazard of one event only")
    return model.baseline


def _own(model: FittedModel, outputs: np.ndarray) -> CauseScore:
    """Return the model's predictions, from what its head gave."""
    hazards = _hazards(model)
    return CauseScore(
        "model", outputs, None if hazards is None else partial(hazards.incidence, outputs)
    )


def _few(events: Mapping[str, int]) -> list[str]:
    """Return what the number of events does not allow."""
    return [
        f"Only {count} events of {cause}: no number on {cause} is worth much."
        for cause, count in events.items()
        if count < FEW_EVENTS
    ]


def _nested(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``model.<cause>``, ``baselines.<name>.<cause>`` and ``difference.<name>.<cause>``."""
    nested: dict[str, Any] = {"model": {cause: found["model"] for cause, found in metrics.items()}}
    for kind in ("baselines", "difference"):
        names = next(iter(metrics.values()))[kind]
        nested[kind] = {
            name: {cause: found[kind][name] for cause, found in metrics.items()} for name in names
        }
    return nested


def _results(
    model: FittedModel, cohort: Cohort, judged: _Judged, *, split: str
) -> CompetingResults:
    """Gather what the page shows."""
    people, task = judged.people, model.task
    unit = getattr(task, "unit", "")
    known = {} if people.train is None else {"Training": people.train}
    event = " or ".join(task.classes)
    whole = SurvivalResults(
        metrics={},
        event=event,
        unit=unit,
        persons=len(people.test),
        events=int((judged.outcome.cause > 0).sum()),
        flow=people.flow,
        characteristics=characteristics(
            {**known, "Evaluated": people.test}, unit=unit, causes=task.classes
        ),
        methods=[
            *common_methods(model, cohort, split, judged.designs),
            *outcome_methods(unit, event, people, CENSORED, SCORES),
            software(),
        ],
        cautions=judged.cautions,
    )
    reference = judged.model
    if people.train is not None:
        reference = _own(model, reference_outputs(model, people.train))
    causes = {
        cause: _of_cause(model, judged, reference, place)
        for place, cause in enumerate(task.classes)
    }
    return CompetingResults(whole, causes)


def _of_cause(
    model: FittedModel, judged: _Judged, reference: CauseScore, place: int
) -> SurvivalResults:
    """Gather what the page shows of one cause; `reference` cuts the risk groups."""
    cause, outcome, own = model.task.classes[place], judged.outcome, judged.model
    horizons = judged.horizons[cause]
    trained = model.training.get("events_by_cause", {}).get(cause)
    risks = [score.log_hazard[:, place] for score in (own, reference)]
    if horizons.times and own.incidence is not None and reference.incidence is not None:
        at = max(horizons.times.values())
        risks = [own.incidence(at)[:, place], reference.incidence(at)[:, place]]
    one = outcome.of(place + 1)
    return SurvivalResults(
        metrics=judged.metrics[cause],
        event=cause,
        unit=getattr(model.task, "unit", ""),
        persons=len(outcome.time),
        events=int(one.event.sum()),
        horizons=horizons.names,
        p_values=judged.p_values[cause],
        training_events=trained if isinstance(trained, int) else None,
        calibration=incidence_calibration(own, outcome, place, horizons),
        groups=incidence_groups(risks[0], outcome, place, risks[1]),
        subgroups=subgroups(
            RiskScore("model", own.log_hazard[:, place], None), one, judged.people.test
        ),
        estimator=ESTIMATOR,
    )


def _predictions(model: FittedModel, judged: _Judged) -> dict[str, np.ndarray]:
    """Return the columns of ``predictions.csv``."""
    test, own, classes = judged.people.test, judged.model, model.task.classes
    columns = {
        "subject_id": test.subject_id,
        "record_id": test.record_id,
        "time": judged.outcome.time,
        "cause": np.array(["", *classes], dtype=object)[judged.outcome.cause],
        **model.task.columns_of(own.log_hazard),
    }
    for place, cause in enumerate(classes):
        for suffix, at in judged.horizons[cause].times.items():
            if own.incidence is not None:
                columns[f"risk_{cause}_{suffix}"] = own.incidence(at)[:, place]
        for rival in judged.rivals:
            columns[f"log_hazard_{rival.name}_{cause}"] = rival.log_hazard[:, place]
    return columns
