"""Save and resume a run exactly: after `load_checkpoint` the run goes on bit for bit.

A checkpoint is one folder, `checkpoints/step-000500`, written under a temporary name and renamed
when it is whole, with the size and SHA-256 of each file in `checkpoint.json`. Tensors are stored as
safetensors, all else as JSON: nothing is pickled.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel, gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from fm_med.atomic import atomic_folder
from fm_med.best_weights import FULL_STATE, drop_older_best, full_state, write_on_main
from fm_med.errors import InputError
from fm_med.optim import WeightAverage
from fm_med.random_state import random_state, set_random_state
from fm_med.zero import ZeroOptimizer

SCHEMA_VERSION = 1


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: Optimizer | ZeroOptimizer,
    accelerator: Accelerator,
    state: dict[str, Any],
    average: WeightAverage | None = None,
    keep: int = 2,
) -> None:
    """Write `folder/step-<step>` whole or not at all, then delete all but the newest `keep`.

    Every process must call this; the main process writes.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimiser steps done so far.
        model: The trained module, wrapped or not.
        optimizer: Its optimiser.
        accelerator: Knows the processes and the gradient scaler.
        state: What else the loop must know again (best score, ...); JSON values only.
        average: The moving average of the weights, if there is one.
        keep: Number of checkpoints to keep.

    Raises:
        InputError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    model_state = full_state(model)
    optimizer_state = _optimizer_state(model, optimizer)
    average_state = _average_state(model, average)
    random_states = gather_object([random_state()])
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "num_processes": accelerator.num_processes,
        "param_groups": optimizer_state.get("param_groups"),
        "python_random": [own["python"] for own in random_states],
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
        "state": state,
    }

    def write() -> None:
        tensors = {
            "model": model_state,
            "optimizer": _flat(optimizer_state["state"]),
            "average": average_state,
            "random": {
                f"{rank}.{name}": value
                for rank, own in enumerate(random_states)
                for name, value in own["tensors"].items()
            },
        }
        _write(folder / f"step-{step:06d}", manifest, tensors)

    write_on_main(accelerator, write, f"checkpoint {folder / f'step-{step:06d}'}")
    if accelerator.is_main_process:
        for _, old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
        drop_older_best(folder, step=_oldest_named_best(folder))
    accelerator.wait_for_everyone()


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer | ZeroOptimizer,
    accelerator: Accelerator,
    average: WeightAverage | None = None,
) -> tuple[int, dict[str, Any]]:
    """Restore weights, optimiser, gradient scaler and every random generator of this process.

    Returns:
        The number of steps done and the loop's own state, as given to `save_checkpoint`.

    Raises:
        InputError: The run had another number of processes, whose random states cannot be split.
    """
    manifest = json.loads((path / "checkpoint.json").read_text())
    if manifest["num_processes"] != accelerator.num_processes:
        raise InputError(
            f"{path} was written by {manifest['num_processes']} process(es) and this run has "
            f"{accelerator.num_processes}; resume with the same number"
        )
    model = extract_model_from_parallel(model)
    if average is not None and average.decay > 0:
        set_model_state_dict(model, load_file(path / "average.safetensors"), options=FULL_STATE)
        average.restart()
    set_model_state_dict(model, load_file(path / "model.safetensors"), options=FULL_STATE)
    optimizer_state = {
        "state": _nested(load_file(path / "optimizer.safetensors")),
        "param_groups": manifest["param_groups"],
    }
    if isinstance(optimizer, ZeroOptimizer):
        optimizer.load_full_state(optimizer_state)
    else:
        set_optimizer_state_dict(model, optimizer, optimizer_state, options=FULL_STATE)
    if accelerator.scaler and manifest["scaler"]:
        accelerator.scaler.load_state_dict(manifest["scaler"])
    rank = accelerator.process_index
    random_tensors = load_file(path / "random.safetensors")
    prefix = f"{rank}."
    mine = {k.removeprefix(prefix): v for k, v in random_tensors.items() if k.startswith(prefix)}
    set_random_state(manifest["python_random"][rank], mine)
    return manifest["step"], manifest["state"]


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the checkpoints in a folder, oldest first, whole or torn."""
    if not folder.is_dir():
        return []
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.iterdir()]
    return sorted((int(match.group(1)), path) for match, path in found if match)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; a torn one is named on stderr and passed over."""
    for _, path in reversed(list_checkpoints(folder)):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        print(f"warning: {path} is torn ({fault}); trying the one before it", file=sys.stderr)
    return None


