"""Which recordings and texts of a batch belong together, block by block."""

import torch
from torch import Tensor

# A block holds at most this many similarities: 16 MB in float32, which fits a CPU's outer cache.
BLOCK_ELEMENTS = 2**22


class Positives:
    """The positive pairs of a batch.

    A pair is positive when it is the pair itself or when any of the ids is equal: identical reports
    ("normal ECG") and recordings of one person are no negatives. The relation is mutual. The pairs
    of a block are looked up in sorted ids, not searched among all pairs.

    Args:
        total: Rows of the batch.
        ids: (batch,) int64 each; report ids, subject ids.
        device: Where the pairs are needed.
    """

    def __init__(self, total: int, ids: tuple[Tensor, ...], device: torch.device) -> None:
        self.total = total
        own = torch.arange(total, device=device)
        self._groupings = [_Grouping(values.to(device)) for values in ids or (own,)]

    def counts(self, chunk_size: int) -> Tensor:
        """Return (batch,) how many positives each row has; at least one, itself."""
        if len(self._groupings) == 1:
            return self._groupings[0].sizes
        found = torch.empty_like(self._groupings[0].sizes)
        for rows in blocks(self.total, chunk_size):
            first, _ = self.pairs(rows)
            found[rows] = first.bincount(minlength=rows.stop - rows.start)
        return found

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the positions of positives as (row within the block, column), each pair once."""
        found: list[tuple[Tensor, Tensor]] = []
        for number, grouping in enumerate(self._groupings):
            first, second = grouping.pairs(rows)
            for earlier in self._groupings[:number]:
                new = ~earlier.together(rows.start + first, second)
                first, second = first[new], second[new]
            found.append((first, second))
        firsts, seconds = zip(*found)
        return torch.cat(firsts), torch.cat(seconds)


class _Grouping:
    """Rows with equal ids, found by sorting.

    Attributes:
        sizes: (batch,) how many rows have a row's id.
    """

    def __init__(self, ids: Tensor) -> None:
        _, self._group, size = ids.unique(return_inverse=True, return_counts=True)
        self._members = self._group.argsort(stable=True)
        self._start = (size.cumsum(0) - size)[self._group]
        self.sizes = size[self._group]

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return (row within the block, column) of all rows with equal ids."""
        sizes = self.sizes[rows]
        first = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        before = (sizes.cumsum(0) - sizes)[first]  # pairs of the rows before
        within = torch.arange(len(first), device=sizes.device) - before
        return first, self._members[self._start[rows][first] + within]

    def together(self, first: Tensor, second: Tensor) -> Tensor:
        """Tell for pairs of rows whether their ids are equal."""
        return self._group[first] == self._group[second]


def blocks(total: int, chunk_size: int) -> list[slice]:
    """Cut `total` rows into consecutive blocks of `chunk_size`."""
    return [slice(first, min(first + chunk_size, total)) for first in range(0, total, chunk_size)]


def default_chunk(total: int) -> int:
    """Return the rows per block that keep a block of similarities small."""
    return max(1, min(total, BLOCK_ELEMENTS // max(1, total)))
