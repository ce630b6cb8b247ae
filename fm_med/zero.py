"""DeepSpeed's ZeRO stages 1 and 2: optimiser state, and gradients, spread over the processes.

Accelerate's own way to DeepSpeed takes the optimiser step inside `backward`, so a step could not be
checked before it is taken. Here the processes are plain ones to Accelerate, and DeepSpeed's engine
stands where DistributedDataParallel would: gradients, norm and step are asked for one by one.
(Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".)
"""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from fm_med.errors import InputError

_ADVICE = "for what recipes/accelerate/deepspeed.yaml does not offer use fsdp2.yaml"


def asked_stage() -> int:
    """Return the ZeRO stage that `accelerate launch` was configured for; 0 without DeepSpeed.

    Raises:
        InputError: DeepSpeed is not installed, or asked for something that is not supported.
    """
    if not parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return 0
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("DeepSpeed was asked for, but it is not installed: pip install deepspeed")
    asked = {
        name: os.environ.get(f"ACCELERATE_DEEPSPEED_{name}", "none")
        for name in ("CONFIG_FILE", "OFFLOAD_OPTIMIZER_DEVICE", "OFFLOAD_PARAM_DEVICE")
    }
    for name, value in asked.items():
        if value.lower() != "none":
            raise InputError(f"deepspeed_{name.lower()} {value} is not supported; {_ADVICE}")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2"):
        raise InputError(f"zero_stage must be 1 or 2, not {stage}; {_ADVICE}")
    return int(stage)


class ZeroAccelerator(Accelerator):
    """An Accelerator of plain processes that prepares a model and its optimiser with DeepSpeed.

    Args:
        stage: 1 spreads the state of the optimiser, 2 the gradients as well.
        options: Handed to `accelerate.Accelerator`.

    Raises:
        InputError: The precision needs a gradient scaler.
    """

    def __init__(self, *, stage: int, **options: Any) -> None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"  # else Accelerate would go its own way
        super().__init__(**options)
        if self.scaler is not None:
            raise InputError("DeepSpeed is supported with --mixed_precision no or bf16, not fp16")
        self.zero_stage = stage

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, "ZeroOptimizer"]:
        """Return DeepSpeed's engine, to be called like the model, and the optimiser.

        Raises:
            InputError: A trained parameter is not float32, of which the engine keeps its copy.
        """
        deepspeed = importlib.import_module("deepspeed")  # an extra, and slow to import

        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise InputError(f"DeepSpeed trains float32, but {name!r} is {parameter.dtype}")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        if self.mixed_precision == "bf16":  # inside: the engine switches an autocast around it off
            cast = torch.autocast(self.device.type, dtype=torch.bfloat16)
            model.forward = MethodType(cast(type(model).forward), model)
        config = {
            "train_micro_batch_size_per_gpu": 1,  # scales nothing: each step tells its boundary
            "gradient_accumulation_steps": 1,
            "steps_per_print": sys.maxsize,
            "zero_optimization": {"stage": self.zero_stage, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        self._engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
        self._engine.set_gradient_accumulation_boundary(True)
        return self._engine, ZeroOptimizer(self._engine)

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Back-propagate; outside `no_sync` the gradients are averaged over the processes."""
        self._engine.backward(loss, **options)

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:  # noqa: ARG002
        """Back-propagate one of several micro-batches, not the last one."""
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    def clip_grad_norm_(
        self,
        parameters: Any,  # noqa: ARG002
        max_norm: float,
        norm_type: int = 2,
    ) -> Tensor:
        """Return the norm of all gradients, inf if it is not finite; the step scales them down."""
        self._engine.optimizer.clip_grad = max_norm
        norm: Tensor = self._engine.optimizer.scaled_global_norm(norm_type)
        return norm


class ZeroOptimizer:
    """The optimiser of a DeepSpeed engine.

    Each parameter group is one flat tensor, of which a process keeps and updates its part.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._inner: Optimizer = engine.optimizer.optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups with their options, as of any optimiser."""
        return self._inner.param_groups

    def step(self) -> None:
        """Update the parameters; gradients that are not finite are left out."""
        self._engine.step()

    def zero_grad(self) -> None:
        """Do nothing: `step` has done it."""

    def full_state(self) -> dict[str, Any]:
        """Return the state of all processes by parameter, as `get_optimizer_state_dict` does.

        Every process must call this.
        """
        state: dict[str, dict[str, Tensor]] = {}
        groups = []
        for group, flat, names in self._groups():
            groups.append({**group, "params": list(names)})
            for key, own in self._inner.state[flat].items():
                values = dict.fromkeys(names, own) if key == "step" else _split(own, names)
                for name, value in values.items():
                    state.setdefault(name, {})[key] = value.cpu().clone()
        return {"state": state, "param_groups": groups}

    def load_full_state(self, saved: Mapping[str, Any]) -> None:
        """Take this process's part of a `full_state`, and of the model's present weights."""
        self._engine.optimizer.refresh_fp32_params()
        for (group, flat, names), options in zip(self._groups(), saved["param_groups"]):
            group.update({key: value for key, value in options.items() if key != "params"})
            self._inner.state.pop(flat, None)
            states = [saved["state"][name] for name in names if name in saved["state"]]
            for key in states[0] if states else ():
                values = [own[key] for own in states]
                own = values[0].clone() if key == "step" else _own_part(values, flat)
                self._inner.state[flat][key] = own

    def _groups(self) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, torch.Size]]]:
        """Yield each group, this process's part of it, and the shapes of its parameters."""
        zero = self._engine.optimizer
        known = {parameter: name for name, parameter in self._engine.module.named_parameters()}
        flats = zero.single_partition_of_fp32_groups
        for group, flat, parameters in zip(self.param_groups, flats, zero.bit16_groups):
            yield group, flat, {known[one]: one.shape for one in parameters}


def _split(own: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Join the parts of all processes and cut them into parameters."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    sizes = [shape.numel() for shape in shapes.values()]
    pieces = torch.cat(parts)[: sum(sizes)].split(sizes)  # what follows fills the last part up
    return {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces)}


def _own_part(values: list[Tensor], flat: Tensor) -> Tensor:
    """Undo `_split` for this process."""
    joined = torch.cat([value.flatten() for value in values])
    padded = nn.functional.pad(joined, (0, flat.numel() * dist.get_world_size() - len(joined)))
    return padded.split(flat.numel())[dist.get_rank()].to(flat.device, copy=True)
