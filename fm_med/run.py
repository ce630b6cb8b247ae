"""A run's folder: resolved settings, environment, metrics as JSON lines, trackers, progress."""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from fm_med import checkpoint
from fm_med.atomic import atomic_file, remove_left_overs
from fm_med.environment import describe_environment, is_disk_fault, refuse_missing_tracker
from fm_med.errors import InputError
from fm_med.optim import WeightAverage
from fm_med.refusals import (
    refuse_changes,
    refuse_foreign_checkpoints,
    refuse_non_empty,
    take_pinned,
    what_must_stay,
)
from fm_med.settings import save_settings
from fm_med.usage import Usage


class Run:
    """The folder of one run and everything that is written into it while it lasts.

    Args:
        output: The folder. It must be empty or absent, unless `resume`.
        settings: The recipe's settings dataclass; saved as `config.yaml`.
        accelerator: Knows the processes; only the main one writes.
        resume: Continue the run in this folder with the same settings.
        tracker: "none", or a tracker of Accelerate beside the JSON lines.

    Raises:
        InputError: The folder is not empty, holds no run to resume, or its run had other settings.
    """

    def __init__(
        self,
        output: str | Path,
        settings: Any,
        accelerator: Accelerator,
        *,
        resume: bool = False,
        tracker: str = "none",
    ) -> None:
        self.folder = Path(output)
        self.accelerator = accelerator
        self._settings = settings
        self.model_folder = self.folder / "model"
        self.report_folder = self.folder / "report"
        self.checkpoints = self.folder / "checkpoints"
        self._metrics = self.folder / "metrics.jsonl"
        self._tracker = tracker
        self._data: dict[str, str] = {}
        self._trained: dict[str, Any] = {}
        self._keep = 1
        self._resumes = resume
        self._usage = Usage()
        if resume:
            take_pinned(self.folder, settings)
            refuse_changes(self.folder, settings)
        else:
            refuse_non_empty(self.folder)
        if tracker != "none":
            refuse_missing_tracker(tracker)
        refuse_sharding(accelerator)

    def reads(self, **content: str) -> None:
        """Tell what the run reads, by hashes of the content; kept in `env.json`.

        Raises:
            InputError: A run that is to be resumed read something else.
        """
        self._data = content
        saved = self.folder / "env.json"
        if not self._resumes or not saved.is_file():
            return
        before = json.loads(saved.read_text()).get("data", {})
        for name, value in content.items():
            if before.get(name, value) != value:
                raise InputError(
                    f"cannot resume {self.folder}: the content of its {name.replace('_', ' ')} was "
                    f"{before[name]} and is now {value}"
                )

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Write something that is not a checkpoint; a disk that refuses it is told in one line.

        Raises:
            InputError: The disk is full or not writable.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            if not is_disk_fault(error):
                raise
            raise InputError(
                f"{what} could not be written ({error}); the checkpoints in {self.checkpoints} are "
                "whole: make room and run again with --resume"
            ) from None

    def start(self, *, announce: bool = True) -> None:
        """Write `config.yaml` and `env.json`, start the tracker, tell how many processes there are.

        Apart from making the object, so that bad input found in between leaves no folder behind.
        """
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        if announce:
            print(  # by every process, so that a missing one is missed
                f"process {rank + 1} of {processes} on {platform.node()}: "
                f"{self.accelerator.device}, precision {self.accelerator.mixed_precision}",
                flush=True,
            )
        self.accelerator.wait_for_everyone()  # all have looked at the folder before it is filled
        if self.accelerator.is_main_process:
            self._write_start()
        if self._tracker != "none":
            flat = {
                name: value if isinstance(value, int | float | str | bool) else str(value)
                for name, value in dataclasses.asdict(self._settings).items()
            }
            self.accelerator.init_trackers("fm_med", config=flat)

    def _write_start(self) -> None:
        """Write `config.yaml` and `env.json`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_left_overs(self.folder)
            save_settings(self._settings, self.folder / "config.yaml")
            environment = {**describe_environment(self.accelerator), "data": self._data}
            with atomic_file(self.folder / "env.json") as temporary:
                temporary.write_text(json.dumps(environment, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"output {self.folder} cannot be written: {error}") from None

    def log(self, step: int, **values: Any) -> None:
        """Append one row to `metrics.jsonl` (main process) and send its numbers to the tracker."""
        if not self.accelerator.is_main_process:
            return
        self._usage.update()
        row = {"step": step, **{name: _json_value(value) for name, value in values.items()}}
        with self.writing(str(self._metrics)), self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._tracker != "none":
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=step)

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of `metrics.jsonl` written so far."""
        if not self._metrics.exists():
            return []
        return [json.loads(line) for line in self._metrics.read_text().splitlines()]

    def trains(
        self, model: nn.Module, optimizer: Any, average: WeightAverage, *, keep: int
    ) -> None:
        """Tell what checkpoints are made of, and how many to keep."""
        inner = getattr(optimizer, "optimizer", optimizer)  # without Accelerate's wrapper
        self._trained = {"model": model, "optimizer": inner, "average": average}
        self._keep = keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint (all processes must call); see `checkpoint.save_checkpoint`."""
        self._save(step, state, self._keep)

    def _save(self, step: int, state: dict[str, Any], keep: int) -> None:
        if self.accelerator.is_main_process and self._metrics.exists():
            with self._metrics.open("rb") as file:  # no checkpoint is ahead of the logged steps
                os.fsync(file.fileno())
        checkpoint.save_checkpoint(
            self.checkpoints,
            step=step,
            accelerator=self.accelerator,
            state={**state, "run": self._identity()},
            keep=keep,
            **self._trained,
        )

    def resume(self, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Restore the newest whole checkpoint; return the steps done and the loop's state.

        A run that was cut before its first checkpoint begins anew with the given state.
        """
        refuse_foreign_checkpoints(self.checkpoints, self._identity())
        step, saved = checkpoint.resume(
            self.checkpoints, accelerator=self.accelerator, **self._trained
        )
        self._rewind(step)
        self.say(f"resuming {self.folder} after step {step}")
        saved.pop("run", None)
        return step, saved or state

    def _identity(self) -> dict[str, Any]:
        """Return settings and content that a checkpoint must agree with to be continued."""
        identity = {**what_must_stay(self._settings), "content": self._data}
        return json.loads(json.dumps(identity))  # as it comes back from a file

    def is_finite(self, loss: float, norm: float) -> bool:
        """Tell whether a step may be taken; the same on all processes, as loss and norm are."""
        # Infinite gradients are expected with fp16: its scaler skips such a step by itself.
        return math.isfinite(loss) and (math.isfinite(norm) or self.accelerator.scaler is not None)

    def stop(
        self, step: int, state: dict[str, Any], *, loss: float, norm: float, records: list[str]
    ) -> NoReturn:
        """Save and end a run whose next step has a loss or gradient that is not a number.

        Args:
            step: Steps done before the one that failed.
            state: As for `save`.
            loss: Of the failed step.
            norm: Of its gradient.
            records: The record ids of this process's share of its batch; those of all processes
                go into `metrics.jsonl`.

        Raises:
            InputError: Always.
        """
        records = list(dict.fromkeys(gather_object(records)))
        self._save(step, state, self._keep + 1)  # an earlier one may be the better start
        self.log(step + 1, failed_loss=str(loss), failed_grad_norm=str(norm), records=records)
        more = f" and {len(records) - 16} more, see {self._metrics}" if len(records) > 16 else ""
        raise InputError(
            f"step {step + 1} has loss {loss} and gradient norm {norm}, so it was not taken; "
            f"lower --learning_rate, or look at its recordings {', '.join(records[:16])}{more}; "
            f"what came before is in {self.checkpoints / f'step-{step:06d}'}"
        )

    def _rewind(self, step: int) -> None:
        """Drop the rows logged after a step: a resumed run will log them again; all before one."""
        if self.accelerator.is_main_process and self._metrics.exists():
            whole = [line for line in self._metrics.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if step and json.loads(line)["step"] <= step]
            with atomic_file(self._metrics) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))

    def say(self, message: str) -> None:
        """Print a line of progress on the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message)

    def finish(self) -> None:
        """Note time and energy since the start in `env.json`, and close the trackers."""
        path = self.folder / "env.json"
        if self.accelerator.is_main_process and path.is_file():
            values = json.loads(path.read_text()) | self._usage.spent()
            with self.writing(str(path)), atomic_file(path) as temporary:
                temporary.write_text(json.dumps(values, indent=1) + "\n")
        # Not `end_training`, which leaves the group of processes: see `distributed.accelerator`.
        for tracker in self.accelerator.trackers:
            tracker.finish()


def refuse_sharding(accelerator: Accelerator) -> None:
    """Refuse the ways to shard a model that would break a promise of this package.

    Accelerate lets DeepSpeed step inside the backward pass, so a step could be neither checked
    before it is taken nor put together from two passes (see `fm_med.zero` for how it can); FSDP1
    has flat parameters; FSDP2's loading on one process leaves the frozen text model empty on the
    others; its recomputed activations draw another dropout (Accelerate 1.15 does not keep the
    random state).

    Raises:
        InputError: Accelerate was configured for one of these.
    """
    kind, advice = accelerator.distributed_type, "use recipes/accelerate/fsdp2.yaml"
    if kind == DistributedType.DEEPSPEED:
        raise InputError(
            "Accelerate's own DEEPSPEED is not supported, as it steps before a step can be "
            "checked: use recipes/accelerate/deepspeed.yaml with fm_med.distributed.accelerator"
        )
    if kind != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    refused = {
        "fsdp_version 1": plugin.fsdp_version == 1,
        "fsdp_cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing": plugin.activation_checkpointing,
    }
    for name, asked in refused.items():
        if asked:
            raise InputError(f"FSDP with {name} is not supported: {advice} (fsdp_version 2)")


def _json_value(value: Any) -> Any:
    """Return None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
