"""Parameter groups, the learning-rate schedule, early stopping and averaged weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

ParameterGroup = dict[str, object]


def parameter_groups(
    modules: Mapping[str, nn.Module], *, learning_rates: Mapping[str, float], weight_decay: float
) -> list[ParameterGroup]:
    """Split trainable parameters by module and by whether weight decay acts on them.

    Vectors (biases, gains of norms, temperatures) are not decayed: pulling them towards zero
    regularises nothing and shifts the function.

    Args:
        modules: Name -> module, for example encoder and heads; a parameter belongs to one.
        learning_rates: Name -> peak learning rate.
        weight_decay: Decay of weights with two or more dimensions.

    Returns:
        Groups for a torch optimiser, each with its `name` and its `peak` learning rate.
    """
    groups: list[ParameterGroup] = []
    for name, module in modules.items():
        trainable = [p for p in module.parameters() if p.requires_grad]
        for decay, parameters in (
            (weight_decay, [p for p in trainable if p.ndim >= 2]),
            (0.0, [p for p in trainable if p.ndim < 2]),
        ):
            if parameters:
                rate = learning_rates[name]
                groups.append(
                    {
                        "params": parameters,
                        "name": name,
                        "lr": rate,
                        "peak": rate,
                        "weight_decay": decay,
                    }
                )
    return groups


def adamw(groups: list[ParameterGroup]) -> AdamW:
    """Return AdamW (decoupled weight decay, Loshchilov and Hutter 2019) over parameter groups."""
    return AdamW(groups)


@dataclass(frozen=True)
class Schedule:
    """How long a run lasts and how fast it learns: functions of steps alone.

    So nothing of it is kept in a checkpoint, and a resumed run stops where the uninterrupted one
    does.

    Attributes:
        steps_per_epoch: Steps of one epoch.
        num_epochs: Epochs, unless patience ends the run earlier.
        warmup_share: Share of all steps during which the learning rate rises.
        patience: Epochs to wait for a lower validation loss; None to wait for ever.
    """

    steps_per_epoch: int
    num_epochs: int
    warmup_share: float
    patience: int | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.num_epochs

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step."""
        return cosine_factor(step, self.total_steps, self.warmup_share)

    def ended(self, step: int, best_step: int) -> bool:
        """Tell whether a run ends after `step` steps, the lowest loss being at `best_step`."""
        if self.patience is not None and step - best_step >= self.patience * self.steps_per_epoch:
            return True
        return step >= self.total_steps


def cosine_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then half a cosine.

    The schedule is a function of the step alone, so it needs no state in a checkpoint.
    """
    warmup_steps = round(warmup_share * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to a norm of at most `max_norm`; return the norm they had."""
    norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
    if isinstance(norm, DTensor):  # of a sharded model: each process knows a part of it
        norm = norm.full_tensor()
    return float("nan") if norm is None else float(norm)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


class WeightAverage:
    """An exponential moving average of a module's trainable parameters.

    Early on the average forgets faster, min(decay, (1 + step) / (10 + step)): it would else hold
    the random initial weights for long (as in timm and TensorFlow).

    Args:
        module: The trained module, prepared for its device and processes.
        decay: Weight of the past in each update; 0 for no average, and then nothing is stored.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = [p for p in module.parameters() if p.requires_grad and decay > 0]
        self.restart()

    def restart(self) -> None:
        """Forget the past: the average is what the parameters are now."""
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self._averages, self._parameters):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the module for a while, to evaluate or save it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, parameter in zip(self._averages, self._parameters):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
