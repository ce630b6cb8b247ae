"""Time to an event, by Cox's partial likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fm_med.objectives import cox_loss
from fm_med.survival.baseline import BaselineHazard, breslow_baseline
from fm_med.tasks.follow_up import FollowUpTask
from fm_med.tasks.task import Targets, Tensors


@dataclass(frozen=True)
class SurvivalTask(FollowUpTask):
    """Predict the log-hazard of an event."""

    name = "survival"
    output_name = "log_hazard"
    losses = ("efron", "breslow")

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the negative log partial likelihood per event, over the batch's own risk sets."""
        return cox_loss(
            outputs["log_hazard"],
            time=targets["time"],
            event=targets["event"],
            ties="breslow" if self.loss_name == "breslow" else "efron",
        )

    def fit_hazard(self, outputs: np.ndarray, targets: Targets) -> BaselineHazard:
        """Return the Breslow baseline hazard."""
        log_hazard = outputs.astype(np.float64)
        return breslow_baseline(log_hazard, time=targets["time"], event=targets["event"])

    def hazard_from(self, stored: dict[str, Any]) -> BaselineHazard:
        """Read a baseline hazard."""
        return BaselineHazard.from_dict(stored)

    def interval_columns(
        self, hazard: BaselineHazard, outputs: np.ndarray, horizons: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Return `risk_..._low` and `risk_..._high`, see `BaselineHazard.risk_interval`."""
        columns: dict[str, np.ndarray] = {}
        for at in horizons:
            low, high = hazard.risk_interval(outputs, at)
            name = f"risk_{at:g}_{self.unit}"
            columns |= {f"{name}_low": low, f"{name}_high": high}
        return columns
