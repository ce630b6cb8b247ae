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


@dataclass
class StratifiedSampler:
    """Deal the rows of every stratum evenly over the epoch's batches.

    Each batch holds every stratum (events and censored rows, classes) in the split's own
    proportion, to within one row, and batches differ in size by one row at most. Without
    `balanced` every row comes once per epoch: oversampled events would shrink the slope of the
    log-hazard to .6 to .7 (measured). Like `EpochSampler` a pure function of (seed, epoch,
    position).

    Args:
        strata: (rows,) int, the stratum of each row.
        batch_size: Rows of one global batch, over all processes together; not more, but for
            `scarce`.
        seed: Seed of every epoch.
        scarce: A stratum of which every batch holds two rows, if the split has them: batches are
            made larger for it.
        balanced: Draw as many rows of each stratum, so that rare ones come several times.

    Raises:
        InputError: No rows, or a batch size below 1.
    """

    strata: np.ndarray
    batch_size: int
    seed: int
    scarce: int | None = None
    balanced: bool = False
    steps_per_epoch: int = field(default=0, init=False)
    _cached: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find how many batches an epoch has."""
        rows = len(self.strata)
        if rows < 1:
            raise InputError("the training split has no rows")
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, not {self.batch_size}")
        self._members = [np.flatnonzero(self.strata == kind) for kind in np.unique(self.strata)]
        steps = -(-rows // self.batch_size)
        if self.scarce is not None:
            steps = max(1, min(steps, int((self.strata == self.scarce).sum()) // 2))
        self.steps_per_epoch = steps
        self.batch_size = len(self.batch(0)[1])

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's rows, stratum by stratum, each in random order; (rows,) int64."""
        if self._cached is None or self._cached[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            drawn = []
            for members in self._members:
                count = len(members)
                if self.balanced:
                    count = -(-len(self.strata) // len(self._members))
                rounds = -(-count // len(members))
                drawn += [generator.permutation(members) for _ in range(rounds - 1)]
                drawn.append(generator.permutation(members)[: count - (rounds - 1) * len(members)])
            self._cached = (epoch, np.concatenate(drawn))
        return self._cached[1]

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Return (epoch, rows) of a step counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch, self.order(epoch)[position :: self.steps_per_epoch]


def balanced_weights(strata: np.ndarray) -> np.ndarray:
    """Return (rows,) float32 weights of mean 1, the same sum in each stratum.

    What a fit without batches uses where `StratifiedSampler.balanced` would draw them.

    Args:
        strata: (rows,) int.
    """
    _, kind, count = np.unique(strata, return_inverse=True, return_counts=True)
    return (len(strata) / (len(count) * count))[kind].astype(np.float32)


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


def patient_folds(
    labels: np.ndarray, subject_id: np.ndarray, *, folds: int, seed: int = 0
) -> np.ndarray:
    """Cut rows into folds between patients, with each label spread evenly over the folds.

    Patients with the rarest labels are placed first, each into the fold that holds least of its
    rarest label and, among equals, the fewest rows.

    Args:
        labels: (rows, labels) bool.
        subject_id: (rows,) the patient of each row.
        folds: Number of folds.
        seed: Seed of the order in which patients are placed.

    Returns:
        (rows,) fold number.

    Raises:
        ValueError: There are fewer patients than folds.

    References:
        Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011.
    """
    patients, patient = np.unique(subject_id, return_inverse=True)
    if len(patients) < folds:
        raise ValueError(f"{folds} folds need as many patients, however: {len(patients)}")
    # The last column counts rows: it balances the folds' sizes like a label that everybody has.
    content = np.zeros((len(patients), labels.shape[1] + 1))
    np.add.at(content, patient, np.column_stack([labels, np.ones(len(labels))]))
    total = content.sum(0)
    rarest = np.where(content > 0, total, np.inf).argmin(1)
    order = np.random.default_rng(seed).permutation(len(patients))
    order = order[np.argsort(total[rarest[order]], kind="stable")]
    load = np.zeros((folds, content.shape[1]))
    fold_of_patient = np.zeros(len(patients), dtype=np.int64)
    for person in order:
        fold = np.lexsort((load[:, -1], load[:, rarest[person]]))[0]
        load[fold] += content[person]
        fold_of_patient[person] = fold
    return fold_of_patient[patient]
