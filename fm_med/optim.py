"""Parameter groups and the learning-rate schedule, both plain functions."""

import math
from collections.abc import Mapping

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

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
    return float("nan") if norm is None else float(norm)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]
