"""What training minimises: pure functions of a WHOLE batch.

The caller has gathered the rows of all processes (`fm_med.distributed.gather_batch`); every loss is
an average over rows or events, so its scale does not depend on the batch size.
"""

from fm_med.objectives.cause_specific import cause_specific_loss
from fm_med.objectives.contrastive import contrastive_loss
from fm_med.objectives.cosine import cosine_loss
from fm_med.objectives.cox import cox_loss
from fm_med.objectives.discrete_time import (
    discrete_time_loss,
    discrete_time_survival,
    interval_edges,
)
from fm_med.objectives.fine_gray import fine_gray_loss
from fm_med.objectives.labels import (
    asymmetric_loss,
    bce_loss,
    cross_entropy_loss,
    focal_loss,
    huber_loss,
    squared_error_loss,
)
from fm_med.objectives.reconstruction import masked_mse_loss
from fm_med.objectives.risk_set import RiskSetPlan
from fm_med.objectives.siglip import siglip_loss

__all__ = [
    "RiskSetPlan",
    "asymmetric_loss",
    "bce_loss",
    "cause_specific_loss",
    "contrastive_loss",
    "cosine_loss",
    "cox_loss",
    "cross_entropy_loss",
    "discrete_time_loss",
    "discrete_time_survival",
    "fine_gray_loss",
    "focal_loss",
    "huber_loss",
    "interval_edges",
    "masked_mse_loss",
    "siglip_loss",
    "squared_error_loss",
]
