"""Processes: an Accelerator that really has them all, and a gather that carries gradients."""

import atexit
import copy
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim import Optimizer

from fm_med.errors import InputError
from fm_med.zero import ZeroAccelerator, asked_stage

Precision = Literal["auto", "no", "bf16", "fp16"]
COMPILER = "inductor"  # of `torch.compile`
Model = TypeVar("Model", bound=nn.Module)


def accelerator(*, mixed_precision: Precision = "auto", **options: Any) -> Accelerator:
    """Make the run's Accelerator, with as many processes as were launched.

    `torchrun` on a machine without an accelerator would give independent runs that each believe to
    be alone (Accelerate starts CPU processes through MPI only unless told that it is on the CPU);
    here they form one group.

    Args:
        mixed_precision: "auto" is bf16 where the device computes in it natively, else none.
        options: Handed to `accelerate.Accelerator`.

    Raises:
        InputError: The launcher started more processes than the group has, or DeepSpeed was asked
            for in a way that is not supported.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    if mixed_precision == "auto":
        mixed_precision = "bf16" if native_bf16("cpu" if on_cpu else "cuda") else "no"
    options |= {"cpu": on_cpu, "mixed_precision": mixed_precision}
    stage = asked_stage()
    made = ZeroAccelerator(stage=stage, **options) if stage else Accelerator(**options)
    if made.num_processes != launched:
        raise InputError(
            f"{launched} processes were launched but this run sees {made.num_processes}; "
            "on CPUs start them with torchrun --nproc_per_node N"
        )
    if made.is_fsdp2:  # autocast as everywhere; else norms and gradients were halved, too
        made.state.fsdp_plugin.mixed_precision_policy = None
    # All have met here: one that stops on bad input does not break another one's start.
    made.wait_for_everyone()
    atexit.register(_leave)
    return made


def _leave() -> None:
    """Leave the group of CPU processes before the interpreter ends, after all models are gone.

    A thread of gloo may still have to let go of the last gathered tensors, which takes the lock of
    the interpreter. One that ends by then aborts; and where a model in DistributedDataParallel is
    the last to hold the group, its end waits for that thread with the lock in hand, for ever.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        gc.collect()
        dist.destroy_process_group()


def prepare(
    accelerator: Accelerator, model: Model, optimizer: Optimizer, *, compiled: bool = False
) -> tuple[nn.Module, Any, Model]:
    """Prepare what is trained for the processes, and keep a model that is not spread over them.

    Parts of a sharded model cannot be called by themselves, nor saved by one process. So beside it
    a copy waits in the memory of the host, to be filled by `whole` and by `load_best`.

    Args:
        accelerator: Knows the processes.
        model: To be trained; its `encoder` is the part that is compiled.
        optimizer: Of the model's parameters.
        compiled: Have `torch.compile` make faster code of the encoder, at its first calls. Its
            weights, their names and what is saved stay the same.

    Returns:
        The model to train, its optimiser, and the model to evaluate and save: the given one, with
        the trained parameters, unless they are sharded.

    Raises:
        InputError: The encoder carries adapters that would have it compiled at every step.
    """
    twin = copy.deepcopy(model) if accelerator.is_fsdp2 else model
    if compiled:
        _compile(cast(nn.Module, model.encoder))
    trained, prepared = accelerator.prepare(model, optimizer)
    return trained, prepared, twin


def _compile(encoder: nn.Module) -> None:
    # PEFT's adapter of a bare parameter; by its name, because importing PEFT takes seconds.
    if any(type(module).__name__ == "ParamWrapper" for module in encoder.modules()):
        raise InputError(
            f"--compile: PEFT makes the adapters on stacked parameters of {type(encoder).__name__} "
            "anew at each pass, so that each would be compiled; leave out --compile or use "
            "--peft full"
        )
    encoder.compile(backend=COMPILER)


@contextmanager
def whole(accelerator: Accelerator, trained: nn.Module, twin: nn.Module) -> Iterator[None]:
    """Give the model of `prepare` that is not sharded the trained weights, and the device.

    Every process must enter; nothing happens unless the trained model is sharded.
    """
    if not accelerator.is_fsdp2:
        yield
        return
    state: dict[str, Any] = get_model_state_dict(
        trained, options=StateDictOptions(full_state_dict=True)
    )
    twin.to(accelerator.device).load_state_dict(state)
    del state
    try:
        yield
    finally:
        twin.cpu()


def needs_equal_pieces(accelerator: Accelerator) -> bool:
    """Tell whether all processes must back-propagate equally many micro-batches.

    They must where each micro-batch is sent for: weights by FSDP2, gradients by ZeRO's stage 2.
    """
    stage = accelerator.zero_stage if isinstance(accelerator, ZeroAccelerator) else 0
    return bool(accelerator.is_fsdp2) or stage == 2


def native_bf16(device: str) -> bool:
    """Tell whether a device gains by computing in bfloat16.

    Measured on CPUs (BERT-base, forward): an AMD EPYC with AVX512-BF16 was 3.3 times faster than in
    float32, an Intel Xeon with AVX512-BF16 but without AMX 1.7 times slower.

    Args:
        device: "cpu" or "cuda".
    """
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # Absent before torch 2.11: full precision then, which is right and at worst slower.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16") or capabilities.get("bf16"):  # Intel AMX, ARM
        return True
    return bool(
        capabilities.get("avx512_bf16") and "Intel" not in str(capabilities.get("cpu_name"))
    )


def gather_sizes(rows: int, device: torch.device) -> list[int]:
    """Return how many rows each process holds, in the order of their ranks."""
    if not _several():
        return [rows]
    own = torch.tensor([rows], device=device)
    sizes = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    return torch.cat(sizes).tolist()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_batch(tensor: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks, with gradients.

    `accelerator.gather` returns a tensor without gradient: a loss on it trains each process on its
    own rows only, silently (cosine of the gradient to the right one: .94).

    The backward pass sums the gradients that all processes computed for a row. When every process
    computes the same loss from the gathered rows, a row's gradient is thus `world_size` times the
    single-process one, and the mean that DDP takes over processes makes it exact again.

    Args:
        tensor: (rows, ...) of this process; the numbers of rows may differ between processes.

    Returns:
        (rows of all processes, ...); the tensor itself when there is one process.
    """
    if not _several():
        return tensor
    if tensor.requires_grad:
        return _Gather.apply(tensor)
    return _gather(tensor)[0]


def _gather(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """Gather rows without gradient; processes with fewer rows are padded on the way."""
    rows = gather_sizes(len(tensor), tensor.device)
    padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, rows)]), rows


class _Gather(torch.autograd.Function):
    """All-gather forward; all-reduce and the own slice backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        gathered, rows = _gather(tensor)
        ctx.first = sum(rows[: dist.get_rank()])
        ctx.rows = len(tensor)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.first : ctx.first + ctx.rows]
