"""Memory of large tensors on the host that is used again once nothing refers to it any more.

An operating system hands out large memory page by page, each filled with zeros when it is first
touched. For a batch that is read, that takes longer than the reading. So a batch lies where an
earlier one lay which nobody holds any more: no tensor, no view and no graph of gradients.
"""

import math
import threading
import weakref

import numpy as np
import torch
from torch import Tensor

# Smaller ones are kept by the C library. One batch is trained on, one is read ahead, and both may
# have an augmented copy.
_SMALLEST = 1 << 18
_BLOCKS = 4
_ALIGNMENT = 16  # values of a cache line


class Recycled:
    """Blocks of float32 memory; at most four are kept, each as large as the largest need so far."""

    def __init__(self) -> None:
        """Hold no memory yet."""
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def empty(self, *shape: int) -> Tensor:
        """Return a float32 tensor on the host whose values are whatever the memory holds.

        Args:
            shape: Of the tensor.
        """
        values = math.prod(shape)
        if values < _SMALLEST:
            return torch.empty(shape)
        with self._lock:
            free = [block for block in self._blocks if block.is_free]
            fitting = [block for block in free if values <= block.size <= 2 * values]
            if fitting:
                return fitting[0].lend(shape)
            if len(self._blocks) == _BLOCKS and not free:
                return torch.empty(shape)
            if len(self._blocks) == _BLOCKS:
                self._blocks.remove(free[0])
            self._blocks.append(_Block(values))
            return self._blocks[-1].lend(shape)


class _Block:
    """One piece of memory, lent to one tensor at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        memory = np.empty(size + _ALIGNMENT, np.float32)
        skipped = -memory.ctypes.data % (4 * _ALIGNMENT) // 4
        self._memory = memory[skipped : skipped + size]
        self._lent: weakref.ref[np.ndarray] | None = None

    @property
    def is_free(self) -> bool:
        """Tell whether no tensor lies here any more."""
        return self._lent is None or self._lent() is None

    def lend(self, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor here. Its storage, and with it each view, holds the array watched."""
        array = self._memory[: math.prod(shape)].reshape(shape)
        self._lent = weakref.ref(array)
        return torch.from_numpy(array)


_shared = Recycled()


def recycled(*shape: int) -> Tensor:
    """Return `Recycled.empty` of the memory that the whole process shares."""
    return _shared.empty(*shape)
