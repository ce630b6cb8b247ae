"""Survival: curves, fits and what is reported about a predicted risk. numpy and scipy only."""

from fm_med.survival.censoring import CensoringDistribution
from fm_med.survival.kaplan_meier import SurvivalCurve, kaplan_meier, survival_at

__all__ = ["CensoringDistribution", "SurvivalCurve", "kaplan_meier", "survival_at"]
