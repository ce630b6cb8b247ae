"""Which pairs of a batch belong together."""

import torch
from torch import Tensor


def positive_pairs(rows: slice, ids: list[Tensor], total: int, device: torch.device) -> Tensor:
    """Tell which (recording, text) pairs of some rows are positives.

    A pair is positive when it is the pair itself or when any of the ids is equal: identical reports
    ("normal ECG") and recordings of one person are no negatives.

    Args:
        rows: The recordings.
        ids: (batch,) int64 each; report ids, subject ids.
        total: Rows of the batch.
        device: Where to build the mask.

    Returns:
        (rows, batch) bool.
    """
    own = torch.arange(total, device=device)
    positive = own[rows, None] == own
    for values in ids:
        positive = positive | (values[rows, None] == values)
    return positive


def positive_counts(ids: list[Tensor], total: int, chunk_size: int, device: torch.device) -> Tensor:
    """Return (batch,) how many positives each row has; at least one, itself."""
    return torch.cat(
        [positive_pairs(rows, ids, total, device).sum(1) for rows in blocks(total, chunk_size)]
    )


def blocks(total: int, chunk_size: int | None) -> list[slice]:
    """Cut `total` rows into consecutive blocks of `chunk_size` (one block when None)."""
    size = total if chunk_size is None else chunk_size
    return [slice(first, min(first + size, total)) for first in range(0, total, size)]


# Blocks hold at most this many similarities: 64 MB in float32.
BLOCK_ELEMENTS = 2**24


def default_chunk(total: int) -> int:
    """Return the rows per block that keep a block of similarities small."""
    return max(1, min(total, BLOCK_ELEMENTS // max(1, total)))
