"""Survival: curves, fits and what is reported about a predicted risk. numpy and scipy only."""

from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.concordance import (
    concordance_difference,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)
from fm_med.survival.discrimination import auroc_at
from fm_med.survival.kaplan_meier import SurvivalCurve, kaplan_meier, survival_at

__all__ = [
    "CensoringDistribution",
    "SurvivalCurve",
    "auroc_at",
    "concordance_difference",
    "concordance_index",
    "concordance_index_uno",
    "concordance_interval",
    "kaplan_meier",
    "survival_at",
]
