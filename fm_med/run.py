"""A run's folder: resolved settings, environment, metrics as JSON lines, trackers, progress."""

import dataclasses
import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from tqdm import tqdm

from fm_med.errors import InputError
from fm_med.settings import changed_settings, save_settings

# Settings that may differ when a run is resumed: they change how long or how loudly it runs.
SAFE_TO_CHANGE = frozenset(
    {"resume", "num_epochs", "tracker", "keep_checkpoints", "checkpoint_every"}
)


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
        self.model_folder = self.folder / "model"
        self.report_folder = self.folder / "report"
        self.checkpoints = self.folder / "checkpoints"
        self._metrics = self.folder / "metrics.jsonl"
        self._tracker = tracker
        if resume:
            refuse_changes(self.folder, settings)
        accelerator.wait_for_everyone()
        if not resume:
            refuse_non_empty(self.folder)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_settings(settings, self.folder / "config.yaml")
            environment = describe_environment(accelerator)
            (self.folder / "env.json").write_text(json.dumps(environment, indent=1) + "\n")
        if tracker != "none":
            self._start_tracker(tracker, settings)

    def log(self, step: int, **values: Any) -> None:
        """Append one row to `metrics.jsonl` (main process) and send its numbers to the tracker."""
        if not self.accelerator.is_main_process:
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._tracker != "none":
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=step)

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of `metrics.jsonl` written so far."""
        if not self._metrics.exists():
            return []
        return [json.loads(line) for line in self._metrics.read_text().splitlines()]

    def rewind(self, step: int) -> None:
        """Drop the rows logged after a step: a resumed run will log them again."""
        if self.accelerator.is_main_process and self._metrics.exists():
            whole = [line for line in self._metrics.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            self._metrics.write_text("".join(f"{line}\n" for line in kept))

    def say(self, message: str) -> None:
        """Print a line of progress on the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message)

    def finish(self) -> None:
        """Close the trackers."""
        if self._tracker != "none":
            self.accelerator.end_training()

    def _start_tracker(self, tracker: str, settings: Any) -> None:
        """Start a tracker of Accelerate; without its package it would silently log nothing."""
        try:
            metadata.version(tracker)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"--tracker {tracker} needs the package {tracker}: pip install 'fm-med[{tracker}]'"
            ) from None
        flat = {
            name: value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in dataclasses.asdict(settings).items()
        }
        self.accelerator.init_trackers("fm_med", config=flat)


def refuse_non_empty(folder: Path) -> None:
    """Refuse an output that holds something: old files would mix with the new run's.

    Raises:
        InputError: The path is a file or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"output {folder} is not empty; "
            "choose another --output, or continue its run with --resume"
        )


def refuse_changes(folder: Path, settings: Any) -> None:
    """Refuse to resume with other settings than the run began with.

    Raises:
        InputError: There is no run in the folder, or a setting outside `SAFE_TO_CHANGE` differs.
    """
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise InputError(f"there is no run to resume in {folder}: it has no config.yaml")
    changed = changed_settings(settings, saved)
    refused = [
        f"{name} was {before!r} and is now {now!r}"
        for name, (before, now) in changed.items()
        if name not in SAFE_TO_CHANGE
    ]
    if refused:
        raise InputError(f"cannot resume {folder} with changed settings: {'; '.join(refused)}")


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the run: processes, device, versions."""
    cuda = accelerator.device.type == "cuda"
    packages = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "fm-med")
    return {
        "num_processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if cuda else accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in packages},
    }


class Meter:
    """A progress bar with samples/s, the share of time spent waiting for data, loss and memory.

    Silent when standard error is not a terminal and on all but the main process.
    """

    def __init__(self, accelerator: Accelerator, *, total: int, done: int) -> None:
        quiet = not (accelerator.is_main_process and sys.stderr.isatty())
        self._bar = tqdm(total=total, initial=done, disable=quiet, unit="step", smoothing=0.1)
        self._samples = 0
        self._waited = 0.0
        self._start = self._mark = time.perf_counter()

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar."""
        self._bar.close()

    def data_ready(self) -> None:
        """Tell that the batch has arrived: the time since the last step was spent waiting."""
        self._waited += time.perf_counter() - self._mark

    def step(self, *, samples: int, loss: float) -> None:
        """Count one optimiser step."""
        self._mark = time.perf_counter()
        self._samples += samples
        shown = {
            "loss": f"{loss:.3f}",
            "samples/s": f"{self.rates()['samples_per_second']:.0f}",
            "data": f"{self.rates()['data_wait']:.1%}",
        }
        if torch.cuda.is_available():
            shown["memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def rates(self) -> dict[str, float]:
        """Return samples per second and the share of time spent waiting for data so far."""
        spent = max(time.perf_counter() - self._start, 1e-9)
        return {"samples_per_second": self._samples / spent, "data_wait": self._waited / spent}
