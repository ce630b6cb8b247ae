"""A progress bar that also tells how fast samples pass and how long the run waits for data."""

import sys
import time
from types import TracebackType
from typing import Self

import torch
from accelerate import Accelerator
from tqdm import tqdm


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