def checkpoint_fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, or None if sizes and hashes all agree.

    Raises:
        InputError: The checkpoint is whole but of a schema that this version does not know.
    """
    try:
        manifest = json.loads((path / "checkpoint.json").read_text())
    except FileNotFoundError:
        return "checkpoint.json is missing"
    except json.JSONDecodeError:
        return "checkpoint.json is not valid JSON"
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{path} has checkpoint schema {manifest['schema_version']}; "
            f"this version reads schema {SCHEMA_VERSION}"
        )
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, {expected['bytes']} were written"
        if _sha256(file) != expected["sha256"]:
            return f"{name} does not match its hash"
    return None


def resume(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer | ZeroOptimizer,
    accelerator: Accelerator,
    average: WeightAverage | None = None,
) -> tuple[int, dict[str, Any]]:
    """Restore the newest whole checkpoint of a run; (0, {}) when it was cut before its first.

    Raises:
        InputError: As `load_checkpoint`, or the processes do not see the same checkpoints.
    """
    path = latest_checkpoint(folder)
    seen = gather_object([path and path.name])
    if len(set(seen)) > 1:
        raise InputError(
            f"the processes see different checkpoints in {folder} ({', '.join(map(str, seen))}); "
            "--output must lie in a folder that all machines share"
        )
    if path is None:
        return 0, {}
    return load_checkpoint(
        path, model=model, optimizer=optimizer, accelerator=accelerator, average=average
    )


def _oldest_named_best(folder: Path) -> int:
    """Return the step of the best weights that a run going back to its oldest checkpoint needs."""
    oldest = list_checkpoints(folder)[0][1]
    try:
        return json.loads((oldest / "checkpoint.json").read_text())["state"].get("step", 0)
    except (OSError, json.JSONDecodeError):
        return 0  # torn: keep all, a later call will delete them


def _write(
    path: Path, manifest: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Write the files of one checkpoint under a temporary name and rename the folder."""
    shutil.rmtree(path, ignore_errors=True)  # a torn one of this very step
    with atomic_folder(path) as temporary:
        manifest["files"] = {}
        for name, content in tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file(content, file)
            manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        (temporary / "checkpoint.json").write_text(json.dumps(manifest, indent=1))


def _optimizer_state(model: nn.Module, optimizer: Optimizer | ZeroOptimizer) -> dict[str, Any]:
    """Return the state of the optimiser by parameter, put together from all processes."""
    if isinstance(optimizer, ZeroOptimizer):
        return optimizer.full_state()
    inner = extract_model_from_parallel(model)
    return get_optimizer_state_dict(inner, optimizer, options=FULL_STATE)


def _average_state(model: nn.Module, average: WeightAverage | None) -> dict[str, torch.Tensor]:
    """Return the averaged weights under the names of the model's state; empty without average."""
    if average is None or average.decay == 0:
        return {}
    with average.in_place():
        return {name: value.clone() for name, value in full_state(model).items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _flat(state: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join parameter and state names: {"w": {"exp_avg": t}} -> {"w|exp_avg": t}."""
    return {
        f"{parameter}|{name}": value.contiguous()
        for parameter, values in state.items()
        for name, value in values.items()
    }


def _nested(flat: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Undo `_flat`."""
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in flat.items():
        parameter, name = key.rsplit("|", 1)
        nested.setdefault(parameter, {})[name] = value
    return nested
