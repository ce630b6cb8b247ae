"""A fine-tuning run: batches, loss, and what is measured after each epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from fm_med.best_weights import load_best, save_best
from fm_med.coupled import RowLoss
from fm_med.distributed import whole
from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.feeding import to_device
from fm_med.finetuning.encoding import predict_rows
from fm_med.heads import PredictionHead
from fm_med.modalities import Augment
from fm_med.objectives import masked_mse_loss
from fm_med.optim import ParameterGroup, parameter_groups
from fm_med.predictor import Predictor
from fm_med.run import Run
from fm_med.sampling import StratifiedSampler, balanced_weights, share
from fm_med.tasks import ROW_WEIGHT, FollowUpTask, Task

Tensors = dict[str, Tensor]


@dataclass
class Finetuning:
    """The parts of a fine-tuning run that the loop puts together.

    Attributes:
        predictor: Encoder (perhaps with adapters), head and perhaps a decoder.
        processor: Prepares rows of the cohort.
        task: What is predicted.
        train: The rows to learn from.
        validation: The rows by which the best epoch is chosen.
        adapter: The `peft.PeftModel` around the encoder; None without adapters.
        clinical_head: The clinical part fitted alone; None without covariates.
        augmentation: Of the inputs, or None.
        reconstruction_weight: Weight of rebuilding the input before its augmentation.
        mask_name: The encoder's input that tells which channels are there, if it has one.
        select_on: The validation score by which weights are kept.
        seed: Of order and augmentation.
        starts_fitted: The head was fitted on the encoder as it is before the loop.
        balanced: As much is learnt from each stratum of labels or classes.
    """

    predictor: Predictor
    processor: Any
    task: Task
    train: Examples
    validation: Examples
    adapter: Any = None
    clinical_head: PredictionHead | None = None
    augmentation: Augment | None = None
    reconstruction_weight: float = 0.0
    mask_name: str | None = None
    select_on: str = "validation_loss"
    seed: int = 0
    starts_fitted: bool = False
    balanced: bool = False

    def __post_init__(self) -> None:
        """Refuse a score or a balance that the task does not have."""
        if self.select_on not in self.task.score_names:
            raise InputError(
                f"select_on is {self.select_on!r}; the task {self.task.name} has "
                f"{', '.join(self.task.score_names)}"
            )
        if self.balanced and isinstance(self.task, FollowUpTask):
            raise InputError(
                "imbalance 'sampler' would repeat events, which shrinks the log-hazards; a "
                "task on a follow-up takes events in the cohort's own proportion"
            )
        if self.balanced and self.task.squeeze:
            raise InputError("imbalance 'sampler' is for labels and classes, and this is a number")

    @property
    def fit_rows(self) -> Examples:
        """The training rows as fits without batches see them: weighed, where batches are drawn."""
        if not self.balanced:
            return self.train
        weight = balanced_weights(self.task.strata(self.train.targets))
        return replace(self.train, targets={**self.train.targets, ROW_WEIGHT: weight})

    @property
    def trains(self) -> bool:
        """Whether there is something that only a loop of steps can fit."""
        return not self.predictor.is_frozen or bool(self.predictor.head.config.hidden)

    def sampler(self, batch_size: int) -> StratifiedSampler:
        """Return the sampler: strata in their own proportion, for Cox two events in each batch.

        Args:
            batch_size: Over all processes.
        """
        scarce = None
        if isinstance(self.task, FollowUpTask):
            scarce = self.task.scarce(self.train.targets)
        return StratifiedSampler(
            self.task.strata(self.train.targets),
            batch_size,
            self.seed,
            scarce=scarce,
            balanced=self.balanced,
        )

    def batch(
        self, rows: np.ndarray, *, epoch: int, step: int, device: torch.device
    ) -> tuple[Tensors, Tensors]:
        """Read, process and augment this process's rows of a training batch.

        Returns:
            What the predictor sees, and what only the loss sees.
        """
        examples = self.train
        inputs = examples.inputs(rows, self.processor, device)
        targets = examples.tensors(rows, device)
        if self.predictor.decoder is not None:
            targets["clean"] = inputs[self.predictor.encoder.main_input_name]
            if self.mask_name:
                targets["clean_mask"] = inputs[self.mask_name]
        if self.augmentation is not None:
            ids = to_device(examples.id[rows], device)
            inputs = self.augmentation(inputs, seed=self.seed, epoch=epoch, step=step, rows=ids)
        return {**inputs, **examples.covariates(rows, device)}, targets

    def read(
        self, sampler: StratifiedSampler, accelerator: Accelerator, step: int
    ) -> tuple[int, np.ndarray, Tensors, Tensors]:
        """Return a step's epoch and rows of all processes, and this process's `batch`."""
        epoch, rows = sampler.batch(step)
        rank, processes = accelerator.process_index, accelerator.num_processes
        own = share(rows, rank=rank, world_size=processes)
        batch = self.batch(own, epoch=epoch, step=step, device=accelerator.device)
        return epoch, rows, *batch

    def parameter_groups(
        self, learning_rate: float, head_learning_rate: float | None, weight_decay: float
    ) -> list[ParameterGroup]:
        """Return the optimiser's groups; weight decay never acts on the clinical part.

        Args:
            learning_rate: Peak of encoder and adapters.
            head_learning_rate: Peak of head and decoder; None for the encoder's.
            weight_decay: Of weight matrices.
        """
        head, decoder = self.predictor.head, self.predictor.decoder
        clinical = [head.clinical] if head.config.clinical else []
        others = [part for part in head.children() if part not in clinical]
        modules = {
            "encoder": self.predictor.encoder,
            "head": torch.nn.ModuleList([*others, *([decoder] if decoder is not None else [])]),
            "clinical": torch.nn.ModuleList(clinical),
        }
        rate = learning_rate if head_learning_rate is None else head_learning_rate
        rates = {"encoder": learning_rate, "head": rate, "clinical": rate}
        groups = parameter_groups(modules, learning_rates=rates, weight_decay=weight_decay)
        for group in groups:
            if group["name"] == "clinical":
                group["weight_decay"] = 0.0
        return groups

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the task's loss of the whole batch."""
        return self.task.loss(outputs, targets)

    @property
    def row_loss(self) -> RowLoss | None:
        """The weighted errors of the rebuilt input, (rows,); None without a decoder."""
        return None if self.predictor.decoder is None else self._reconstruction_loss

    def _reconstruction_loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        error = masked_mse_loss(
            outputs["reconstruction"], targets["clean"], targets.get("clean_mask")
        )
        return self.reconstruction_weight * error

    def record_ids(self, rows: np.ndarray) -> list[str]:
        """Return the ids of some training rows, for messages."""
        return self.train.record_id[rows].tolist()

    def refuse_validation(self) -> None:
        """Refuse validation rows that cannot tell one epoch from another.

        Raises:
            InputError: There are no events among them.
        """
        if isinstance(self.task, FollowUpTask) and not self.validation.targets["event"].any():
            raise InputError(
                f"none of {len(self.validation)} validation rows has an event, so no epoch can be "
                "chosen; use --peft none, which needs none, or a larger validation split"
            )

    def begin(self, run: Run, model: torch.nn.Module) -> dict[str, Any]:
        """Return the best step before any was taken, and its score.

        A head that was fitted before the loop is the first candidate, on the encoder as it was:
        adapting is kept only where it is better on the validation rows. A head that starts at zero
        is none, its score is infinite.

        Args:
            run: Keeps the weights.
            model: The predictor as it is trained, perhaps sharded.
        """
        best = dict[str, Any](step=0, score=float("inf"))
        if not self.starts_fitted:
            return best
        with whole(run.accelerator, model, self.predictor):
            return self.evaluate(run, step=0, epoch=-1, best=best)

    def take_best(self, run: Run, step: int) -> None:
        """Put the weights of the best step into the predictor, on the run's device."""
        load_best(run.checkpoints, step=step, module=self.predictor)
        self.predictor.to(run.accelerator.device)
        if step == 0:
            run.say("no epoch was better than the head fitted before: the encoder stays as it was")

    def evaluate(self, run: Run, *, step: int, epoch: int, best: dict[str, Any]) -> dict[str, Any]:
        """Score the whole validation split, log it and keep the weights if they are the best.

        Returns:
            `best`, updated when `select_on` is better than ever before.

        Raises:
            InputError: The task has no score of that name.
        """
        outputs = predict_rows(
            self.predictor, self.processor, self.validation, run.accelerator, mixed_precision=True
        )
        scores = self.task.scores(outputs, self.validation.targets)
        self.predictor.train()
        run.log(step, epoch=epoch, **scores)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        run.say(f"epoch {epoch + 1}: {shown}")
        sign = -1.0 if self.select_on in self.task.higher_is_better else 1.0
        score = sign * scores[self.select_on]
        if not score < best["score"]:  # also when it is NaN
            return best
        save_best(run.checkpoints, step=step, module=self.predictor, accelerator=run.accelerator)
        return {"step": step, "score": score}
