"""What the page of a risk model shows, as plain data, and the names of the rivals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fm_med.metrics import Interval
from fm_med.report.page import Figure, Table
from fm_med.report.survival_figures import CalibrationPlot, RiskGroup

MODEL = "This model"
BASELINES = {
    "age_sex": "Age and sex (Cox)",
    "age_sex_fine_gray": "Age and sex (Fine–Gray)",
    "random_encoder": "Untrained encoder (ridge Cox)",
    "measurements": "ECG measurements (ridge Cox)",
    "clinical": "Clinical covariates (Cox)",
    "oracle": "Known truth (simulation)",
}
LINE = tuple[np.ndarray, np.ndarray]
SURVIVAL_FOOTER = (
    "Square brackets hold 95 % intervals; persons, not recordings, are the unit of resampling. "
    "C-index: the chance that of two persons the one with the earlier event had the higher "
    "predicted risk; 0.5 is a coin toss, 1 is perfect. This page is a research report and no "
    "medical device."
)


@dataclass(frozen=True)
class Subgroup:
    """The model in a part of the patients.

    Attributes:
        name: "women".
        persons: Their number, or None where too few to be shown.
        events: Number of events, or None likewise.
        c_index: None where suppressed.
    """

    name: str
    persons: int | None
    events: int | None
    c_index: Interval | None


@dataclass(frozen=True)
class SurvivalResults:
    """Everything on the page; what is empty is left out.

    Attributes:
        metrics: Content of ``metrics.json``: ``model``, ``baselines.<name>`` and
            ``difference.<name>``, each with `Interval` leaves.
        p_values: Of the paired difference in C-index, by baseline.
        event: What is predicted, "heart failure".
        unit: Of the follow-up.
        horizons: Names by the suffix of metrics, {"1": "1 year"}.
        persons: Evaluated.
        events: Among them.
        training_events: That the model was trained on; None if not known.
        flow: (step, persons or recordings, events or "") of the cohort, from all to evaluated.
        characteristics: Table of the patients, or None.
        calibration: Per horizon.
        groups: Kaplan-Meier curves by predicted risk.
        log_rank: chi-squared and p value between the groups.
        over_time: AUROC over the time since the ECG, by model.
        decision: Net benefit curves at the last horizon by name; x is the threshold.
        subgroups: Rows of the table.
        patients: Figures of single patients.
        methods: (topic, sentences).
        cautions: Sentences that the reader must see first.
        estimator: Of observed risks.
    """

    metrics: Mapping[str, Any]
    event: str
    unit: str
    persons: int
    events: int
    horizons: Mapping[str, str] = field(default_factory=dict)
    p_values: Mapping[str, float] = field(default_factory=dict)
    training_events: int | None = None
    flow: Sequence[tuple[str, str, str]] = ()
    characteristics: Table | None = None
    calibration: Sequence[CalibrationPlot] = ()
    groups: Sequence[RiskGroup] = ()
    log_rank: tuple[float, float] | None = None
    over_time: Mapping[str, LINE] = field(default_factory=dict)
    decision: Mapping[str, LINE] = field(default_factory=dict)
    subgroups: Sequence[Subgroup] = ()
    patients: Sequence[Figure] = ()
    methods: Sequence[tuple[str, str]] = ()
    cautions: Sequence[str] = ()
    estimator: str = "Kaplan-Meier"


def cell(interval: Interval | None) -> str:
    """Return an interval as a table cell, empty for None."""
    return "" if interval is None else str(interval).replace("-", "−")


def p_text(p: float) -> str:
    """Return ``p = .012``, or ``p < .001``."""
    if np.isnan(p):
        return "p not defined"
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
