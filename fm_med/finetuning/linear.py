"""Fits that have one answer: the clinical part first, and a ridge head on cached features.

Whole training split, float64, no learning rate, no seed but that of the inner folds. For Cox that
is Newton's method (`fm_med.survival.fit_cox`), once per cause where risks compete; for the other
tasks L-BFGS on the task's own loss. Hazards in discrete time share their coefficients as far as the
data allow: those of an interval are their sum with departures, which are shrunk.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm_med.examples import Examples
from fm_med.heads import PredictionHead
from fm_med.sampling import patient_folds
from fm_med.survival.cox_fit import fit_cox
from fm_med.tasks import CompetingRisksTask, DiscreteTimeTask, SurvivalTask, Task

# Ridge strengths tried, in units of the summed loss; features have standard deviation 1.
PENALTIES = (1e4, 1e3, 1e2, 1e1, 1e0)
INNER_FOLDS = 5
# Keeps separable classes finite; too weak to be seen elsewhere.
LEAST_PENALTY = 1e-4
MAX_ITERATIONS = 200
# A coefficient's departure in one interval is shrunk so much more than what all intervals share: an
# interval has a tenth of the events.
DEPARTURE = 10.0


@dataclass(frozen=True)
class Coefficients:
    """A linear predictor on standardised features and covariates.

    Attributes:
        weight: (outputs, features) float64.
        clinical: (outputs, covariates) float64.
        bias: (outputs,) float64.
        penalty: Ridge of the features, one per output or one for all.
    """

    weight: np.ndarray
    clinical: np.ndarray
    bias: np.ndarray
    penalty: float | tuple[float, ...]


def set_statistics(head: PredictionHead, train: Examples, features: np.ndarray | None) -> None:
    """Give the head means and scales of the training rows.

    Args:
        head: To be changed.
        train: The training rows.
        features: (rows, inputs) of the encoder; None leaves them as they are.
    """
    if features is not None:
        head.features.set(*_mean_and_scale(features))
    if train.clinical.shape[1]:
        head.covariates.set(*_mean_and_scale(train.clinical))


def fit_clinical(head: PredictionHead, task: Task, train: Examples) -> None:
    """Fit the clinical part and the bias alone, unpenalised; the network learns on top of it."""
    z = _standardised(head, "covariates", train.clinical)
    found = _fit(task, np.zeros((len(train), 0)), z, train)
    head.output.bias.data.copy_(torch.from_numpy(found.bias))
    if z.shape[1]:
        head.clinical.weight.data.copy_(torch.from_numpy(found.clinical))


def fit_head(
    head: PredictionHead, task: Task, train: Examples, features: np.ndarray
) -> dict[str, Any]:
    """Fit a linear head on cached features: ridge on them, nothing on the clinical part.

    The ridge is chosen by cross-validation between the patients of the training rows; one of the
    choices is to leave the features out.

    Args:
        head: Without hidden layers; its statistics and weights are set.
        task: Its loss is minimised.
        train: The training rows.
        features: (rows, inputs) of the encoder in evaluation mode.

    Returns:
        What to note about the fit: the penalty, of competing risks by cause; None where the
        features are left out.

    Raises:
        ValueError: The head has hidden layers.
    """
    if head.config.hidden:
        raise ValueError("a head with hidden layers has no convex fit")
    set_statistics(head, train, features)
    x = _standardised(head, "features", features)
    z = _standardised(head, "covariates", train.clinical)
    found = _fit(task, x, z, train)
    head.set_linear(
        torch.from_numpy(found.weight),
        torch.from_numpy(found.bias),
        torch.from_numpy(found.clinical) if z.shape[1] else None,
    )
    if isinstance(found.penalty, tuple):
        return {"penalty": dict(zip(task.classes, map(_finite, found.penalty)))}
    return {"penalty": _finite(found.penalty)}


def _finite(penalty: float) -> float | None:
    return penalty if np.isfinite(penalty) else None


def _fit(task: Task, x: np.ndarray, z: np.ndarray, train: Examples) -> Coefficients:
    if isinstance(task, SurvivalTask):
        return _fit_cox(task, x, z, train, train.targets["event"])
    if isinstance(task, CompetingRisksTask):
        cause = train.targets["cause"]
        fits = [_fit_cox(task, x, z, train, cause == k + 1) for k in range(task.outputs)]
        return Coefficients(
            np.concatenate([fit.weight for fit in fits]),
            np.concatenate([fit.clinical for fit in fits]),
            np.concatenate([fit.bias for fit in fits]),
            tuple(float(np.asarray(fit.penalty)) for fit in fits),
        )
    return _fit_ridge(task, x, z, train)


def _fit_cox(
    task: Task, x: np.ndarray, z: np.ndarray, train: Examples, event: np.ndarray
) -> Coefficients:
    """Fit Cox's model of an event; a predictor without any column is constant."""
    if not x.shape[1] + z.shape[1]:
        return Coefficients(np.zeros((1, 0)), np.zeros((1, 0)), np.zeros(1), np.inf)
    fit = fit_cox(
        x if x.shape[1] else None,
        time=train.targets["time"],
        event=event,
        clinical=z if z.shape[1] else None,
        subject_id=train.subject_id,
        ties="breslow" if task.loss_name == "breslow" else "efron",
    )
    # The fit standardises once more; its own mean and scale are folded into weights and bias.
    weight = fit.coefficients / fit.scale
    bias = -np.array([weight @ fit.mean])
    return Coefficients(weight[None], fit.clinical_coefficients[None], bias, fit.penalty)


