"""Time to an event, by a hazard per interval of time."""

from dataclasses import dataclass, replace
from math import floor, log10
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fm_med.objectives import discrete_time_loss, interval_edges
from fm_med.survival.discrete import DiscreteHazard
from fm_med.tasks.follow_up import FollowUpTask
from fm_med.tasks.task import Targets, Tensors

MOST_INTERVALS = 10
FEWEST_EVENTS = 5  # in an interval, on average; a hazard of fewer is mostly chance


@dataclass(frozen=True)
class DiscreteTimeTask(FollowUpTask):
    """Predict the logit of the hazard in each interval; hazards need not be proportional.

    Attributes:
        edges: Upper ends of the intervals, at quantiles of the event times of the rows that a fit
            learns from (in cross-validation: of each fold's own), rounded up to three digits, so
            that they are nobody's time to the day; empty before `fitted`.
    """

    name = "discrete_time"
    output_name = "logits"
    losses = ("discrete_time",)

    edges: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """One per interval."""
        return max(1, len(self.edges))

    @property
    def squeeze(self) -> bool:
        """Never: one interval is still a column."""
        return False

    def fitted(self, targets: Targets) -> Self:
        """Choose up to ten intervals with equally many events, at least five each.

        Raises:
            InputError: There are no events.
        """
        events = int(targets["event"].sum())
        intervals = int(np.clip(events // FEWEST_EVENTS, 1, MOST_INTERVALS))
        edges = interval_edges(targets["time"], targets["event"], intervals)
        rounded = sorted({_rounded_up(edge) for edge in edges.tolist()})
        return replace(self, edges=tuple(rounded))

    def scarce(self, targets: Targets) -> int | None:  # noqa: ARG002
        """None: the loss is a mean over rows, which a batch without events estimates as well."""
        return None

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the negative log likelihood per row."""
        return discrete_time_loss(
            outputs["logits"], time=targets["time"], event=targets["event"], edges=self.edges
        )

    def ranking(self, outputs: Tensor) -> Tensor:
        """Return the log of the cumulative hazard at the last edge."""
        return functional.softplus(outputs.double()).sum(1).log()

    def columns_of(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the log of the cumulative hazard at the last edge."""
        return {"log_cumulative_hazard": self.ranking(torch.as_tensor(outputs)).numpy()}

    def fit_hazard(self, outputs: np.ndarray, targets: Targets) -> DiscreteHazard:  # noqa: ARG002
        """Return the intervals: the hazards themselves are the model's outputs."""
        follow_up = max(float(targets["time"].max()), self.edges[-1])
        return DiscreteHazard(np.array(self.edges), follow_up)

    def hazard_from(self, stored: dict[str, Any]) -> DiscreteHazard:
        """Read the intervals."""
        return DiscreteHazard.from_dict(stored)


def _rounded_up(time: float) -> float:
    """Return a positive number rounded up to three significant digits."""
    nearest = float(f"{time:.3g}")
    return (
        nearest if nearest >= time else float(f"{nearest + 10.0 ** (floor(log10(time)) - 2):.3g}")
    )
