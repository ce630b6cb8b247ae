"""Evaluate a model that assigns labels or classes, or predicts a number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fm_med import metrics as measured
from fm_med.cohort import Cohort
from fm_med.evaluation.baselines import Design, designs
from fm_med.evaluation.confident import called, called_scores, called_section
from fm_med.evaluation.label_scores import STATISTICS, Answer, answer, per_label
from fm_med.evaluation.methods import cautions, common_methods, software
from fm_med.evaluation.model import FittedModel, predict
from fm_med.evaluation.participants import Participants, characteristics, participants
from fm_med.evaluation.result import Evaluation
from fm_med.evaluation.transcriptomes import describe_expression
from fm_med.examples import Examples
from fm_med.finetuning.linear import fit_clinical, fit_head, set_statistics
from fm_med.heads import PredictionHead, PredictionHeadConfig
from fm_med.metrics import Interval
from fm_med.report.calibration_drawing import calibration_drawing
from fm_med.report.label_figures import LabelCurves, label_curves
from fm_med.report.label_sections import RIVALS, TITLES, LabelResults, label_sections
from fm_med.report.page import Section
from fm_med.tasks import ClassificationTask

HEADLINES = {
    "multilabel": ("macro_auroc", "average_precision"),
    "classification": ("macro_auroc", "macro_f1", "balanced_accuracy"),
    "regression": ("r2", "mean_absolute_error"),
}


@dataclass(frozen=True)
class _Judged:
    """Predictions of the model and its rivals, and what was measured on them."""

    people: Participants
    outputs: dict[str, np.ndarray]
    designs: Sequence[Design]
    metrics: dict[str, Any]
    cautions: Sequence[str]


def evaluate_labels(
    model: FittedModel,
    cohort: Cohort,
    *,
    split: str,
    what: str,
    threshold: float | None = None,
    draw_map: bool | None = None,
) -> Evaluation:
    """Evaluate a model of labels, classes or a number on a split of a cohort.

    Args:
        model: With a task other than survival.
        cohort: Its training split, where there is one, is what baselines are fitted on.
        split: To evaluate on.
        what: What is predicted, in words.
        threshold: Confidence below which a row is called no class; None calls every row.
        draw_map: Draw the embeddings of expression by UMAP; None does unless there are very many.

    Raises:
        InputError: The cohort lacks a target column, or a row with a target.
    """
    judged = _judge(model, cohort, split)
    more = _more(model, cohort, judged, threshold=threshold, draw_map=draw_map)
    main = HEADLINES[model.task.name][0]
    found = judged.metrics
    lines = [(f"{TITLES[main]}, model", found["model"][main])]
    for name, scores in found["baselines"].items():
        lines.append((f"{TITLES[main]}, {RIVALS.get(name, name)}", scores[main]))
    for name, gains in found["difference"].items():
        lines.append((f"model minus {RIVALS.get(name, name)}", gains[main]))
    for name, title in (("coverage", "share called"), ("accuracy_of_called", "accuracy on those")):
        if name in found["model"]:
            lines.append((title, found["model"][name]))
    people = judged.people
    results = _results(model, cohort, judged, split=split, what=what, more=more.sections)
    return Evaluation(
        title=f"Model of {what}",
        subtitle=f"{cohort.card.name}; {len(people.test):,} rows of the split “{split}”",
        metrics=found,
        sections=label_sections(results),
        predictions=_predictions(model, judged, threshold),
        lines=lines,
        cautions=judged.cautions,
        tables=more.tables,
        calibration=calibration_drawing(
            [curves.points for curves in results.curves], people.test.subject_id
        ),
    )


@dataclass(frozen=True)
class _More:
    """What is told of some models only."""

    sections: Sequence[Section] = ()
    tables: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


def _more(
    model: FittedModel,
    cohort: Cohort,
    judged: _Judged,
    *,
    threshold: float | None,
    draw_map: bool | None,
) -> _More:
    """Judge rejected rows and what only expression has; adds to the metrics."""
    task, test = model.task, judged.people.test
    if not isinstance(task, ClassificationTask):
        return _More()
    sections: list[Section] = []
    if threshold is not None:
        rows = called(task, test.targets["label"], judged.outputs["model"], threshold)
        scores = called_scores(rows, test.subject_id)
        judged.metrics["model"] |= scores
        sections.append(called_section(rows, scores, task))
    if cohort.card.modality != "rna":
        return _More(sections)
    own = describe_expression(model, judged.people, draw_map=draw_map)
    judged.metrics.update(own.metrics)
    return _More([*sections, *own.sections], own.tables)


def _judge(model: FittedModel, cohort: Cohort, split: str) -> _Judged:
    """Predict, fit the baselines and measure everything."""
    people = participants(cohort, model.task, model.coding, split=split, one_per_person=False)
    outputs = {"model": predict(model, people.test)}
    made: list[Design] = []
    if people.train is not None:
        made = list(designs(model, people.train, people.test))
        outputs |= {design.name: _baseline(model, design, people.train) for design in made}
    answers = {
        name: answer(model.task, people.test.targets, values) for name, values in outputs.items()
    }
    who = people.test.subject_id
    names = STATISTICS[model.task.name]
    scores: dict[str, dict[str, Any]] = {
        name: {
            metric: measured.bootstrap(statistic, who, one.truth, one.form[kind])
            for metric, (statistic, kind) in names.items()
        }
        for name, one in answers.items()
    }
    for name, one in answers.items():
        labels = per_label(model.task, one, who)
        if labels:
            scores[name]["per_label"] = labels
    gains = {
        name: _gains(names, answers["model"], rival, who)
        for name, rival in answers.items()
        if name != "model"
    }
    found = {"model": scores.pop("model"), "baselines": scores, "difference": gains}
    return _Judged(people, outputs, made, found, cautions(model, cohort, people, split))


def _gains(
    names: dict[str, tuple[Callable[..., Any], str]], model: Answer, rival: Answer, who: np.ndarray
) -> dict[str, Interval]:
    """Return the paired differences of all metrics."""
    return {
        metric: measured.paired_difference(
            statistic, who, model.form[kind], rival.form[kind], model.truth
        )
        for metric, (statistic, kind) in names.items()
    }


def _baseline(model: FittedModel, design: Design, train: Examples) -> np.ndarray:
    """Fit a linear head on the columns of a design, as the model's own; predict the test rows."""
    task = model.task
    features = (None, None) if design.features is None else design.features
    clinical = [block.astype(np.float32) for block in design.clinical]
    covariates = [f"covariate {place}" for place in range(clinical[0].shape[1])]
    head = PredictionHead(
        PredictionHeadConfig(
            inputs=1 if features[0] is None else features[0].shape[1],
            outputs=task.outputs,
            output_name=task.output_name,
            squeeze=not task.classes,
            clinical=covariates,
        )
    ).eval()
    rows = replace(train, clinical=clinical[0])
    test = features[1] if features[1] is not None else np.zeros((len(clinical[1]), 1))
    if features[0] is None:
        set_statistics(head, rows, None)
        fit_clinical(head, task, rows)
    else:
        fit_head(head, task, rows, features[0].astype(np.float32))
    with torch.inference_mode():
        named = head(
            torch.from_numpy(test.astype(np.float32)),
            torch.from_numpy(clinical[1]) if covariates else None,
        )
    return named[task.output_name].numpy().astype(np.float64)


