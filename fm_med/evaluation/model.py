"""A fitted model as the evaluation sees it, and what it makes of the rows of a cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.examples import Covariate, Examples
from fm_med.heads import PredictionHead
from fm_med.modalities import modality_of
from fm_med.predictor import Predictor
from fm_med.tasks import Hazard, Task

ROWS_AT_ONCE = 128
RANDOM_SEED = 20  # of the untrained encoder's weights


@dataclass(frozen=True)
class FittedModel:
    """Everything that a saved model holds.

    Attributes:
        encoder: In evaluation mode.
        head: Likewise.
        processor: Makes the encoder's input.
        task: What is predicted.
        coding: Of the clinical covariates, in the head's order.
        baseline: What gives risks, of a task on a follow-up; None otherwise.
        training: Aggregates of the training (rows, events, epochs ...), as far as known.
    """

    encoder: PreTrainedModel
    head: PredictionHead
    processor: Any
    task: Task
    coding: Sequence[Covariate] = ()
    baseline: Hazard | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    @property
    def predictor(self) -> Predictor:
        """Encoder and head as one module, in evaluation mode."""
        return Predictor(self.encoder, self.head).eval()

    def refuse_other_input(self, cohort: Cohort) -> None:
        """Refuse a cohort of another modality than the model's.

        Raises:
            InputError: The cohort holds something else than the processor reads.
        """
        wanted = modality_of(cohort.card.modality)
        if not wanted.reads(self.processor):
            raise InputError(
                f"{cohort.path} holds {wanted.name}, but the model was trained on what "
                f"{type(self.processor).__name__} reads"
            )

    def was_fitted_on(self, cohort: Cohort, split: str) -> bool:
        """Whether the rows of a split were among those of the training, as far as known."""
        same = self.training.get("fingerprint") == cohort.fingerprint
        return same and split in self.training.get("fitted_on", ())

    def inputs(self, examples: Examples, rows: np.ndarray) -> dict[str, Tensor]:
        """Return the predictor's input of some rows, covariates included."""
        inputs = examples.inputs(rows, self.processor, self.device)
        return inputs | examples.covariates(rows, self.device)


@torch.inference_mode()
def predict(model: FittedModel, examples: Examples) -> np.ndarray:
    """Return (rows,) or (rows, classes) float64, the head's output, in the order of the rows."""
    predictor, name = model.predictor, model.task.output_name
    parts = [
        predictor(**model.inputs(examples, rows))[name].float().cpu().numpy()
        for rows in _batches(len(examples))
    ]
    return np.concatenate(parts).astype(np.float64)


@torch.inference_mode()
def encode(model: FittedModel, encoder: PreTrainedModel, examples: Examples) -> np.ndarray:
    """Return (rows, pooled_size) float32 features of an encoder that takes the model's input."""
    encoder.eval()
    parts = []
    for rows in _batches(len(examples)):
        inputs = examples.inputs(rows, model.processor, model.device)
        parts.append(encoder(**inputs).pooler_output.float().cpu().numpy())
    return np.concatenate(parts)


def untrained_encoder(model: FittedModel) -> PreTrainedModel:
    """Return an encoder of the model's kind and size with random weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        encoder = type(model.encoder)(model.encoder.config)
    return encoder.to(model.device).eval()


def _batches(rows: int) -> list[np.ndarray]:
    """Return the row numbers of each batch."""
    starts = range(0, rows, ROWS_AT_ONCE)
    return [np.arange(start, min(start + ROWS_AT_ONCE, rows)) for start in starts]
