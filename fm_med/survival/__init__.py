"""Survival: curves, fits and what is reported about a predicted risk. numpy and scipy only."""

from fm_med.survival.brier import brier_at, integrated_brier, scaled_brier
from fm_med.survival.calibration import Calibration, CalibrationBins, calibration_at, d_calibration
from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)
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
from fm_med.survival.subgroups import SubgroupRow, age_band, subgroup_rows

__all__ = [
    "Calibration",
    "CalibrationBins",
    "CensoringDistribution",
    "DecisionCurves",
    "FollowUpSummary",
    "SubgroupRow",
    "SurvivalCurve",
    "age_band",
    "auroc_at",
    "brier_at",
    "c_index_half_width",
    "calibration_at",
    "concordance_difference",
    "concordance_index",
    "concordance_index_uno",
    "concordance_interval",
    "d_calibration",
    "events_for_half_width",
    "follow_up_summary",
    "integrated_brier",
    "kaplan_meier",
    "log_rank",
    "net_benefit",
    "net_benefit_at",
    "scaled_brier",
    "subgroup_rows",
    "survival_at",
]
