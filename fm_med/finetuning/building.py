"""Put encoder, adapters, head and decoder together, with the clinical part fitted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel

from fm_med.errors import InputError
from fm_med.examples import Covariate, Examples
from fm_med.finetuning.choices import PeftMethod
from fm_med.finetuning.finishing import FeatureCache, pooled_features
from fm_med.finetuning.linear import fit_clinical, fit_head, set_statistics
from fm_med.finetuning.training import Finetuning
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.heads import prediction_head
from fm_med.lora import attach_lora, check_adapter
from fm_med.modalities import modality_of, modality_of_encoder
from fm_med.predictor import Predictor
from fm_med.tasks import FollowUpTask, Task


class Settings(Protocol):
    """What building reads of a recipe's settings."""

    lora_rank: Any
    lora_alpha: Any
    lora_dropout: Any
    lora_targets: list[str] | None
    head_hidden: list[int] | None
    dropout: Any
    batchwise_dropout: bool
    reconstruction_weight: Any
    imbalance: Any
    select_on: str
    augment: str


@dataclass(frozen=True)
class Job:
    """What all folds and the final fit have in common.

    Attributes:
        task: What is predicted.
        coding: Of the clinical columns.
        method: How the encoder is trained.
        is_fresh: The encoder starts with random weights.
        cache: Features of a frozen saved encoder, shared by the folds; else None.
    """

    task: Task
    coding: Sequence[Covariate]
    method: PeftMethod
    is_fresh: bool
    cache: FeatureCache | None


def prepare(
    settings: Settings,
    job: Job,
    parts: tuple[PreTrainedModel, Any],
    rows: tuple[Examples, Examples],
    accelerator: Accelerator,
    *,
    seed: int,
) -> Finetuning:
    """Make what the loop trains; the clinical part is fitted first and the network lies on top.

    Args:
        settings: The recipe's.
        job: What is to be done.
        parts: Encoder and processor; the encoder is changed.
        rows: To learn from, and to choose the best epoch by. A model of a follow-up without a loop
            chooses nothing, so that it learns from both.
        accelerator: Knows the device.
        seed: Of order and augmentation.

    Raises:
        InputError: Rows that the processor refuses, adapters that do not fit, an unknown score or
            augmentation.
    """
    (encoder, processor), (train, validation) = parts, rows
    task = job.task.fitted(train.targets)
    modality = modality_of(train.cohort.card.modality)
    device = accelerator.device
    inputs = train.inputs(_first_rows(train, processor), processor, device)
    encoder.to(device).requires_grad_(job.method == "full")
    adapter = None
    if job.method in ("lora", "dora"):
        adapter = attach_lora(
            encoder,
            "dora" if job.method == "dora" else "lora",
            rank=settings.lora_rank,
            alpha=settings.lora_alpha,
            dropout=settings.lora_dropout,
            targets=settings.lora_targets,
        )
        check_adapter(encoder, inputs)
    for part in encoder.trained_in_full() if isinstance(encoder, LateFusionModel) else ():
        part.requires_grad_(True)
    predictor = _predictor(
        settings, replace(job, task=task), encoder, processor, freeze_norms=adapter is not None
    )
    tuning = Finetuning(
        predictor=predictor.to(device),
        processor=processor,
        task=task.balanced(train.targets) if settings.imbalance == "weight" else task,
        train=train,
        validation=validation,
        adapter=adapter,
        augmentation=modality.augmentation(settings.augment, processor),
        reconstruction_weight=settings.reconstruction_weight,
        mask_name=modality.mask_name,
        select_on=settings.select_on,
        balanced=settings.imbalance == "sampler",
        seed=seed,
    )
    if not tuning.trains and isinstance(task, FollowUpTask):
        tuning.train = train.joined(validation)
    return tuning


def _first_rows(train: Examples, processor: Any) -> np.ndarray:
    """Return a few rows, of two modalities some with each: an adapter must see its input."""
    few = [np.arange(min(4, len(train)))]
    for name in getattr(processor, "presence_columns", ()):
        few.append(np.flatnonzero(train.table([name]).column(name).to_numpy())[:4])
    return np.unique(np.concatenate(few))


def warm_start(
    tuning: Finetuning, job: Job, accelerator: Accelerator, *, ridge: bool = True
) -> None:
    """Start the loop where convex fits end: the clinical part alone, then a ridge on the features.

    The clinical part is fitted unpenalised, and is kept as what the network has to add to. A
    linear head on a saved encoder starts as the best one of the frozen encoder: from a head of
    zeros the first steps distort features that were good, which costs more than adapting brings
    where events are few (Kumar et al., "Fine-Tuning can Distort Pretrained Features and
    Underperform Out-of-Distribution", ICLR 2022). Features of a new encoder will change beyond
    recognition, so that nothing is fitted on them.

    Args:
        tuning: Its head is fitted.
        job: What is to be done.
        accelerator: Knows the device.
        ridge: Fit the features, too; without, their weights start at zero.
    """
    head, features = tuning.predictor.head, None
    if tuning.trains and not job.is_fresh:
        features = pooled_features(tuning, tuning.train, accelerator, job.cache)
    set_statistics(head, tuning.train, features)
    fit_clinical(head, tuning.task, tuning.fit_rows)
    if head.config.clinical:
        tuning.clinical_head = copy.deepcopy(head)  # its features still weigh nothing
    if ridge and features is not None and not head.config.hidden:
        fit_head(head, tuning.task, tuning.fit_rows, features)
        tuning.starts_fitted = True


def _predictor(
    settings: Settings,
    job: Job,
    encoder: PreTrainedModel,
    processor: Any,
    *,
    freeze_norms: bool,
) -> Predictor:
    head = prediction_head(
        encoder,
        outputs=job.task.outputs,
        output_name=job.task.output_name,
        squeeze=job.task.squeeze,
        clinical=[covariate.name for covariate in job.coding],
        hidden=settings.head_hidden or [],
        dropout=settings.dropout,
        batchwise_dropout=settings.batchwise_dropout,
    )
    decoder = None
    if settings.reconstruction_weight > 0:
        if job.method == "none":
            raise InputError("reconstruction_weight trains the encoder, which --peft none freezes")
        decoder = modality_of_encoder(encoder).make_decoder(encoder, processor)
    return Predictor(encoder, head, decoder=decoder, freeze_norms=freeze_norms)
