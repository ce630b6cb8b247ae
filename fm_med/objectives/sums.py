"""Sums of exponentials: plainly where they fit into float64, else through logarithms.

Both forms have the same few operations on positive numbers, so that a likelihood is written once.
`Plain` costs one exponential per row; `Logarithms` neither overflow nor underflow.
"""

from typing import Protocol

import torch
from torch import Tensor

# Beyond this spread of logarithms exp() would underflow in float64.
WIDE = 600.0


class Form(Protocol):
    """How positive numbers are held. "Held" ones are results of the methods, others ordinary."""

    def hold(self, logarithm: Tensor) -> Tensor:
        """Hold the numbers of these logarithms, in place; the largest should be near 0."""

    def zeros(self, like: Tensor, size: int) -> Tensor:
        """Hold (size,) zeros."""

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """Add held numbers."""

    def collect(self, held: Tensor, index: Tensor, size: int) -> Tensor:
        """Hold (size,) the sums of held numbers of equal index."""

    def cumulate(self, held: Tensor) -> Tensor:
        """Hold the running sums along the last dimension."""

    def less(self, held: Tensor, share: Tensor, part: Tensor) -> Tensor:
        """Hold `held - share * part`, where share < 1 is ordinary and part <= held."""

    def divide(self, weight: Tensor, held: Tensor) -> Tensor:
        """Hold ordinary weights > 0 divided by held numbers."""

    def scale(self, weight: Tensor, held: Tensor) -> Tensor:
        """Hold ordinary weights >= 0 times held numbers."""

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the ordinary product of held numbers, in place of the second."""

    def log(self, held: Tensor) -> Tensor:
        """Return ordinary logarithms."""


class Plain:
    """Numbers held as they are."""

    def hold(self, logarithm: Tensor) -> Tensor:
        """See `Form`."""
        return logarithm.exp_()

    def zeros(self, like: Tensor, size: int) -> Tensor:
        """See `Form`."""
        return like.new_zeros(size)

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Form`."""
        return first + second

    def collect(self, held: Tensor, index: Tensor, size: int) -> Tensor:
        """See `Form`."""
        # On a CPU twice as fast as index_add_.
        return held.new_zeros(size).scatter_add_(0, index, held)

    def cumulate(self, held: Tensor) -> Tensor:
        """See `Form`."""
        return held.cumsum(-1)

    def less(self, held: Tensor, share: Tensor, part: Tensor) -> Tensor:
        """See `Form`."""
        return torch.addcmul(held, share, part, value=-1)

    def divide(self, weight: Tensor, held: Tensor) -> Tensor:
        """See `Form`."""
        return weight / held

    def scale(self, weight: Tensor, held: Tensor) -> Tensor:
        """See `Form`."""
        return weight * held

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Form`."""
        return second.mul_(first)

    def log(self, held: Tensor) -> Tensor:
        """See `Form`."""
        return held.log()


class Logarithms:
    """Numbers held as their logarithms."""

    def hold(self, logarithm: Tensor) -> Tensor:
        """See `Form`."""
        return logarithm

    def zeros(self, like: Tensor, size: int) -> Tensor:
        """See `Form`."""
        return like.new_full((size,), -torch.inf)

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Form`."""
        return torch.logaddexp(first, second)

    def collect(self, held: Tensor, index: Tensor, size: int) -> Tensor:
        """See `Form`."""
        top = self.zeros(held, size).scatter_reduce(0, index, held, "amax")
        # Where a maximum is -inf there is nothing to add; 0 avoids inf - inf.
        shift = torch.where(top.isfinite(), top, 0)
        total = torch.zeros_like(top).scatter_add_(0, index, (held - shift[index]).exp())
        return total.log() + shift

    def cumulate(self, held: Tensor) -> Tensor:
        """See `Form`."""
        return held.logcumsumexp(-1)

    def less(self, held: Tensor, share: Tensor, part: Tensor) -> Tensor:
        """See `Form`."""
        return held + torch.log1p(-share * (part - held).exp())

    def divide(self, weight: Tensor, held: Tensor) -> Tensor:
        """See `Form`."""
        return weight.log() - held

    def scale(self, weight: Tensor, held: Tensor) -> Tensor:
        """See `Form`."""
        return weight.log() + held

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Form`."""
        return second.add_(first).exp_()

    def log(self, held: Tensor) -> Tensor:
        """See `Form`."""
        return held


PLAIN, LOGARITHMS = Plain(), Logarithms()
