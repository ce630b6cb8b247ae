"""The report of a model that assigns labels or classes, or predicts a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fm_med.metrics import Interval
from fm_med.report.figures import intervals_figure
from fm_med.report.label_figures import (
    LabelCurves,
    confusion_figure,
    curves_panels,
    scatter_figure,
)
from fm_med.report.page import KeyNumber, Section, Table
from fm_med.report.results import interval_table
from fm_med.report.survival_results import MODEL, cell
from fm_med.report.tripod import checklist

TITLES = {
    "macro_auroc": "Macro AUROC",
    "average_precision": "Mean average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "mcc": "Matthews correlation",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "r2": "R²",
    "mean_absolute_error": "Mean absolute error",
}
RIVALS = {
    "age_sex": "Age and sex (logistic)",
    "random_encoder": "Untrained encoder (logistic)",
    "measurements": "ECG measurements (logistic)",
    "clinical": "Clinical covariates (logistic)",
}
MEANINGS = {
    "macro_auroc": "Chance that a recording with a label scores above one without; mean of labels.",
    "macro_f1": "Harmonic mean of recall and precision; mean of classes.",
    "r2": "Share of the variation that is explained.",
}


@dataclass(frozen=True)
class LabelResults:
    """Everything on the page; what is empty is left out.

    Attributes:
        metrics: Content of ``metrics.json``: ``model``, ``baselines.<name>``, ``difference.<name>``
            with `Interval` leaves; ``model.per_label.<label>`` holds AUROCs.
        what: Named in the first sentence, "findings in the ECG".
        rows: Evaluated.
        persons: Whose they are.
        headline: Metrics to be set in large type.
        flow: As in `SurvivalResults`.
        characteristics: Table of the patients, or None.
        curves: Per label, most frequent first.
        confusion: (classes, classes) counts, or None.
        classes: Names for `confusion`.
        numbers: (observed, predicted) of a regression, or None.
        more: Further sections on how the model decides.
        methods: (topic, sentences).
        cautions: Sentences that the reader must see first.
    """

    metrics: Mapping[str, Any]
    what: str
    rows: int
    persons: int
    headline: Sequence[str] = ("macro_auroc",)
    flow: Sequence[tuple[str, str, str]] = ()
    characteristics: Table | None = None
    curves: Sequence[LabelCurves] = ()
    confusion: np.ndarray | None = None
    classes: Sequence[str] = ()
    numbers: tuple[np.ndarray, np.ndarray] | None = None
    more: Sequence[Section] = ()
    methods: Sequence[tuple[str, str]] = ()
    cautions: Sequence[str] = field(default_factory=tuple)


def label_sections(results: LabelResults) -> list[Section]:
    """Return the sections of the page in reading order."""
    sections = [_summary(results)]
    if results.flow or results.characteristics is not None:
        content: list[Any] = []
        if results.flow:
            content.append(
                Table(
                    ("Step", "Number"),
                    [step[:2] for step in results.flow],
                    "From the recordings that were offered to those evaluated.",
                )
            )
        if results.characteristics is not None:
            content.append(results.characteristics)
        sections.append(Section("Participants", "Who was left out, and why.", content))
    sections.append(_performance(results))
    per_label = _per_label(results)
    if per_label:
        sections.append(per_label)
    sections += results.more
    if results.methods:
        table = Table(("Topic", "What was done"), results.methods, "Methods.", prose=True)
        sections.append(Section("Methods", "", [table]))
    return [*sections, checklist([section.title for section in sections])]


def _summary(results: LabelResults) -> Section:
    """Return the headline."""
    model = results.metrics["model"]
    numbers = [
        KeyNumber(TITLES[name], model[name], MEANINGS.get(name, ""))
        for name in results.headline
        if name in model
    ]
    main = results.headline[0]
    for name, found in results.metrics.get("difference", {}).items():
        if main in found and name in RIVALS:
            rival = RIVALS[name].split(" (")[0]
            rival = rival if rival.startswith("ECG") else rival.lower()
            numbers.append(
                KeyNumber(f"Gain over {rival}", found[main], f"Difference in {TITLES[main]}.")
            )
    text = (
        f"A model for {results.what}, tested on {results.rows:,} recordings of "
        f"{results.persons:,} persons that it has never seen."
    )
    return Section("In short", text, numbers[:4], " ".join(results.cautions) or None)


def _performance(results: LabelResults) -> Section:
    """Return all scores of the model and the baselines, and the charts."""
    metrics = results.metrics
    models = {MODEL: metrics["model"]} | {
        RIVALS.get(name, name): found for name, found in metrics.get("baselines", {}).items()
    }
    names = [name for name in TITLES if name in metrics["model"]]
    rows = [(TITLES[name], *(cell(found.get(name)) for found in models.values())) for name in names]
    content: list[Any] = [
        Table(("", *models), rows, "The model and what it has to beat, on the same recordings.")
    ]
    gains = {
        f"{TITLES[metric]}, minus {RIVALS.get(name, name)}": value
        for name, found in metrics.get("difference", {}).items()
        for metric, value in found.items()
        if metric in TITLES and isinstance(value, Interval)
    }
    if gains:
        content.append(interval_table(gains, caption="What the model adds, paired by patient."))
    if results.curves:
        content += curves_panels(results.curves)
    if results.confusion is not None:
        content.append(confusion_figure(results.confusion, results.classes))
    if results.numbers is not None:
        content.append(scatter_figure(*results.numbers, name=results.what))
    return Section("How often is it right?", "", content)


def _per_label(results: LabelResults) -> Section | None:
    """Return the AUROC of each label."""
    models = {MODEL: results.metrics["model"]} | {
        RIVALS.get(name, name): found
        for name, found in results.metrics.get("baselines", {}).items()
    }
    rows: dict[str, dict[str, Interval]] = {}
    for title, found in models.items():
        for label, value in found.get("per_label", {}).items():
            if not np.isnan(value.value):
                rows.setdefault(label, {})[title] = value
    if not rows:
        return None
    figure = intervals_figure(
        rows,
        tuple(models),
        axis="AUROC (95 % interval)",
        caption="Each label. The vertical line at 0.5 is a score without information.",
    )
    return Section("Each label", "", [figure])