def _fit_ridge(task: Task, x: np.ndarray, z: np.ndarray, train: Examples) -> Coefficients:
    """Choose the ridge by inner folds of patients, then fit all training rows with it."""
    everything = np.arange(len(train))
    if not x.shape[1]:
        return _minimise(task, x, z, train, (everything, np.inf))
    kinds = task.strata(train.targets)
    persons = len(np.unique(train.subject_id))
    folds = min(INNER_FOLDS, persons)
    loss = np.zeros(len(PENALTIES) + 1)
    if folds > 1:
        fold = patient_folds(
            kinds[:, None] == np.unique(kinds), train.subject_id, folds=folds, seed=0
        )
        for place, penalty in enumerate((np.inf, *PENALTIES)):
            if place > 2 and loss[place - 3] < loss[place - 2] < loss[place - 1]:
                loss[place:] = np.inf  # it only gets worse, and weak ridges take the longest
                break
            for number in range(folds):
                rows, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
                fitted = _minimise(task, x, z, train, (rows, penalty))
                scores = task.scores(
                    _outputs(task, fitted, x[held_out], z[held_out]),
                    {k: v[held_out] for k, v in train.targets.items()},
                )
                loss[place] += scores["validation_loss"] * len(held_out)
    best = (np.inf, *PENALTIES)[int(np.argmin(loss))]  # the strongest of equals
    return _minimise(task, x, z, train, (everything, best))


def _minimise(
    task: Task, x: np.ndarray, z: np.ndarray, train: Examples, chosen: tuple[np.ndarray, float]
) -> Coefficients:
    """Minimise mean loss + ridge on some rows; a ridge of infinity leaves the features out."""
    rows, penalty = chosen
    used = x[rows] if np.isfinite(penalty) else np.zeros((len(rows), 0))
    columns = torch.from_numpy(np.concatenate([used, z[rows], np.ones((len(rows), 1))], 1))
    targets = {k: _double(torch.from_numpy(v[rows])) for k, v in train.targets.items()}
    shared = isinstance(task, DiscreteTimeTask)
    intervals = task.outputs if shared else 0
    ridge = _ridge((used.shape[1], z.shape[1]), penalty, intervals) / len(rows)
    theta = torch.zeros(len(ridge), task.outputs + shared, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        linear = columns @ (_whole(theta) if shared else theta)
        value = task.loss(_named(task, linear), targets) + (ridge * theta**2).sum() / 2
        value.backward()
        return value

    optimizer.step(closure)
    fitted = theta.detach()
    found = (_whole(fitted) if shared else fitted).numpy().T
    weight = np.zeros((task.outputs, x.shape[1]))
    weight[:, : used.shape[1]] = found[:, : used.shape[1]]
    scale, shift = getattr(task, "scale", 1.0), getattr(task, "mean", 0.0)
    clinical = found[:, used.shape[1] : -1]
    return Coefficients(scale * weight, scale * clinical, shift + scale * found[:, -1], penalty)


def _ridge(widths: tuple[int, int], penalty: float, intervals: int) -> Tensor:
    """Return (columns, 1) strengths, or with intervals (columns, 1 + intervals).

    Args:
        widths: Features used, covariates; the last column is the constant.
        penalty: Of the features.
        intervals: Whose parameters are a common part and each one's departure from it; 0 for none.
    """
    features, covariates = widths
    common = [penalty] * features + [LEAST_PENALTY] * covariates + [0.0]
    own = [DEPARTURE * min(penalty, PENALTIES[0])] * (features + covariates) + [0.0]
    return torch.tensor([common, *[own] * intervals], dtype=torch.float64).T.contiguous()


def _whole(theta: Tensor) -> Tensor:
    """Return (columns, intervals) of a common part and each interval's departure from it."""
    return theta[:, :1] + theta[:, 1:]


def _named(task: Task, linear: Tensor) -> dict[str, Tensor]:
    """Return the outputs that the task's loss reads, from standardised ones."""
    values = linear * getattr(task, "scale", 1.0) + getattr(task, "mean", 0.0)
    return {task.output_name: values.squeeze(-1) if task.squeeze else values}


def _outputs(task: Task, fitted: Coefficients, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    values = x @ fitted.weight.T + z @ fitted.clinical.T + fitted.bias
    return values[:, 0] if task.squeeze else values


def _double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _mean_and_scale(values: np.ndarray) -> tuple[Tensor, Tensor]:
    exact = values.astype(np.float64)
    return torch.from_numpy(exact.mean(0)), torch.from_numpy(exact.std(0))


def _standardised(head: PredictionHead, part: str, values: np.ndarray) -> np.ndarray:
    """Return values as the head's own float32 statistics standardise them, in float64."""
    if not values.shape[1]:
        return np.zeros((len(values), 0))
    statistics = getattr(head, part)
    mean, scale = (getattr(statistics, n).cpu().double().numpy() for n in ("mean", "scale"))
    return (values.astype(np.float64) - mean) / scale
