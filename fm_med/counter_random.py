"""Random numbers that depend on (seed, epoch, row) and on nothing else.

A generator with a state gives a row other numbers when the batch is cut or ordered differently or
spread over more processes. Here every number is a hash of its own address, so a resumed, re-batched
or distributed run augments each row exactly as before. The hash is SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) on 64-bit integers, whose
arithmetic modulo 2^64 is the same on every device.
"""

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits as the unsigned `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))
_UNSIGNED = np.array([GOLDEN_GAMMA, *_MULTIPLIERS], np.int64).view(np.uint64)
_SHIFTS = np.array([30, 27, 31], np.uint64)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift without copying the sign bit (`>>` on int64 copies it)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """Return the SplitMix64 output of each state.

    Args:
        state: int64, any shape; read as 64 unsigned bits.
    """
    if state.device.type == "cpu":  # a call of NumPy takes a third of the time of one of torch
        return torch.from_numpy(_mixed_here(state.numpy().view(np.uint64)).view(np.int64))
    return _mixed(state)


def _mixed(state: Tensor) -> Tensor:
    bits = state + GOLDEN_GAMMA
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def _mixed_here(state: np.ndarray) -> np.ndarray:
    bits = state + _UNSIGNED[0]
    bits = (bits ^ (bits >> _SHIFTS[0])) * _UNSIGNED[1]
    bits = (bits ^ (bits >> _SHIFTS[1])) * _UNSIGNED[2]
    return bits ^ (bits >> _SHIFTS[2])


class RowRandom:
    """Random numbers of a batch of rows; equal (seed, epoch, row, stream) give equal numbers.

    Args:
        seed: Any integer.
        epoch: Any integer.
        rows: (batch,) int64 ids of the rows in their cohort, not their places in the batch.
    """

    def __init__(self, *, seed: int, epoch: int, rows: Tensor) -> None:
        rows = rows.to(torch.int64)
        key = splitmix64(torch.full_like(rows, _signed(seed)))
        key = splitmix64(key ^ _signed(epoch))
        self._key = splitmix64(key ^ rows)

    def _bits(self, stream: int, count: int) -> Tensor:
        """Return (batch, count) int64 hashes of one named stream."""
        key = splitmix64(self._key ^ stream)
        steps = torch.arange(count, device=key.device) * GOLDEN_GAMMA
        return splitmix64(key[:, None] + steps)

    def uniform(self, stream: int, count: int) -> Tensor:
        """Return (batch, count) float32 in [0, 1), exact multiples of 2^-24.

        Args:
            stream: Number of the purpose; two purposes never share a stream.
            count: Numbers per row.
        """
        return _shift_right(self._bits(stream, count), 40).to(torch.float32) * 2.0**-24

    def integers(self, stream: int, count: int, high: Tensor | int) -> Tensor:
        """Return (batch, count) int64 in [0, high).

        Args:
            stream: Number of the purpose; two purposes never share a stream.
            count: Numbers per row.
            high: Exclusive bound below 2^31, one or broadcastable to (batch, count).
        """
        # The top 31 bits times the bound, divided by 2^31: no float, no modulo bias worth naming.
        return (_shift_right(self._bits(stream, count), 33) * high) >> 31
