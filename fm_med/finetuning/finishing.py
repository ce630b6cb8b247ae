"""After the loop: merge adapters, refit the head on the whole cohort, find what risks need."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.finetuning.centring import centre_parts
from fm_med.finetuning.encoding import encode_rows
from fm_med.finetuning.linear import fit_head
from fm_med.finetuning.results import Prediction
from fm_med.finetuning.training import Finetuning
from fm_med.heads import PredictionHead
from fm_med.lora import adapter_size, merge, save_adapter
from fm_med.probe_head import Kind, ProbeHead, fit_probe_head
from fm_med.run import Run
from fm_med.tasks import FollowUpTask, Hazard, Task

# Rows by their id, so that folds with the same frozen encoder encode each of them once.
FeatureCache = dict[int, np.ndarray]
Risks = tuple[Hazard | None, tuple[float, ...]]
HeadKind = Literal["linear"] | Kind


def pooled_features(
    tuning: Finetuning, examples: Examples, accelerator: Accelerator, cache: FeatureCache | None
) -> np.ndarray:
    """Return (rows, pooled_size) float32 features in evaluation mode and full precision.

    Args:
        tuning: Of which the encoder is used as it is now.
        examples: The rows.
        accelerator: Knows the processes.
        cache: Filled with what is not in it yet; None for an encoder that is trained.
    """
    if cache is None:
        return encode_rows(tuning.predictor.encoder, tuning.processor, examples, accelerator)
    missing = np.array([row for row, key in enumerate(examples.id) if key not in cache], np.int64)
    if len(missing):
        new = examples.take(missing)
        features = encode_rows(tuning.predictor.encoder, tuning.processor, new, accelerator)
        cache.update(zip(new.id.tolist(), features))
    return np.stack([cache[key] for key in examples.id.tolist()])


@torch.inference_mode()
def head_outputs(
    head: PredictionHead | ProbeHead, features: np.ndarray, examples: Examples
) -> np.ndarray:
    """Return the output of a head on cached features; (rows,) or (rows, outputs)."""
    device = next(head.parameters()).device
    clinical = examples.covariates(np.arange(len(examples)), device).get("clinical")
    named = head.eval()(torch.from_numpy(features).to(device), clinical)
    return named[head.config.output_name].cpu().numpy()


def refit(
    tuning: Finetuning, features: np.ndarray, held_out: np.ndarray | None, kind: HeadKind = "linear"
) -> dict[str, Any]:
    """Fit the head anew on the features of all training rows.

    Args:
        tuning: Its head is replaced by the refitted one, unless that is worse on the validation
            rows: features of a trained encoder know its training rows, so that the better head is
            chosen by rows that it did not see.
        features: Of the training rows.
        held_out: Of the validation rows; None always takes the refitted head.
        kind: "linear" with a ridge, "svm" or "logistic".

    Returns:
        What to note: the ridge or cost, and whether the refitted head was kept.
    """
    task, validation = tuning.task, tuning.validation
    refitted: Any = copy.deepcopy(tuning.predictor.head)
    if kind == "linear":
        notes = fit_head(refitted, task, tuning.fit_rows, features)
    else:
        refitted, notes = _probe(tuning, features, kind)
    if held_out is None:
        tuning.predictor.head = refitted
        return notes | {"refitted": True}
    before, after = (
        task.scores(head_outputs(head, held_out, validation), validation.targets)["validation_loss"]
        for head in (tuning.predictor.head, refitted)
    )
    if after < before:
        tuning.predictor.head = refitted
    return notes | {
        "refitted": bool(after < before),
        "validation_loss_trained_head": float(before),
        "validation_loss_refitted_head": float(after),
    }


def _probe(
    tuning: Finetuning, features: np.ndarray, kind: Kind
) -> tuple[ProbeHead, dict[str, Any]]:
    """Fit a head of scikit-learn's.

    Raises:
        InputError: Not a classification, or with clinical covariates.
    """
    task, train = tuning.task, tuning.train
    if task.name != "classification" or train.clinical.shape[1]:
        raise InputError(
            f"--head {kind} is for classes and takes no clinical covariates; use --head linear"
        )
    head, notes = fit_probe_head(
        kind,
        features,
        train.targets["label"],
        classes=len(task.classes),
        subject_id=train.subject_id,
        balanced=tuning.balanced or bool(getattr(task, "class_weight", ())),
    )
    return head.to(tuning.predictor.encoder.device), notes


@dataclass
class Finetuned:
    """A finished fit.

    Attributes:
        tuning: Its predictor is final, adapters merged.
        training: Prediction of the rows it was fitted on.
        fit: What to note about the fit.
        accelerator: Knows the processes.
        cache: As `pooled_features`.
        adapter: Folder of the adapter alone, if it was to be kept.
    """

    tuning: Finetuning
    training: Prediction
    fit: dict[str, Any]
    accelerator: Accelerator
    cache: FeatureCache | None
    adapter: Path | None

    def predict(self, examples: Examples) -> Prediction:
        """Predict for rows of the cohort; every process must call this."""
        features = pooled_features(self.tuning, examples, self.accelerator, self.cache)
        return _prediction(self.tuning, examples, features)

    def sample(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return inputs and covariates of the first rows, to check a saved model with."""
        rows, device = np.arange(min(4, len(self.tuning.train))), self.accelerator.device
        train = self.tuning.train
        clinical = torch.from_numpy(train.clinical[rows]).to(device)
        return train.inputs(rows, self.tuning.processor, device), clinical

    def risks(self, horizons: Sequence[float] | None, say: Callable[[str], None]) -> Risks:
        """Return what gives risks, and the horizons within its follow-up; (None, ()) for no events.

        Args:
            horizons: In the unit of the follow-up; None for one, three and five years.
            say: Told of horizons left out.
        """
        baseline, kept, line = baseline_of(self.tuning.task, self.training, horizons)
        if line:
            say(line)
        return baseline, kept


