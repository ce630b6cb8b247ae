"""The report of a pretraining run: what was learnt, how training went, what the model looks at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fm_med.metrics import Interval, collapse_warning
from fm_med.report.ecg_paper import ExampleECG, ecg_panel, lead_map_panel
from fm_med.report.figures import curves_figure, intervals_figure, map_figure
from fm_med.report.page import Figure, KeyNumber, Section, Table
from fm_med.report.results import interval_table

ZERO_SHOT, PROBE, RANDOM = "Zero-shot", "Linear probe", "Probe, random encoder"
SERIES = {"zero_shot": ZERO_SHOT, "linear_probe": PROBE, "linear_probe_random": RANDOM}
RECALL_LEGEND = {
    "recall_at_1": "report, top 1",
    "recall_at_10": "report, top 10",
    "signal_from_report_recall_at_1": "ECG, top 1",
    "signal_from_report_recall_at_10": "ECG, top 10",
}
RETRIEVAL = {
    "recall_at_1": "Report from ECG, first hit",
    "recall_at_10": "Report from ECG, first ten",
    "signal_from_report_recall_at_1": "ECG from report, first hit",
    "signal_from_report_recall_at_10": "ECG from report, first ten",
}
COLLAPSE_TEXT = (
    "A contrastive run can fail by giving every recording nearly the same embedding. Mean cosine "
    "near 1 or effective rank near 1 would show that."
)


def pretraining_sections(
    history: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    *,
    examples: Sequence[ExampleECG] = (),
    embedding: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    budget: int | None = None,
) -> list[Section]:
    """Return the sections of a pretraining report; what is not given is left out.

    Args:
        history: Rows of ``metrics.jsonl``: ``step`` and any of ``loss``, ``validation_loss``,
            ``recall_at_1`` ..., ``mean_pairwise_cosine``, ``effective_rank``.
        metrics: What is written to ``metrics.json``, with `Interval` leaves: ``zero_shot``,
            ``linear_probe`` and ``linear_probe_random`` (each ``macro_auroc`` and ``per_label``),
            ``difference.linear_probe_random.macro_auroc``, ``retrieval``, ``embedding``.
        examples: Recordings to show, with their attention.
        embedding: (rows, dim) test recordings in the shared space, for the map.
        labels: (rows, labels) bool, for the map.
        label_names: Names of `labels`.
        budget: Number of labelled patients of the linear probe; None = all.
    """
    sections = [_results(metrics, budget)]
    if embedding is not None and labels is not None:
        sections.append(
            Section(
                "What the embedding space looks like",
                "Recordings with the same finding should lie together, although no label was "
                "used in training.",
                [map_figure(embedding, labels, label_names)],
            )
        )
    if examples:
        sections.append(_examples(examples))
    return [*sections, _training(history, metrics)]


def _results(metrics: Mapping[str, Any], budget: int | None) -> Section:
    """Return the results: key numbers, a table of all of them, and each label."""
    content: list[KeyNumber | Table | Figure] = [*_key_numbers(metrics, budget)]
    overview = _overview(metrics)
    if overview:
        content.append(
            interval_table(
                overview,
                caption="Results on the test split.",
                note="Retrieval is over distinct report texts. For retrieval from a report the "
                "distinct reports are counted and resampled instead of patients. The difference "
                "is paired: both probes are evaluated on the same resampled patients.",
                unit="Patients (or reports)",
            )
        )
    per_label = _per_label(metrics)
    if per_label:
        content.append(
            intervals_figure(
                per_label,
                tuple(SERIES.values()),
                axis="AUROC (95 % interval)",
                caption="Each label on the test split, best first. The vertical line at 0.5 is a "
                "score without information.",
            )
        )
    text = "Measured on patients that the model has never seen."
    gain = metrics.get("difference", {}).get("linear_probe_random")
    if gain:
        text += f" {_verdict(gain['macro_auroc'])}"
    skipped = _skipped(metrics)
    if skipped:
        text += f" Not evaluated, as all test recordings have the same class: {', '.join(skipped)}."
    return Section("Results", text, content)


def _overview(metrics: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the rows of the table of results."""
    overview = {
        f"{title}, macro AUROC": metrics[name]["macro_auroc"]
        for name, title in SERIES.items()
        if name in metrics
    }
    gain = metrics.get("difference", {}).get("linear_probe_random")
    if gain:
        overview["Linear probe minus random encoder"] = gain["macro_auroc"]
    retrieval = metrics.get("retrieval", {})
    overview |= {title: retrieval[name] for name, title in RETRIEVAL.items() if name in retrieval}
    return overview


