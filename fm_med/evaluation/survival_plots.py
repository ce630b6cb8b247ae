"""The charts of a risk model's page, computed from predictions and follow-up."""

from collections.abc import Mapping, Sequence

import numpy as np

from fm_med.cohort.people import tells
from fm_med.errors import InputError
from fm_med.evaluation.survival_scores import Horizons, Outcome, RiskScore
from fm_med.examples import Examples
from fm_med.metrics import Interval
from fm_med.report.survival_figures import CalibrationPlot, RiskGroup
from fm_med.report.survival_results import BASELINES, MODEL, Subgroup
from fm_med.survival.calibration import calibration_at
from fm_med.survival.concordance import concordance_interval
from fm_med.survival.decision import net_benefit
from fm_med.survival.discrimination import auroc_at
from fm_med.survival.kaplan_meier import kaplan_meier
from fm_med.survival.log_rank import log_rank
from fm_med.survival.subgroups import age_band, subgroup_rows

Line = tuple[np.ndarray, np.ndarray]
EVENTS_PER_BIN = 5  # of a calibration plot, on average
POINTS = 30
THIRDS = ("lowest third", "middle third", "highest third")
SITE_COLUMNS = ("site", "hospital", "centre", "center")
LINES = 5  # that one chart can tell apart


def calibration_plots(
    score: RiskScore, outcome: Outcome, horizons: Horizons
) -> list[CalibrationPlot]:
    """Return predicted and observed risk at each horizon."""
    if score.hazard is None:
        return []
    plots = []
    for suffix, at in horizons.times.items():
        risk = score.risk(at)
        events = int((outcome.event & (outcome.time <= at)).sum())
        bins = int(np.clip(events // EVENTS_PER_BIN, 2, 10))
        found = calibration_at(outcome.time, outcome.event, risk, horizon=at, bins=bins)
        plots.append(
            CalibrationPlot(
                name=horizons.names[suffix],
                predicted=found.bins.predicted,
                observed=found.bins.observed,
                low=found.bins.low,
                high=found.bins.high,
                risk=risk,
                curve=found.curve,
                rows=found.bins.rows,
            )
        )
    return plots


def risk_groups(
    score: RiskScore, outcome: Outcome, reference: np.ndarray
) -> tuple[list[RiskGroup], tuple[float, float] | None]:
    """Return Kaplan-Meier curves of thirds of the risk, and the log-rank test.

    Args:
        score: The model.
        outcome: Of its rows.
        reference: (any,) log-hazards at whose thirds the groups are cut.
    """
    cuts = np.quantile(reference, [1 / 3, 2 / 3])
    number = np.searchsorted(cuts, score.log_hazard)
    groups = []
    for place, name in enumerate(THIRDS):
        rows = number == place
        if not rows.any():
            continue
        curve = kaplan_meier(outcome.time[rows], outcome.event[rows])
        ends = (curve.time, curve.survival, curve.low, curve.high)
        events = int(outcome.event[rows].sum())
        groups.append(RiskGroup(name, *ends, outcome.time[rows], events))
    if len(groups) < 2:
        return [], None
    return groups, log_rank(outcome.time, outcome.event, number)


def over_time_lines(
    scores: Sequence[RiskScore], outcome: Outcome, horizons: Horizons
) -> dict[str, Line]:
    """Return AUROC over the time since the recording, per model."""
    if not horizons.times:
        return {}
    first = float(np.quantile(outcome.time[outcome.event], 0.1))
    last = max(horizons.times.values())
    times = np.linspace(min(first, last / 2), last, POINTS)
    followed = [
        t
        for t in times.tolist()
        if (outcome.time > t).any() and (outcome.event & (outcome.time <= t)).any()
    ]
    return {
        MODEL if score.name == "model" else BASELINES.get(score.name, score.name): (
            np.array(followed),
            np.array(
                [
                    auroc_at(outcome.time, outcome.event, score.log_hazard, horizon=t)
                    for t in followed
                ]
            ),
        )
        for score in list(scores)[:LINES]
    }


def decision_lines(
    model: RiskScore, rivals: Sequence[RiskScore], outcome: Outcome, horizons: Horizons
) -> dict[str, Line]:
    """Return net benefit at the last horizon of the model, of age and sex, of all and of none."""
    if model.hazard is None or not horizons.times:
        return {}
    at = max(horizons.times.values())
    risk = model.risk(at)
    top = float(np.clip(np.quantile(risk, 0.98), 0.02, 0.9))
    thresholds = np.linspace(top / POINTS, top, POINTS)
    curves = net_benefit(outcome.time, outcome.event, risk, horizon=at, thresholds=thresholds)
    lines = {MODEL: (thresholds, curves.model)}
    for rival in rivals:
        if rival.name == "age_sex" and rival.hazard is not None:
            other = net_benefit(
                outcome.time,
                outcome.event,
                rival.risk(at),
                horizon=at,
                thresholds=thresholds,
            )
            lines[BASELINES["age_sex"]] = (thresholds, other.model)
    return lines | {
        "act on everybody": (thresholds, curves.treat_all),
        "act on nobody": (thresholds, np.zeros(POINTS)),
    }


def subgroups(score: RiskScore, outcome: Outcome, test: Examples) -> list[Subgroup]:
    """Return the C-index by sex, age band and site, as far as the cohort tells them."""

    def statistic(rows: np.ndarray) -> Interval:
        try:
            return concordance_interval(
                outcome.time[rows], outcome.event[rows], score.log_hazard[rows]
            )
        except InputError:  # no two persons of the group can be compared
            return Interval(np.nan, np.nan, np.nan, len(rows))

    rows = subgroup_rows(
        subgroup_labels(test), statistic, event=outcome.event, subject_id=outcome.subject_id
    )
    return [
        Subgroup(f"{row.variable}: {row.group}", row.persons, row.events, row.value) for row in rows
    ]


def subgroup_labels(test: Examples) -> Mapping[str, Sequence[str | None]]:
    """Return the labels by which persons are grouped."""
    known = test.cohort.splits[str(test.split[0])].column_names
    labels: dict[str, Sequence[str | None]] = {}
    people = test.table([name for name in ("age", "sex") if name in known])
    if tells(people, "sex"):
        labels["Sex"] = people.column("sex").to_pylist()
    if tells(people, "age"):
        ages = people.column("age").to_pylist()
        labels["Age"] = age_band([np.nan if age is None else age for age in ages])
    for name in SITE_COLUMNS:
        if name in known:
            values = test.table([name]).column(name).to_pylist()
            labels["Site"] = [None if value is None else str(value) for value in values]
            break
    return labels
