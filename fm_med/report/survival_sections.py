"""The report of a risk model for clinicians, in the order and words of TRIPOD+AI.

Collins et al., TRIPOD+AI statement, BMJ 385:e078378 (2024).
"""

from typing import Any

import numpy as np

from fm_med.report.page import Section, Table
from fm_med.report.survival_discrimination import (
    PRECISION,
    discrimination,
    subgroups,
    summary,
)
from fm_med.report.survival_figures import calibration_figure, kaplan_meier_figure, lines_figure
from fm_med.report.survival_results import SurvivalResults, cell, p_text
from fm_med.report.tripod import checklist

MEANINGS = {
    "Observed / expected": "Observed / expected: 1 is ideal, below 1 the risks are too high.",
    "Slope": "Slope: 1 is ideal, below 1 they are too extreme.",
    "Mean gap (ICI)": "ICI: mean gap between predicted and (smoothed) observed risk.",
    "Brier score": "Brier score: mean squared error of the risk.",
    "Scaled Brier score": "Scaled Brier score: the share of the error of a model without "
    "predictors that is avoided; 0 is none, 1 is all.",
}


def survival_sections(results: SurvivalResults) -> list[Section]:
    """Return the sections of the page in reading order."""
    sections = [
        summary(results),
        participants(results),
        discrimination(results),
        calibration(results),
        risk_groups(results),
        _decision(results),
        subgroups(results),
        _patients(results),
        methods(results),
    ]
    shown = [section for section in sections if section]
    return [*shown, checklist([*(section.title for section in shown), PRECISION])]


def participants(results: SurvivalResults) -> Section | None:
    """Return who was evaluated and who was left out."""
    if not results.flow and results.characteristics is None:
        return None
    content: list[Any] = []
    if results.flow:
        content.append(
            Table(
                ("Step", "Number", "Events"),
                results.flow,
                "From the recordings that were offered to the persons evaluated.",
            )
        )
    if results.characteristics is not None:
        content.append(results.characteristics)
    return Section("Participants", "Who was left out, and why.", content)


def calibration(results: SurvivalResults) -> Section | None:
    """Return whether predicted risks are what is observed."""
    if not results.calibration:
        return None
    model = results.metrics["model"]
    kinds = {
        "observed_expected": "Observed / expected",
        "calibration_slope": "Slope",
        "ici": "Mean gap (ICI)",
        "brier": "Brier score",
    }
    rows = []
    for suffix, name in results.horizons.items():
        cells = [cell(model.get(f"{kind}_at_{suffix}")) for kind in kinds]
        if any(cells):
            rows.append((name, *cells, ""))
    if rows and "ibs" in model:
        overall = (cell(model.get("calibration_slope")), "", cell(model["ibs"]))
        rows.append(("all times until then", "", *overall, cell(model.get("scaled_brier"))))
    content: list[Any] = [calibration_figure(results.calibration, results.estimator)]
    if rows:
        columns = ("Horizon", *kinds.values(), "Scaled Brier score")
        kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
        content.append(
            Table(
                [columns[place] for place in kept],
                [[row[place] for place in kept] for row in rows],
                "Calibration and overall accuracy.",
                " ".join(MEANINGS[columns[place]] for place in kept if columns[place] in MEANINGS),
            )
        )
    return Section("Can the risks be believed?", "", content)


def risk_groups(results: SurvivalResults) -> Section | None:
    """Return curves of survival or incidence by predicted risk."""
    if not results.groups:
        return None
    test = ""
    if results.log_rank is not None:
        chi2, p = results.log_rank
        test = f"Log-rank test between the groups: chi-squared {chi2:.1f}, {p_text(p)}."
    figure = kaplan_meier_figure(
        results.groups,
        unit=results.unit,
        event=results.event,
        test=test,
        estimator=results.estimator,
    )
    return Section("What happened to patients of low and high risk", "", [figure])


def _decision(results: SurvivalResults) -> Section | None:
    """Return the decision curve."""
    if not results.decision:
        return None
    x, benefit = next(iter(results.decision.values()))
    top = max(float(np.nanmax(y)) for _, y in results.decision.values())
    better = np.ones(len(x), dtype=bool)
    for _, y in list(results.decision.values())[1:]:
        better &= benefit > y
    where = (
        f"between {x[better].min():.0%} and {x[better].max():.0%}" if better.any() else "nowhere"
    )
    figure = lines_figure(
        results.decision,
        caption="Decision curve. Net benefit: true positives minus false positives, weighted by "
        "the odds of the threshold, per person.",
        alt=f"Net benefit against the threshold. The model is above the other curves {where}.",
        xlabel="Risk from which one would act",
        ylabel="Net benefit",
        ylim=(-0.12 * max(top, 1e-3), 1.12 * max(top, 1e-3)),
        percent="x",
        wide=True,
    )
    name = list(results.horizons.values())[-1] if results.horizons else "the horizon"
    return Section(
        "Would it help to decide?",
        f"For an action taken from some risk at {name} on: does acting on the model do more good "
        "than acting on everybody, on nobody, or on another model? Only thresholds at which a "
        "clinician would really act count.",
        [figure],
    )


def _patients(results: SurvivalResults) -> Section | None:
    """Return single patients."""
    if not results.patients:
        return None
    return Section(
        "Single patients",
        "Occlusion and integrated gradients show what moved the risk; attention, drawn in blue "
        "for models that have it, shows where the model looks. Occlusion: how far the "
        "log-hazard falls when a stretch of a lead is replaced by a straight line. Integrated "
        "gradients: the share of each stretch in the log-hazard, against a flat ECG. None of them "
        "shows a cause of disease.",
        results.patients,
    )


def methods(results: SurvivalResults) -> Section | None:
    """Return how it was done."""
    if not results.methods:
        return None
    table = Table(("Topic", "What was done"), results.methods, "Methods.", prose=True)
    return Section("Methods", "", [table])
