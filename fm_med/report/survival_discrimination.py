"""How well a risk model ranks patients: headline, rivals, time, subgroups."""

from collections.abc import Mapping
from typing import Any

from fm_med.metrics import Interval
from fm_med.report.figures import intervals_figure
from fm_med.report.page import Box, Figure, KeyNumber, Section, Table
from fm_med.report.survival_figures import lines_figure
from fm_med.report.survival_results import (
    BASELINES,
    MODEL,
    SurvivalResults,
    cell,
    p_text,
)
from fm_med.survival.planning import SE_TIMES_ROOT_EVENTS, c_index_half_width

PRECISION = "What this number of events allows"
RIVALS = {
    "age_sex": "age and sex alone",
    "random_encoder": "an untrained encoder",
    "measurements": "classical ECG measurements",
}


def precision_box(events: int, training_events: int | None = None) -> Box:
    """Return in plain words what a number of events allows one to say."""
    half = c_index_half_width(max(events, 1))
    text = (
        f"{events:,} persons of the test had the event. Chance alone moves a C-index measured on "
        f"that many events by about ± {half:.2f} (1.96 × {SE_TIMES_ROOT_EVENTS} / √events). A "
        "single model's C-index is known no better than that; two models tested on the same "
        "persons can be compared more closely, which is what the differences below do."
    )
    if half > 0.1:
        text += (
            "\n\nThat is little: a model with a true C-index of 0.60 and one of 0.75 could easily "
            "change places here. Take the figures as a check that nothing is broken, not as proof."
        )
    if training_events is not None and training_events < 100:
        text += (
            f"\n\nThe model learnt from {training_events:,} events. With fewer than about 100, a "
            "large part of what any flexible model learns is chance."
        )
    return Box(PRECISION, text)


def summary(results: SurvivalResults) -> Section:
    """Return the headline, the verdict and the box on precision."""
    model = results.metrics["model"]
    content: list[Any] = [
        KeyNumber(
            "C-index of the model",
            model["c_index"],
            "How often the person with the earlier event had the higher predicted risk.",
        )
    ]
    differences = results.metrics.get("difference", {})
    if "age_sex" in differences:
        content.append(
            KeyNumber(
                "Gain over age and sex",
                differences["age_sex"]["c_index"],
                "Difference in C-index on the same persons.",
            )
        )
    if "random_encoder" in differences:
        content.append(
            KeyNumber(
                "Gain over an untrained encoder",
                differences["random_encoder"]["c_index"],
                "What training the encoder has added.",
            )
        )
    if "calibration_slope" in model:
        content.append(
            KeyNumber(
                "Calibration slope",
                model["calibration_slope"],
                "1 is ideal; below 1 the predictions are too extreme.",
            )
        )
    content.append(precision_box(results.events, results.training_events))
    text = (
        f"A model for the risk of {results.event}, tested on {results.persons:,} persons that it "
        f"has never seen, of whom {results.events:,} had the event. {verdict(differences)}"
    )
    alert = " ".join(results.cautions) or None
    return Section("In short", text.strip(), content, alert)


def verdict(differences: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return in words how the model compares with each baseline."""
    sentences = []
    for name, metrics in differences.items():
        if name not in RIVALS or "c_index" not in metrics:
            continue
        gain, rival = metrics["c_index"], RIVALS[name]
        if gain.low > 0:
            sentences.append(f"It ranks persons better than {rival}, beyond chance.")
        elif gain.high < 0:
            sentences.append(f"It ranks persons WORSE than {rival}, beyond chance.")
        else:
            sentences.append(f"It cannot be told from {rival} on so few events.")
    return " ".join(sentences)


def discrimination(results: SurvivalResults) -> Section:
    """Return C-index and AUROC of the model and the baselines, with paired differences."""
    metrics = results.metrics
    models = {MODEL: metrics["model"]} | {
        BASELINES.get(name, name): found for name, found in metrics.get("baselines", {}).items()
    }
    titles = {"c_index": "C-index", "c_index_uno": "Uno’s C"} | {
        f"auroc_at_{suffix}": f"AUROC at {name}" for suffix, name in results.horizons.items()
    }
    titles = {key: title for key, title in titles.items() if key in metrics["model"]}
    rows = [(name, *(cell(found.get(key)) for key in titles)) for name, found in models.items()]
    forest = {name: {"C-index": found["c_index"]} for name, found in models.items()}
    content: list[Any] = [
        Table(
            ("", *titles.values()),
            rows,
            "The model and what it has to beat, on the same persons.",
            "Baselines were fitted on the training patients.",
        ),
        intervals_figure(
            forest,
            ("C-index",),
            axis="C-index (95 % interval)",
            caption="C-index of the model and the baselines. The vertical line at 0.5 is a score "
            "without information.",
        ),
    ]
    if metrics.get("difference"):
        content.append(_differences(results))
    if results.over_time:
        content.append(_over_time(results))
    return Section("Does it rank patients rightly?", "", content)


def _differences(results: SurvivalResults) -> Table:
    """Return the paired differences to the baselines."""
    rows = [
        (
            BASELINES.get(name, name),
            cell(found.get("c_index")),
            p_text(results.p_values[name]) if name in results.p_values else "",
            cell(found.get("ibs")),
        )
        for name, found in results.metrics["difference"].items()
    ]
    columns = ("Model minus", "C-index", "Test of no difference", "Integrated Brier score")
    kept = [place for place in range(4) if place == 0 or any(row[place] for row in rows)]
    return Table(
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        "What the model adds to each baseline, compared person by person.",
        "An interval that includes 0 is compatible with no gain. A better model has a higher "
        "C-index and a lower Brier score.",
    )


def _over_time(results: SurvivalResults) -> Figure:
    """Return AUROC against the time since the ECG."""
    ends = [f"{n}: {y[0]:.2f} to {y[-1]:.2f}" for n, (_, y) in results.over_time.items() if len(y)]
    return lines_figure(
        results.over_time,
        caption="AUROC of having the event by each time after the recording, for patients still "
        "followed (censoring weighted).",
        alt=f"AUROC over time. {'; '.join(ends)}.",
        xlabel=f"Time since the recording ({results.unit})",
        ylabel="AUROC",
        reference=0.5,
        wide=True,
    )


def subgroups(results: SurvivalResults) -> Section | None:
    """Return the model in subgroups."""
    if not results.subgroups:
        return None
    hidden = "not shown"
    rows = [
        (
            group.name,
            hidden if group.persons is None else f"{group.persons:,}",
            hidden if group.events is None else f"{group.events:,}",
            hidden if group.c_index is None else cell(group.c_index),
        )
        for group in results.subgroups
    ]
    shown = {g.name: {"C-index": g.c_index} for g in results.subgroups if g.c_index is not None}
    content: list[Any] = [
        Table(
            ("", "Persons", "Events", "C-index"),
            rows,
            "The model in subgroups.",
            "Groups of fewer than 10 persons with or without the event are not shown, to protect "
            "persons and because nothing could be concluded from them; neither are groups from "
            "which their numbers could be worked out.",
        )
    ]
    if shown:
        content.append(
            intervals_figure(
                shown,
                ("C-index",),
                axis="C-index (95 % interval)",
                caption="C-index in subgroups; intervals that overlap are no evidence of a "
                "difference.",
            )
        )
    return Section("Is it fair?", "Does it work equally well for everybody?", content)
