"""Absolute risk under competing risks: the baseline hazards of all causes, stored with a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.baseline import BaselineHazard, breslow_baseline
from fm_med.survival.competing import competing_risk
from fm_med.survival.risk_sets import Ties


@dataclass(frozen=True)
class CauseHazards:
    """A baseline hazard per cause; together they give the cumulative incidence of each.

    Attributes:
        baseline: By cause, in the order of the model's outputs.
    """

    baseline: Mapping[str, BaselineHazard]

    @property
    def causes(self) -> tuple[str, ...]:
        """Names in the order of the model's outputs."""
        return tuple(self.baseline)

    @property
    def follow_up(self) -> float:
        """Longest follow-up of the training rows; there is no risk beyond it."""
        return min(one.follow_up for one in self.baseline.values())

    @classmethod
    def fit(
        cls,
        log_hazard: Any,
        *,
        time: Any,
        cause: Any,
        causes: Sequence[str],
        ties: Ties = "breslow",
    ) -> "CauseHazards":
        """Return Breslow's baseline of each cause, with the other causes censored.

        Args:
            log_hazard: (rows, causes) of the training rows, by the model in evaluation mode.
            time: (rows,) end of follow-up.
            cause: (rows,) int: 0 censored, k for the k-th of `causes`.
            causes: Their names.
            ties: As in `breslow_baseline`.

        Raises:
            InputError: A cause has no event.
        """
        log_hazard, cause = np.asarray(log_hazard, np.float64), np.asarray(cause)
        return cls(
            {
                name: breslow_baseline(log_hazard[:, k], time=time, event=cause == k + 1, ties=ties)
                for k, name in enumerate(causes)
            }
        )

    def incidence(self, log_hazard: Any, horizon: float) -> np.ndarray:
        """Return (rows, causes) the probability that a cause comes by `horizon` and comes first.

        Args:
            log_hazard: (rows, causes).
            horizon: Within the follow-up.

        Raises:
            InputError: The horizon is beyond the follow-up, or the causes differ in number.
        """
        log_hazard = np.asarray(log_hazard, np.float64)
        if log_hazard.ndim != 2 or log_hazard.shape[1] != len(self.baseline):
            raise InputError(
                f"log_hazard must be (rows, {len(self.baseline)}), one column per cause, not "
                f"{log_hazard.shape}"
            )
        numbered = dict(enumerate(self.baseline.values()))
        found = competing_risk({k: log_hazard[:, k] for k in numbered}, numbered, horizon)
        return np.stack([found[k] for k in numbered], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `from_dict` gives back the same bits."""
        return {"causes": {name: one.to_dict() for name, one in self.baseline.items()}}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "CauseHazards":
        """Read what `to_dict` wrote.

        Raises:
            InputError: There are no causes, or a baseline is not whole.
        """
        if not stored.get("causes"):
            raise InputError("the stored baseline hazards have no causes")
        return cls({k: BaselineHazard.from_dict(one) for k, one in stored["causes"].items()})