def finish(
    tuning: Finetuning,
    run: Run,
    cache: FeatureCache | None,
    *,
    refit_head: bool,
    head: HeadKind = "linear",
    base: tuple[str, Path] | None = None,
) -> Finetuned:
    """Merge adapters, and fit the head anew on the features of all training rows.

    Args:
        tuning: Trained, or with nothing to train but the head.
        run: Of this fit.
        cache: As `pooled_features`.
        refit_head: After a loop; without one the head is fitted here in any case.
        head: What is fitted here.
        base: Name and folder of the encoder, to keep the adapter alone; None not to.
    """
    trained, accelerator, adapter = tuning.trains, run.accelerator, None
    if tuning.adapter is not None:
        run.say(f"adapters: {adapter_size(tuning.predictor.encoder)}")
        if base is not None:
            adapter = run.folder / "adapter"
            if accelerator.is_main_process:
                save_adapter(tuning.adapter, adapter, base=base[0], base_folder=base[1])
        tuning.predictor.encoder = merge(tuning.adapter)
        tuning.adapter = None
    features = pooled_features(tuning, tuning.train, accelerator, cache)
    notes: dict[str, Any] = {}
    if not trained:
        notes = refit(tuning, features, None, head)
    elif refit_head and not tuning.predictor.head.config.hidden:
        held_out = pooled_features(tuning, tuning.validation, accelerator, cache)
        centre_parts(tuning, features, held_out)
        notes = refit(tuning, features, held_out, head)
    training = _prediction(tuning, tuning.train, features)
    return Finetuned(tuning, training, notes, accelerator, cache, adapter)


def _prediction(tuning: Finetuning, examples: Examples, features: np.ndarray) -> Prediction:
    """Return the prediction for rows, beside that of the clinical part fitted alone."""
    clinical = None
    if tuning.clinical_head is not None:
        clinical = head_outputs(tuning.clinical_head, np.zeros_like(features), examples)
    return Prediction(examples, head_outputs(tuning.predictor.head, features, examples), clinical)


def baseline_of(
    task: Task, prediction: Prediction, horizons: Sequence[float] | None
) -> tuple[Hazard | None, tuple[float, ...], str | None]:
    """Return what turns a model's outputs into risks, and the horizons within its follow-up.

    Args:
        task: Of the model.
        prediction: Of its training rows.
        horizons: In the unit of the follow-up; None for one, three and five years.

    Returns:
        Such as the baseline hazard of a survival model, horizons, and a line on horizons left out;
        (None, (), None) for tasks without follow-up.
    """
    if not isinstance(task, FollowUpTask):
        return None, (), None
    baseline = task.fit_hazard(prediction.outputs, prediction.examples.targets)
    wanted = tuple(horizons) if horizons else task.horizons
    kept = tuple(horizon for horizon in wanted if horizon <= baseline.follow_up)
    beyond = [f"{horizon:g}" for horizon in wanted if horizon > baseline.follow_up]
    line = (
        f"no risk at {', '.join(beyond)} {task.unit}: the longest follow-up of the training rows "
        f"is {baseline.follow_up:g} {task.unit}"
    )
    return baseline, kept, line if beyond else None


def thresholds(task: Task, prediction: Prediction | None) -> dict[str, float] | None:
    """Return the probability per label above which it is called, by the largest F1.

    Args:
        task: Only labels that may occur together have thresholds.
        prediction: Of the validation rows.
    """
    if task.name != "multilabel" or prediction is None:
        return None
    found = {}
    label = prediction.examples.targets["label"]
    columns = task.columns_of(prediction.outputs)
    for k, name in enumerate(task.classes):
        known = ~np.isnan(label[:, k])
        probability = columns[f"probability_{name}"][known]
        order = np.argsort(-probability, kind="stable")
        present = np.cumsum(label[known, k][order])
        if not len(order) or not present[-1]:
            found[name] = 0.5
            continue
        f1 = 2 * present / (np.arange(1, len(order) + 1) + present[-1])
        best = int(f1.argmax())
        following = probability[order][min(best + 1, len(order) - 1)]
        found[name] = float((probability[order][best] + following) / 2)
    return found
