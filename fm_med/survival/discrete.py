"""Absolute risk from hazards per interval of time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError


@dataclass(frozen=True)
class DiscreteHazard:
    r"""Survival of a model that gives the logit of the hazard in each interval.

    The hazard of an interval, :math:`h_j = \sigma(\text{logit}_j)`, is spread over it at a constant
    rate, so that for t in :math:`(e_{j-1}, e_j]`

    .. math:: S(t) = \prod_{i<j} (1 - h_i)\; (1 - h_j)^{(t - e_{j-1}) / (e_j - e_{j-1})} .

    After the last edge, which is the last event of the training rows, it stays what it is until the
    end of their follow-up, as a Breslow estimate does.

    Attributes:
        edges: (intervals,) rising upper ends of the intervals; the first starts at 0.
        follow_up: Longest follow-up of the training rows; there is no risk beyond it.
    """

    edges: np.ndarray
    follow_up: float

    def cumulative(self, logits: Any, times: Any) -> np.ndarray:
        """Return (rows, times) :math:`-log S(t)`; (rows,) at a single time.

        Raises:
            InputError: A time is negative or beyond the follow-up, or the intervals differ.
        """
        logits, times = np.asarray(logits, np.float64), np.asarray(times, np.float64)
        if logits.ndim != 2 or logits.shape[1] != len(self.edges):
            raise InputError(
                f"logits must be (rows, {len(self.edges)}) like the edges, not {logits.shape}"
            )
        if not ((times >= 0) & (times <= self.follow_up)).all():
            raise InputError(
                f"horizons must be 0 to {self.follow_up:g}, the longest follow-up of the training "
                f"rows, not {times.tolist()}"
            )
        starts = np.concatenate([[0.0], self.edges])
        summed = np.cumsum(np.logaddexp(0, logits), axis=1)  # -log(1 - h) = log(1 + e^logit)
        summed = np.concatenate([np.zeros((len(logits), 1)), summed], axis=1)
        within = np.minimum(times, starts[-1])
        after = np.clip(np.searchsorted(starts, within, side="left"), 1, len(starts) - 1)
        share = (within - starts[after - 1]) / (starts[after] - starts[after - 1])
        return summed[:, after - 1] + share * (summed[:, after] - summed[:, after - 1])

    def survival(self, logits: Any, times: Any) -> np.ndarray:
        """Return the probability of no event by each of `times`, shaped as `cumulative`."""
        return np.exp(-self.cumulative(logits, times))

    def risk(self, logits: Any, horizon: Any) -> np.ndarray:
        """Return the probability of the event by `horizon`, shaped as `cumulative`."""
        return -np.expm1(-self.cumulative(logits, horizon))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `from_dict` gives back the same bits."""
        return {"edges": self.edges.tolist(), "follow_up": self.follow_up}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "DiscreteHazard":
        """Read what `to_dict` wrote.

        Raises:
            InputError: A field is missing.
        """
        missing = [name for name in ("edges", "follow_up") if name not in stored]
        if missing:
            raise InputError(f"the stored intervals have no {', '.join(missing)}")
        return cls(np.array(stored["edges"], np.float64), float(stored["follow_up"]))
