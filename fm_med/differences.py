"""What is told of rows in aggregates, and a line on how a cohort differs from a model's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

State = Literal["ok", "attention", "unknown"]


@dataclass(frozen=True)
class RowFacts:
    """What is said of each row, to be summed up over rows; names read "topic: item".

    Attributes:
        yes: (rows,) 1, 0 or NaN for unknown; summed up as a share.
        numbers: (rows,) values or NaN for unknown; summed up as quantiles.
    """

    yes: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """One thing compared.

    Attributes:
        topic: What it is about.
        model: What the model expects or was trained on.
        cohort: What the cohort holds.
        state: "unknown" where one of the two is not known.
        advice: What to do about it; "" for nothing.
    """

    topic: str
    model: str
    cohort: str
    state: State = "ok"
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


def judged(topic: str, model: str, cohort: str, advice: str) -> Difference:
    """Return a difference that deserves attention if there is an advice for it."""
    return Difference(topic, model, cohort, "attention" if advice else "ok", advice)


class Describing(Protocol):
    """What a room can tell of its rows and of its processor; a room's module `describing`."""

    def row_facts(self, table: pa.Table) -> RowFacts:
        """Return what is told of rows in aggregates.

        Args:
            table: Rows with all columns of the cohort.
        """

    def fits(self, processor: Any, card: Any, table: pa.Table) -> list[Difference]:
        """Compare what a model's processor expects with what a cohort holds.

        Args:
            processor: Of the model.
            card: The cohort's `CohortCard`.
            table: Some of its rows.
        """

    def steps(self, processor: Any) -> list[str]:
        """Return, in plain sentences, what the processor does, for who must do it elsewhere."""

    def example(self, processor: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
        """Return made-up inputs of the encoder, of the shapes, types and masks of real ones."""


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return the first names and how many more there are; "none" for none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
