"""Heads that scikit-learn fits and torch evaluates: support vectors and logistic regression.

A saved one is numbers in safetensors, no pickle, and its probabilities are scikit-learn's to 1e-12.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from fm_med.errors import InputError
from fm_med.sampling import patient_folds

Kind = Literal["svm", "logistic"]
COSTS = {"svm": (1.0, 10.0), "logistic": (0.001, 0.01, 0.1, 1.0)}
INNER_FOLDS = 5
# Logarithm of the probability of a class that the training rows lack.
LOWEST = -50.0


@strict
class ProbeHeadConfig(PreTrainedConfig):
    """Sizes of a probe head.

    Args:
        kind: "svm": radial kernel, one class against one other, votes calibrated by a sigmoid per
            class; "logistic": multinomial.
        inputs: Width of the features.
        outputs: Number of classes.
        present: Numbers of the classes that the training rows have, ascending.
        supports: Number of support vectors.
        gamma: Of the kernel exp(-gamma |x - y|^2).
        output_name: As of every head.
        hidden: As of every head; always none.
        clinical: As of every head; always none.
    """

    model_type = "fm_med_probe_head"

    kind: Kind = "svm"
    inputs: int = 1
    outputs: int = 2
    present: list[int] | tuple[int, ...] = (0, 1)
    supports: int = 1
    gamma: float = 1.0
    output_name: str = "logits"
    hidden: tuple[int, ...] | list[int] = ()
    clinical: tuple[str, ...] | list[str] = ()


class ProbeHead(PreTrainedModel):
    """From pooled features to logits whose softmax are calibrated probabilities; in float64.

    Shape:
        - features: (batch, inputs) -> {"logits": (batch, outputs)} float64.
    """

    config_class = ProbeHeadConfig
    base_model_prefix = "head"

    def __init__(self, config: ProbeHeadConfig) -> None:
        super().__init__(config)
        classes = len(config.present)
        shapes: dict[str, tuple[int, ...]] = {"mean": (config.inputs,), "scale": (config.inputs,)}
        if config.kind == "svm":
            pairs, curves = classes * (classes - 1) // 2, 1 if classes == 2 else classes
            shapes |= {"support": (config.supports, config.inputs)}
            shapes |= {"weight": (pairs, config.supports), "bias": (pairs,)}
            shapes |= {"slope": (curves,), "offset": (curves,)}
        else:
            shapes |= {"weight": (classes, config.inputs), "bias": (classes,)}
        for name, shape in shapes.items():
            value = torch.zeros(shape, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a file lacks."""
        if module is self:
            for parameter in self.parameters():
                init.zeros_(parameter)

    def forward(self, features: Tensor, clinical: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            features: (batch, inputs) pooled output of the encoder.
            clinical: Not used.
        """
        del clinical
        x = (features.double() - self.mean) / self.scale
        known = x @ self.weight.T + self.bias if self.config.kind == "logistic" else self._svm(x)
        logits = known.new_full((len(x), self.config.outputs), LOWEST)
        logits[:, list(self.config.present)] = known
        return {self.config.output_name: logits}

    def _svm(self, x: Tensor) -> Tensor:
        """Return the logarithms of the calibrated probabilities of the classes that are present."""
        squared = x.square().sum(1)[:, None] + self.support.square().sum(1) - 2 * x @ self.support.T
        decision = (-self.config.gamma * squared).exp() @ self.weight.T + self.bias
        if len(self.config.present) == 2:
            score = -(self.slope * decision + self.offset)
            return torch.cat([-score, score], 1).sigmoid().log().clamp(min=LOWEST)
        probability = (-(self.slope * self._votes(decision) + self.offset)).sigmoid()
        share = probability / probability.sum(1, keepdim=True)
        return share.log().clamp(min=LOWEST)

    def _votes(self, decision: Tensor) -> Tensor:
        """Return (batch, classes): won duels, and as a tie-break their summed margins."""
        classes = len(self.config.present)
        votes, margin = (decision.new_zeros(len(decision), classes) for _ in range(2))
        for pair, (first, second) in enumerate(combinations(range(classes), 2)):
            won = (decision[:, pair] >= 0).double()
            votes[:, first] += won
            votes[:, second] += 1 - won
            margin[:, first] += decision[:, pair]
            margin[:, second] -= decision[:, pair]
        return votes + margin / (3 * (margin.abs() + 1))


def fit_probe_head(
    kind: Kind,
    features: np.ndarray,
    label: np.ndarray,
    *,
    classes: int,
    subject_id: np.ndarray,
    balanced: bool = False,
) -> tuple[ProbeHead, dict[str, Any]]:
    """Fit a probe head; its cost is chosen, and an SVM calibrated, by folds between patients.

    Args:
        kind: "svm" or "logistic".
        features: (rows, inputs).
        label: (rows,) class numbers.
        classes: Of the task.
        subject_id: (rows,) the patient or smear of each row.
        balanced: Weigh the rows of a class by the inverse of its share.

    Returns:
        The head and what to note: the cost, and the accuracy of the inner folds.

    Raises:
        InputError: Fewer than two classes, or a class of fewer than two patients.
    """
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale[scale <= 1e-6] = 1.0
    x = (features.astype(np.float64) - mean) / scale
    splits = _inner_folds(label, subject_id)
    count = np.bincount(label, minlength=classes)
    weight = (1 / np.maximum(count, 1))[label] if balanced else np.ones(len(label))
    weight *= len(label) / weight.sum()
    scores = []
    for cost in COSTS[kind]:
        right = 0.0
        for train, test in splits:
            model = _estimator(kind, cost).fit(x[train], label[train], weight[train])
            right += (weight[test] * (model.predict(x[test]) == label[test])).sum()
        scores.append(right / len(label))
    best = int(np.argmax(scores))
    cost = COSTS[kind][best]
    fitted = _fit_final(kind, cost, splits, (x, label, weight))
    head = export(fitted, mean, scale, classes=classes)
    return head, {"head": kind, "cost": cost, "inner_accuracy": scores[best]}


def _fit_final(
    kind: Kind,
    cost: float,
    splits: list[tuple[np.ndarray, np.ndarray]],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Any:
    """Fit all rows; an SVM's sigmoids are fitted on the decisions of the inner folds."""
    from sklearn.calibration import CalibratedClassifierCV

    x, label, weight = rows
    model = _estimator(kind, cost)
    if kind == "svm":
        model = CalibratedClassifierCV(model, ensemble=False, cv=splits)
    return model.fit(x, label, sample_weight=weight)


def _estimator(kind: Kind, cost: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    return SVC(C=cost) if kind == "svm" else LogisticRegression(C=cost, max_iter=5000)


def _inner_folds(label: np.ndarray, subject_id: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return folds between patients of which every training part has every class.

    Raises:
        InputError: Fewer than two classes, or a class of fewer than two patients.
    """
    names, kinds = np.unique(label, return_inverse=True)
    persons = [len(np.unique(subject_id[kinds == k])) for k in range(len(names))]
    if len(names) < 2 or min(persons) < 2:
        raise InputError(
            f"an SVM or logistic head needs two classes of two patients each; class {names[0]} to "
            f"{names[-1]} have {', '.join(map(str, persons))}"
        )
    folds = min(INNER_FOLDS, *persons)
    one_hot = kinds[:, None] == np.arange(len(names))
    fold = patient_folds(one_hot, subject_id, folds=folds, seed=0)
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def export(fitted: Any, mean: np.ndarray, scale: np.ndarray, *, classes: int) -> ProbeHead:
    """Copy a fitted scikit-learn model into a head.

    Args:
        fitted: `LogisticRegression`, or `CalibratedClassifierCV(SVC(), ensemble=False)`, fitted on
            standardised features and class numbers.
        mean: (inputs,) that was subtracted from the features.
        scale: (inputs,) that they were divided by.
        classes: Of the task; the training rows may lack some.
    """
    present = [int(k) for k in fitted.classes_]
    sizes: dict[str, Any] = {"inputs": len(mean), "outputs": classes, "present": present}
    values = {"mean": mean, "scale": scale}
    if hasattr(fitted, "coef_"):
        binary = len(present) == 2
        flip = np.array([[-0.5], [0.5]]) if binary else np.ones((1, 1))
        values |= {"weight": flip * fitted.coef_, "bias": flip[:, 0] * fitted.intercept_}
        return _filled(ProbeHeadConfig(kind="logistic", **sizes), values)
    (calibrated,) = fitted.calibrated_classifiers_
    svc = calibrated.estimator
    values |= {
        "support": svc.support_vectors_,
        "weight": _duels(svc.dual_coef_, svc.n_support_),
        "bias": svc.intercept_,
        "slope": np.array([curve.a_ for curve in calibrated.calibrators]),
        "offset": np.array([curve.b_ for curve in calibrated.calibrators]),
    }
    config = ProbeHeadConfig(
        kind="svm", supports=len(svc.support_vectors_), gamma=float(svc._gamma), **sizes
    )
    return _filled(config, values)


def _duels(dual: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return (pairs, supports): of each pair of classes the weights of their support vectors.

    libsvm keeps, for the vectors of class i, the weights against the other classes in turn.
    """
    if len(counts) == 2:
        return dual
    edges = np.concatenate([[0], np.cumsum(counts)])
    weight = np.zeros((len(counts) * (len(counts) - 1) // 2, dual.shape[1]))
    for pair, (first, second) in enumerate(combinations(range(len(counts)), 2)):
        own, other = (slice(edges[k], edges[k + 1]) for k in (first, second))
        weight[pair, own] = dual[second - 1, own]
        weight[pair, other] = dual[first, other]
    return weight


@torch.no_grad()
def _filled(config: ProbeHeadConfig, values: dict[str, np.ndarray]) -> ProbeHead:
    head = ProbeHead(config).double()
    for name, value in values.items():
        head.get_parameter(name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return head.eval()
