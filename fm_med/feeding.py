"""Bring batches to the device: by pinned copies, and while the device is busy with the one before.

A GPU that waits for its next batch does nothing. What makes a batch is a function of its step
alone, so that another thread can make it ahead of time, on CUDA in a stream of its own: nothing
but the time it takes depends on it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

Batch = TypeVar("Batch")


def to_device(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Return values on a device; to CUDA through pinned memory, without waiting for the copy.

    Args:
        values: On the host. A writable array is not copied where the device is the host.
        device: Work that follows on the current stream sees the copy as finished.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # The allocator of pinned memory keeps it until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


class ReadAhead(Generic[Batch]):
    """The batch of a step, made while the step before it was taken.

    Example:
        with ReadAhead(make, end=total_steps, device=device) as ahead:
            for step in range(done, total_steps):
                train(ahead.at(step))
    """

    def __init__(
        self, make: Callable[[int], Batch], *, end: int, device: torch.device | str
    ) -> None:
        """Make nothing yet.

        Args:
            make: Returns the batch of a step: tensors on the device, perhaps in tuples and dicts,
                and anything else. Called by one thread only, with the steps in their order.
            end: No batch of this step or a later one is made ahead of time.
            device: Where the tensors lie.
        """
        self._make = make
        self._end = end
        self._next: tuple[int, Future[tuple[Batch, torch.cuda.Event | None]]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        on_cuda = torch.device(device).type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_cuda else None
        if self._stream is not None:  # after what has been made for both, such as filters
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def __enter__(self) -> Self:
        """Let the thread begin with the first step that is asked for."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the batch under way, which nobody will ask for."""
        self._thread.shutdown(cancel_futures=True)

    def at(self, step: int) -> Batch:
        """Return the batch of a step and have the following one made.

        Raises:
            Exception: What `make` raised for this step.
        """
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._made, step))
        batch, ready = self._next[1].result()
        self._next = None
        if step + 1 < self._end:
            self._next = (step + 1, self._thread.submit(self._made, step + 1))
        if ready is not None:
            user = torch.cuda.current_stream(self._stream.device if self._stream else None)
            user.wait_event(ready)
            for tensor in tensors_of(batch):
                if tensor.is_cuda:
                    tensor.record_stream(user)  # else its memory could be taken while in use
        return batch

    def _made(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return self._make(step), None
        with torch.cuda.stream(self._stream):
            batch = self._make(step)
            return batch, self._stream.record_event()


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        yield from tensors_of(tuple(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from tensors_of(part)