def _results(
    model: FittedModel,
    cohort: Cohort,
    judged: _Judged,
    *,
    split: str,
    what: str,
    more: Sequence[Section],
) -> LabelResults:
    """Gather what the page shows."""
    people, task = judged.people, model.task
    own = answer(task, people.test.targets, judged.outputs["model"])
    known = {} if people.train is None else {"Training": people.train}
    confusion = None
    if task.name == "classification":
        size = len(task.classes)
        cells = own.truth * size + own.form["class"]
        confusion = np.bincount(cells, minlength=size * size).reshape(size, size)
    return LabelResults(
        metrics=judged.metrics,
        what=what,
        rows=len(people.test),
        persons=len(set(people.test.subject_id.tolist())),
        headline=HEADLINES[task.name],
        flow=people.flow,
        characteristics=characteristics({**known, "Evaluated": people.test}),
        curves=_curves(task.classes, own) if task.classes else (),
        confusion=confusion,
        classes=task.classes,
        numbers=(own.truth, own.form["score"]) if task.name == "regression" else None,
        more=more,
        methods=[*common_methods(model, cohort, split, judged.designs), software()],
        cautions=judged.cautions,
    )


def _curves(classes: Sequence[str], own: Answer) -> list[LabelCurves]:
    """Return the curves of each label, most frequent first."""
    frequent = np.argsort(-np.nansum(own.label, axis=0), kind="stable")
    curves = []
    for place in frequent.tolist():
        known = ~np.isnan(own.label[:, place])
        label = own.label[known, place]
        if 0 < label.sum() < len(label):
            curves.append(
                label_curves(classes[place], label, own.form["probability"][known, place])
            )
    return curves


def _predictions(
    model: FittedModel, judged: _Judged, threshold: float | None
) -> dict[str, np.ndarray]:
    """Return the columns of ``predictions.csv``."""
    test, task = judged.people.test, model.task
    columns: dict[str, Any] = {"subject_id": test.subject_id, "record_id": test.record_id}
    if task.name == "multilabel":
        label = test.targets["label"]
        columns |= {f"label_{name}": label[:, k] for k, name in enumerate(task.classes)}
    elif task.name == "classification":
        columns["label"] = np.array([task.classes[k] for k in test.targets["label"]])
    else:
        columns["target"] = test.targets["target"]
    outputs = judged.outputs["model"]
    columns |= task.columns_of(outputs)
    if isinstance(task, ClassificationTask):
        columns |= task.decisions(outputs, threshold)
    return columns
