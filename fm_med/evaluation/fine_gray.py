"""Fine and Gray's model of a few covariates: the usual rival where risks compete."""

from dataclasses import dataclass

import numpy as np
import torch

from fm_med.objectives import fine_gray_loss
from fm_med.survival.censoring import CensoringDistribution

MAX_ITERATIONS = 100


@dataclass(frozen=True)
class FineGray:
    r"""The incidence of one cause, :math:`F(t | z) = 1 - \exp(-H_0(t)\, e^{\gamma z})`.

    Attributes:
        mean: (covariates,) of the training rows.
        scale: (covariates,) standard deviations.
        coefficients: (covariates,) per standard deviation.
        time: (steps,) rising event times of the cause.
        hazard: (steps,) cumulative subdistribution hazard at the mean.
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    time: np.ndarray
    hazard: np.ndarray

    @classmethod
    def fit(
        cls, covariates: np.ndarray, *, time: np.ndarray, cause: np.ndarray, of: int
    ) -> "FineGray":
        """Maximise the partial likelihood of `fine_gray_loss`; nothing is shrunk.

        Args:
            covariates: (rows, covariates), each of which varies.
            time: (rows,) end of follow-up.
            cause: (rows,) int, 0 where censored.
            of: The cause; it occurs.
        """
        mean, scale = covariates.mean(0), covariates.std(0)
        z = torch.from_numpy((covariates - mean) / np.where(scale > 0, scale, 1.0))
        outcome = {"time": torch.from_numpy(time), "cause": torch.from_numpy(cause)}
        theta = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=MAX_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = fine_gray_loss(z @ theta, **outcome, of=of)
            value.backward()
            return value

        optimizer.step(closure)
        fitted = theta.detach().numpy()
        steps, hazard = _breslow(np.exp(z.numpy() @ fitted), time, cause, of)
        return cls(mean, np.where(scale > 0, scale, 1.0), fitted, steps, hazard)

    def log_hazard(self, covariates: np.ndarray) -> np.ndarray:
        """Return (rows,) log of the subdistribution hazard over that at the mean."""
        return (covariates - self.mean) / self.scale @ self.coefficients

    def incidence(self, covariates: np.ndarray, horizon: float) -> np.ndarray:
        """Return (rows,) the probability of the cause by a horizon."""
        step = int(np.searchsorted(self.time, horizon, side="right"))
        cumulative = self.hazard[step - 1] if step else 0.0
        return -np.expm1(-cumulative * np.exp(self.log_hazard(covariates)))


def _breslow(
    relative: np.ndarray, time: np.ndarray, cause: np.ndarray, of: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return event times and the cumulative hazard at log-hazard 0; risk sets as in the loss."""
    order = np.argsort(time, kind="stable")
    time, cause, relative = time[order], cause[order], relative[order]
    censoring = CensoringDistribution.fit(time, cause > 0)
    steps, events = np.unique(time[cause == of], return_counts=True)
    still = relative[::-1].cumsum()[::-1][np.searchsorted(time, steps, side="left")]
    other = (cause > 0) & (cause != of)
    # Who had another event stays, weighted by the chance of not being censored since.
    weighted = np.concatenate([[0.0], (relative[other] / censoring.at(time[other])).cumsum()])
    gone = weighted[np.searchsorted(time[other], steps, side="left")] * censoring.at(steps)
    return steps, np.cumsum(events / (still + gone))
