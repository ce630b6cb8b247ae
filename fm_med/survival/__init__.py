"""Survival: curves, fits and what is reported about a predicted risk. numpy and scipy only."""

from fm_med.survival.baseline import BaselineHazard, breslow_baseline, stratified_baselines
from fm_med.survival.brier import brier_at, integrated_brier, scaled_brier
from fm_med.survival.calibration import Calibration, CalibrationBins, calibration_at, d_calibration
from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.competing import (
    CumulativeIncidence,
    competing_risk,
    cumulative_incidence,
    fit_cause_specific,
)
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)
from fm_med.survival.cox_fit import ConvergenceWarning, CoxFit, fit_cox
from fm_med.survival.decision import DecisionCurves, net_benefit, net_benefit_at
from fm_med.survival.discrimination import auroc_at
from fm_med.survival.kaplan_meier import SurvivalCurve, kaplan_meier, survival_at
from fm_med.survival.log_rank import log_rank
from fm_med.survival.planning import (
    FollowUpSummary,
    c_index_half_width,
    events_for_half_width,
    follow_up_summary,
)
from fm_med.survival.splines import RestrictedCubicSpline
from fm_med.survival.subgroups import SubgroupRow, age_band, subgroup_rows

__all__ = [
    "BaselineHazard",
    "Calibration",
    "CalibrationBins",
    "CensoringDistribution",
    "ConvergenceWarning",
    "CoxFit",
    "CumulativeIncidence",
    "DecisionCurves",
    "FollowUpSummary",
    "RestrictedCubicSpline",
    "SubgroupRow",
    "SurvivalCurve",
    "age_band",
    "auroc_at",
    "breslow_baseline",
    "brier_at",
    "c_index_half_width",
    "calibration_at",
    "competing_risk",
    "concordance_difference",
    "concordance_index",
    "concordance_index_uno",
    "concordance_interval",
    "cumulative_incidence",
    "d_calibration",
    "events_for_half_width",
    "fit_cause_specific",
    "fit_cox",
    "follow_up_summary",
    "integrated_brier",
    "kaplan_meier",
    "log_rank",
    "net_benefit",
    "net_benefit_at",
    "scaled_brier",
    "stratified_baselines",
    "subgroup_rows",
    "survival_at",
]
