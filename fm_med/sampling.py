"""Which rows make the batch of a step: a pure function of (seed, epoch, position).

Because nothing is drawn from a running generator, a run that stops after any step and resumes
sees exactly the rows that it would have seen, on any number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fm_med.errors import InputError


@dataclass
class EpochSampler:
    """Shuffle the rows anew each epoch and cut them into global batches.

    Args:
        rows: Number of rows of the split.
        batch_size: Rows of one global batch, over all processes together.
        seed: Seed of every epoch's permutation.
        drop_last: Leave out the rows that do not fill a batch (they differ from epoch to epoch).
            A split smaller than one batch gives one batch of all its rows in either case.

    Raises:
        InputError: No rows, or a batch size below 1.
    """

    rows: int
    batch_size: int
    seed: int
    drop_last: bool = True
    _cached: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be cut into batches."""
        if self.rows < 1:
            raise InputError("the training split has no rows")
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, not {self.batch_size}")
        self.batch_size = min(self.batch_size, self.rows)

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in one epoch."""
        whole, rest = divmod(self.rows, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's permutation of all rows; (rows,) int64."""
        if self._cached is None or self._cached[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._cached = (epoch, generator.permutation(self.rows))
        return self._cached[1]

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Return (epoch, rows) of a step counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.batch_size
        return epoch, self.order(epoch)[first : first + self.batch_size]


def refuse_batch(rows: int, world_size: int, micro_batch_size: int | None) -> None:
    """Refuse a global batch that cannot be cut as wanted, before anything is written.

    Raises:
        InputError: Fewer rows than processes, so that one would have nothing to do, or empty
            micro-batches.
    """
    if rows < world_size:
        raise InputError(
            f"a batch of {rows} rows cannot be shared by {world_size} processes; "
            "use fewer processes or a larger batch"
        )
    if micro_batch_size is not None and micro_batch_size < 1:
        raise InputError(f"micro_batch_size must be at least 1, not {micro_batch_size}")


def share(rows: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
    """Return one process's part of a global batch: contiguous, sizes differing by one at most.

    Raises:
        InputError: Fewer rows than processes.
    """
    refuse_batch(len(rows), world_size, None)
    return np.array_split(rows, world_size)[rank]


def in_order(
    rows: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[np.ndarray]:
    """Yield one process's batches of all rows once, in order, for evaluation.

    The parts of the processes are contiguous, so their results joined by rank are in row order.
    """
    mine = np.array_split(np.arange(rows), world_size)[rank]
    for first in range(0, len(mine), batch_size):
        yield mine[first : first + batch_size]
