"""From a log-hazard to an absolute risk: the baseline hazard that is stored with a model."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from fm_med.errors import InputError
from fm_med.survival.design import matrix
from fm_med.survival.follow_up import FollowUp
from fm_med.survival.partial_likelihood import PartialLikelihood, risk_terms
from fm_med.survival.risk_sets import RiskSets, Ties

FIELDS = ("time", "relative_hazard", "variance", "drift", "covariance")


@dataclass(frozen=True)
class BaselineHazard:
    r"""Cumulative hazard as a step function of time.

    It is kept at the log-hazard `centre` of the training rows, where no exponential can overflow.

    Attributes:
        time: (steps,) rising event times, in the unit of the follow-up.
        relative_hazard: (steps,) :math:`H_c`, the cumulative hazard from that time on of a patient
            whose log-hazard is `centre`.
        variance: (steps,) of :math:`H_c` with known coefficients, :math:`\sum W / S_0^2` so far.
        drift: (steps, k) :math:`\int \bar z\, dH_c`, how the baseline answers to the coefficients
            of k covariates :math:`z` (the log-hazard itself when fitted without covariates).
        covariance: (k, k) of those coefficients.
        centre: The largest log-hazard of the training rows.
        follow_up: Longest follow-up of the training rows; there is no risk beyond it.
    """

    time: np.ndarray
    relative_hazard: np.ndarray
    variance: np.ndarray
    drift: np.ndarray
    covariance: np.ndarray
    centre: float
    follow_up: float

    @property
    def cumulative_hazard(self) -> np.ndarray:
        """(steps,) :math:`H_0`: the cumulative hazard at log-hazard 0."""
        return self.relative_hazard * np.exp(-self.centre)

    def cumulative(self, times: Any) -> np.ndarray:
        """Return :math:`H_0` at each of `times`, of their shape; 0 before the first event.

        Raises:
            InputError: A time is beyond the follow-up, where nobody was observed.
        """
        return self.cumulative_at_centre(times) * np.exp(-self.centre)

    def cumulative_at_centre(self, times: Any) -> np.ndarray:
        """Return the cumulative hazard at log-hazard `centre`, otherwise as `cumulative`."""
        return np.concatenate([[0.0], self.relative_hazard])[self._step(times)]

    def survival(self, log_hazard: Any, times: Any) -> np.ndarray:
        r"""Return (rows, times) :math:`\exp(-H_0(t) e^f)`; (rows,) at a single time.

        Raises:
            InputError: A time is beyond the follow-up.
        """
        f = np.asarray(log_hazard, dtype=np.float64) - self.centre
        baseline = self.cumulative_at_centre(times)
        if baseline.ndim:
            f = f[..., None]
        with np.errstate(over="ignore", divide="ignore"):
            # Logarithms: before the first event an infinite hazard is no risk either.
            return np.exp(-np.exp(np.log(baseline) + f))

    def risk(self, log_hazard: Any, horizon: Any) -> np.ndarray:
        """Return the probability of the event by `horizon`, shaped as in `survival`."""
        return 1.0 - self.survival(log_hazard, horizon)

    def risk_interval(
        self,
        log_hazard: Any,
        horizon: float,
        *,
        covariates: Any = None,
        level: float = 0.95,
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return (rows,) lower and upper ends of the risk by `horizon`.

        The variance of the log cumulative hazard is :math:`V(t)/H_0(t)^2 + q' \Sigma q` with
        :math:`q = \int (\bar z - z)\,dH_0 / H_0(t)`: uncertainty of the baseline and of the
        coefficients. Ends are taken on the log(-log) scale and stay within 0 and 1. With the
        defaults, coefficients are taken as given up to one common slope of the log-hazard: the
        interval is that of a Cox model on the log-hazard, too narrow for an overfitted model.

        Args:
            log_hazard: (rows,).
            horizon: One time within the follow-up.
            covariates: (rows, k), needed when the baseline was made with covariates.
            level: Coverage.

        References:
            Tsiatis, Annals of Statistics 9 (1981) 93-108; Link, Biometrics 40 (1984) 601-610; R's
            ``survfit(coxph, newdata, conf.type = "log-log")``.

        Raises:
            InputError: The horizon is beyond the follow-up, or covariates do not fit.
        """
        log_hazard = np.asarray(log_hazard, dtype=np.float64)
        z = log_hazard[:, None] if covariates is None else np.asarray(covariates, np.float64)
        if z.shape != (len(log_hazard), self.drift.shape[1]):
            raise InputError(
                f"covariates must be ({len(log_hazard)}, {self.drift.shape[1]}) as in the "
                f"baseline, not {z.shape}"
            )
        step = int(self._step(horizon)) - 1
        if step < 0:
            nothing = np.zeros(len(log_hazard))
            return nothing, nothing.copy()
        hazard = self.relative_hazard[step]
        away = self.drift[step] / hazard - z
        variance = self.variance[step] / hazard**2
        variance = variance + np.einsum("rk,kl,rl->r", away, self.covariance, away)
        reach = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance)
        log_cumulative = np.log(hazard) + log_hazard - self.centre
        low, high = (-np.expm1(-np.exp(log_cumulative + side * reach)) for side in (-1, 1))
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists for JSON; `from_dict` gives back the same bits."""
        arrays = {name: getattr(self, name).tolist() for name in FIELDS}
        return arrays | {"centre": self.centre, "follow_up": self.follow_up}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "BaselineHazard":
        """Read what `to_dict` wrote.

        Raises:
            InputError: A field is missing or lengths differ.
        """
        missing = [name for name in (*FIELDS, "centre", "follow_up") if name not in stored]
        if missing:
            raise InputError(f"the stored baseline hazard has no {', '.join(missing)}")
        arrays = {name: np.array(stored[name], dtype=np.float64) for name in FIELDS}
        lengths = {len(arrays[name]) for name in FIELDS[:4]}
        if len(lengths) > 1:
            raise InputError(f"the stored baseline hazard has steps of lengths {sorted(lengths)}")
        return cls(**arrays, centre=float(stored["centre"]), follow_up=float(stored["follow_up"]))

    def _step(self, times: Any) -> np.ndarray:
        """Return how many event times are <= each of `times`."""
        times = np.asarray(times, dtype=np.float64)
        if not (times <= self.follow_up).all():
            raise InputError(
                f"horizon {float(times.max()):g} is beyond the longest follow-up "
                f"{self.follow_up:g} of the training rows"
            )
        return np.searchsorted(self.time, times, side="right")


def breslow_baseline(
    log_hazard: Any,
    *,
    time: Any,
    event: Any,
    weight: Any = None,
    entry: Any = None,
    ties: Ties = "breslow",
    covariates: Any = None,
    covariance: Any = None,
) -> BaselineHazard:
    r"""Return the baseline hazard that belongs to log-hazards of the training rows.

    :math:`dH_0(t) = W_t / \sum_{j \in R_t} w_j e^{f_j}`, or Efron's mean over tied events. It
    equals R's ``basehaz(fit, centered = FALSE)`` with the fit's own treatment of ties.

    Args:
        log_hazard: (rows,) of the training rows, by the model as it will be used (evaluation
            mode). An offset or constant in it is taken up by the baseline.
        time: (rows,) end of follow-up.
        event: (rows,) True where it ended with the event.
        weight: (rows,) case weights.
        entry: (rows,) start of being at risk.
        ties: "breslow" or "efron", as in the fit.
        covariates: (rows, k) of a linear fit, for intervals that know all its coefficients.
        covariance: (k, k) of their coefficients (`CoxFit.covariance`).

    Raises:
        InputError: There is no event, or shapes or values do not fit.
    """
    follow_up = FollowUp.checked(time, event, weight=weight, entry=entry)
    rows = len(follow_up.time)
    f = matrix(np.reshape(log_hazard, (-1, 1)), rows, "log_hazard")[:, 0]
    counted = follow_up.weight > 0
    if not (follow_up.event & counted).any():
        raise InputError(f"a baseline hazard needs events, but none of {rows} rows has one")
    if (covariates is None) != (covariance is None):
        raise InputError("covariates and covariance are given together or not at all")
    z = f[:, None] if covariates is None else matrix(covariates, rows, "covariates")
    f, z, follow_up = f[counted], z[counted], follow_up.rows(counted)
    if covariance is None:
        covariance = _slope_variance(f, follow_up, ties)
    covariance = np.asarray(covariance, dtype=np.float64)
    if covariance.shape != (z.shape[1], z.shape[1]):
        raise InputError(f"covariance must be square for {z.shape[1]} covariates")
    return _steps(f, follow_up, ties, (z, covariance))


def stratified_baselines(
    log_hazard: Any, *, strata: Any, time: Any, event: Any, **options: Any
) -> dict[Any, BaselineHazard]:
    """Return one baseline per stratum that has an event; `options` as in `breslow_baseline`."""
    strata, event = np.asarray(strata), np.asarray(event).astype(bool)
    rowwise = {"log_hazard": log_hazard, "time": time, "event": event}
    rowwise |= {k: v for k, v in options.items() if k in ("weight", "entry", "covariates")}
    rest = {k: v for k, v in options.items() if k in ("ties", "covariance")}
    return {
        label: breslow_baseline(
            **{k: np.asarray(v)[strata == label] for k, v in rowwise.items() if v is not None},
            **rest,
        )
        for label in np.unique(strata[event]).tolist()
    }


def _slope_variance(f: np.ndarray, follow_up: FollowUp, ties: Ties) -> np.ndarray:
    """Return the variance of a common slope of the log-hazard, at slope 1."""
    centred = (f - f.mean())[:, None]
    likelihood = PartialLikelihood.build(centred, follow_up, ties=ties, offset=np.zeros(len(f)))
    information = float(likelihood.information(np.ones(1))[0, 0])
    # A constant log-hazard has no slope to be unsure of.
    return np.array([[1 / information if information > 1e-12 else 0.0]])


def _steps(
    f: np.ndarray, follow_up: FollowUp, ties: Ties, covariates: tuple[np.ndarray, np.ndarray]
) -> BaselineHazard:
    """Sum up what each event time adds."""
    z, covariance = covariates
    sets = RiskSets.build(follow_up, ties)
    terms = risk_terms(f, follow_up, sets)
    groups, group = len(sets.time), sets.term_group
    jump = np.bincount(group, sets.term_weight / terms.denominator, groups)
    square = np.bincount(group, sets.term_weight / terms.denominator**2, groups)
    total = sets.at_risk.sums(terms.hazard, z)[group]
    total = total - sets.term_share[:, None] * (sets.dead @ (terms.hazard[:, None] * z))[group]
    pull = np.zeros((groups, z.shape[1]))
    np.add.at(pull, group, (sets.term_weight / terms.denominator**2)[:, None] * total)
    # Groups are numbered by falling time.
    rising = [np.cumsum(part[::-1], axis=0) for part in (jump, square, pull)]
    return BaselineHazard(
        time=sets.time[::-1].copy(),
        relative_hazard=rising[0],
        variance=rising[1],
        drift=rising[2],
        covariance=covariance,
        centre=float(f.max()),
        follow_up=float(follow_up.time.max()),
    )
