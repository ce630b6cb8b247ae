"""The weights with the lowest validation loss so far, kept beside the checkpoints of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from fm_med.atomic import atomic_file
from fm_med.errors import InputError

FULL_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_best(folder: Path, *, step: int, module: nn.Module, accelerator: Accelerator) -> None:
    """Write the weights of the best step so far, beside the checkpoints.

    Every process must call this; the main process writes. Older ones are deleted by
    `save_checkpoint`, once no checkpoint that is kept names them.

    Raises:
        InputError: The disk is full or not writable.
    """
    path = best_path(folder, step)
    state = full_state(module)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(state, temporary)

    write_on_main(accelerator, write, f"the best weights {path}")


def load_best(folder: Path, *, step: int, module: nn.Module) -> None:
    """Put the weights of the best step into a module that is not sharded.

    Raises:
        InputError: No step was best, or the file is missing or torn.
    """
    path = best_path(folder, step)
    if step == 0 and not path.is_file():
        raise InputError("no epoch had a finite validation loss, so there are no best weights")
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the best weights {path} cannot be read ({error})") from None
    module.load_state_dict(state)


def best_path(folder: Path, step: int) -> Path:
    """Return where the weights of the best step lie."""
    return folder / f"best-{step:06d}.safetensors"


def drop_older_best(folder: Path, *, step: int) -> None:
    """Delete best weights of steps before `step`, the oldest that a kept checkpoint names."""
    for path in folder.glob("best-*.safetensors"):
        if int(path.stem.removeprefix("best-")) < step:
            path.unlink()


def full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights under the names of the unwrapped model, on the CPU, sharded or not.

    Every process must call this; with a sharded model only the main process gets them.
    """
    inner = extract_model_from_parallel(model)
    state: dict[str, Any] = get_model_state_dict(inner, options=FULL_STATE)
    return {name: value.contiguous() for name, value in state.items()}


def write_on_main(accelerator: Accelerator, write: Callable[[], None], what: str) -> None:
    """Let the main process write; all raise if it cannot, so that none waits for another.

    Raises:
        InputError: The disk is full or not writable.
    """
    fault = None
    if accelerator.is_main_process:
        try:
            write()
        except (OSError, SafetensorError) as error:
            fault = (
                f"{what} could not be written ({error}); the run's earlier checkpoints are whole: "
                "make room and run again with --resume"
            )
    for message in gather_object([fault]):
        if message is not None:
            raise InputError(message)