def _verdict(gain: Interval) -> str:
    """Return in one sentence whether pretraining helped the linear probe."""
    if gain.low > 0:
        return "Pretrained features are better than those of a random encoder, beyond chance."
    if gain.high < 0:
        return "Pretrained features are WORSE than those of a random encoder, beyond chance."
    return "Pretrained features cannot be told from those of a random encoder on so few patients."


def _key_numbers(metrics: Mapping[str, Any], budget: int | None) -> list[KeyNumber]:
    """Return up to four headline results with a plain sentence each."""
    labelled = f"{budget} labelled patients" if budget else "all labelled training patients"
    candidates = {
        ("zero_shot", "macro_auroc"): (
            "Zero-shot macro AUROC",
            "Findings recognised from their name alone, without one labelled example.",
        ),
        ("linear_probe", "macro_auroc"): (
            "Linear probe macro AUROC",
            f"A linear classifier on the frozen features, taught by {labelled}.",
        ),
        ("linear_probe_random", "macro_auroc"): (
            "The same, random encoder",
            "What the architecture gives without any pretraining.",
        ),
        ("retrieval", "recall_at_10"): (
            "Report found in first ten",
            "How often a recording's own report is among the ten nearest.",
        ),
    }
    return [
        KeyNumber(name, metrics[group][leaf], meaning)
        for (group, leaf), (name, meaning) in candidates.items()
        if leaf in metrics.get(group, {})
    ]


def _per_label(metrics: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """Return the AUROC of each label by series, best label first."""
    rows: dict[str, dict[str, Interval]] = {}
    for name, title in SERIES.items():
        for label, interval in metrics.get(name, {}).get("per_label", {}).items():
            if not np.isnan(interval.value):
                rows.setdefault(label, {})[title] = interval
    return dict(sorted(rows.items(), key=lambda row: -next(iter(row[1].values())).value))


def _skipped(metrics: Mapping[str, Any]) -> list[str]:
    """Return labels without an AUROC."""
    per_label = [metrics.get(name, {}).get("per_label", {}) for name in SERIES]
    return sorted(
        {label for group in per_label for label, value in group.items() if np.isnan(value.value)}
    )


def _examples(examples: Sequence[ExampleECG]) -> Section:
    """Return recordings on paper with their attention maps."""
    figures = []
    for example in examples:
        panels = [ecg_panel(example)]
        caption = example.title + "."
        if example.report:
            caption += f" Report: “{example.report}”"
        if example.lead_attention is not None:
            panels.append(lead_map_panel(example))
            caption += " The square shows how much each lead (row) reads from each lead (column)."
        figures.append(Figure(panels, caption, wide=True))
    return Section(
        "What the encoder attends to",
        "Recordings on clinical paper. Blue shading marks stretches that the attention over time "
        "within a lead weighs above its mean. Attention shows where the model looks, not why it "
        "decides.",
        figures,
    )


def _training(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Section:
    """Return how training went, with a warning where the space has collapsed."""
    figures = [
        curves_figure(
            history,
            {"loss": "training", "validation_loss": "validation"},
            axis="Loss",
            caption="Loss of each optimiser step (faint) and its running mean.",
        ),
        curves_figure(
            history,
            RECALL_LEGEND,
            axis="Recall",
            caption="Retrieval on the validation split: how often the report of an ECG, or an ECG "
            "of a report, is the nearest or among the ten nearest; over distinct reports.",
            ylim=(0, 1),
        ),
        curves_figure(
            history,
            {"mean_pairwise_cosine": "mean pairwise cosine"},
            axis="Mean pairwise cosine",
            caption="Mean cosine between the embeddings of different recordings.",
            ylim=(-0.05, 1.02),
        ),
        curves_figure(
            history,
            {"effective_rank": "effective rank"},
            axis="Effective rank",
            caption="Number of dimensions in use: exponential of the entropy of the singular "
            "values.",
        ),
    ]
    space = metrics.get("embedding", {})
    alert = None
    if "mean_pairwise_cosine" in space and "effective_rank" in space:
        alert = collapse_warning(space["mean_pairwise_cosine"].value, space["effective_rank"].value)
    return Section(
        "How training went", COLLAPSE_TEXT, [figure for figure in figures if figure], alert
    )
