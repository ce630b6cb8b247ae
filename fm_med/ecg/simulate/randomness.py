"""Random numbers laid out so that a person's ECG does not depend on who else is simulated."""

from collections.abc import Iterable
from typing import Self

import numpy as np


class Tape:
    """One row of random numbers per person or recording, read column by column.

    Every row has its own generator, seeded by its own key. A batch is therefore computed at once
    although each of its rows is what it would be alone, in any batch, order or process.
    """

    def __init__(self, uniform: np.ndarray, normal: np.ndarray) -> None:
        """Take the numbers.

        Args:
            uniform: (rows, columns) uniform on [0, 1).
            normal: (rows, columns) standard normal.
        """
        self.rows = len(uniform)
        self._uniform = uniform
        self._normal = normal
        self._next_uniform = 0
        self._next_normal = 0

    @classmethod
    def draw(cls, generators: list[np.random.Generator], uniforms: int, normals: int) -> Self:
        """Draw a tape with one row per generator.

        Args:
            generators: One per row.
            uniforms: Number of uniform columns.
            normals: Number of normal columns.
        """
        uniform = np.empty((len(generators), uniforms))
        normal = np.empty((len(generators), normals))
        for row, generator in enumerate(generators):
            generator.random(out=uniform[row])
            generator.standard_normal(out=normal[row])
        return cls(uniform, normal)

    def uniform(self, columns: int) -> np.ndarray:
        """Return the next (rows, columns) uniform numbers."""
        start, self._next_uniform = self._next_uniform, self._next_uniform + columns
        return _columns(self._uniform, start, self._next_uniform)

    def normal(self, columns: int) -> np.ndarray:
        """Return the next (rows, columns) standard normal numbers."""
        start, self._next_normal = self._next_normal, self._next_normal + columns
        return _columns(self._normal, start, self._next_normal)


def _columns(block: np.ndarray, start: int, stop: int) -> np.ndarray:
    if stop > block.shape[1]:
        raise IndexError(f"the tape has {block.shape[1]} columns, {stop} were asked for")
    return block[:, start:stop]


def generators(keys: Iterable[tuple[int, ...]]) -> list[np.random.Generator]:
    """Return one independent generator per key of non-negative integers."""
    return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))) for key in keys]
