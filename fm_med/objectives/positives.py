"""Which recordings and texts of a batch belong together, block by block."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A block holds at most this many similarities: 16 MB in float32, which fits a CPU's outer cache.
BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True)
class Positives:
    """The positive pairs of a batch.

    A pair is positive when it is the pair itself or when any of the ids is equal: identical reports
    ("normal ECG") and recordings of one person are no negatives. The relation is mutual.

    Attributes:
        total: Rows of the batch.
        ids: (batch,) int64 each; report ids, subject ids.
        device: Where masks are built.
    """

    total: int
    ids: tuple[Tensor, ...]
    device: torch.device

    def mask(self, rows: slice) -> Tensor:
        """Return (rows, batch) bool, True for positives."""
        own = torch.arange(self.total, device=self.device)
        positive = own[rows, None] == own
        for values in self.ids:
            positive |= values[rows, None] == values
        return positive

    def counts(self, chunk_size: int) -> Tensor:
        """Return (batch,) how many positives each row has; at least one, itself."""
        if not self.ids:
            return torch.ones(self.total, dtype=torch.int64, device=self.device)
        if len(self.ids) == 1:
            _, group, size = self.ids[0].unique(return_inverse=True, return_counts=True)
            return size[group]
        # In place: small results in between would keep freed masks from being used again (N^2 B).
        found = torch.empty(self.total, dtype=torch.int64, device=self.device)
        for rows in blocks(self.total, chunk_size):
            found[rows] = self.mask(rows).sum(1)
        return found

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the positions of positives as (row within the block, column), few of many."""
        if not self.ids:
            own = torch.arange(self.total, device=self.device)[rows]
            return own - own[0], own
        first, second = self.mask(rows).nonzero(as_tuple=True)
        return first, second


def blocks(total: int, chunk_size: int) -> list[slice]:
    """Cut `total` rows into consecutive blocks of `chunk_size`."""
    return [slice(first, min(first + chunk_size, total)) for first in range(0, total, chunk_size)]


def default_chunk(total: int) -> int:
    """Return the rows per block that keep a block of similarities small."""
    return max(1, min(total, BLOCK_ELEMENTS // max(1, total)))
