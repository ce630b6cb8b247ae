"""What is to be predicted from a table, and a division of the people that balances it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.cohort import COLUMN_MEANINGS
from fm_med.errors import InputError
from fm_med.sources.ecg_table import draw_splits
from fm_med.sources.table_cells import CellRules, blanked
from fm_med.sources.table_file import booleans, endings, numbers, refuse_rows

SPLITS = ("train", "validation", "test")
FIFTHS = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class OutcomeColumns:
    """Which columns of the table are predicted.

    Attributes:
        labels: Truth values, any number of which may hold.
        classes: Columns of one class per person.
        target: A number.
        time: Follow-up.
        event: True where the event was observed.
        cause: Which event it was, where there are several; instead of `event` or beside it.
        follow_up_unit: Of `time`.
    """

    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    target: str | None = None
    time: str | None = None
    event: str | None = None
    cause: str | None = None
    follow_up_unit: str | None = None

    def names(self) -> list[str]:
        """Return all columns to read."""
        single = (self.target, self.time, self.event, self.cause)
        return [*(name for name in single if name is not None), *self.labels, *self.classes]

    def check(self) -> None:
        """Refuse half a follow-up, one without unit, and names that every cohort uses.

        Raises:
            InputError: As said.
        """
        if (self.time is None) != (self.event is None and self.cause is None):
            raise InputError("a follow-up needs both a time column and an event column, or causes")
        if self.time is not None and not self.follow_up_unit:
            raise InputError(
                f"the unit of the time column {self.time!r} is not stated;"
                " give --follow_up_unit (days, weeks, months or years)"
            )
        for name in (*self.labels, *self.classes, *([self.target] if self.target else [])):
            if name in COLUMN_MEANINGS:
                raise InputError(f"an outcome cannot be named {name!r}: every cohort uses it")


def outcome_columns(source: pa.Table, columns: OutcomeColumns, rules: CellRules) -> dict[str, Any]:
    """Return the outcomes of every row of the table, blank where unknown.

    Raises:
        InputError: A cell is not of its kind, or a follow-up is negative.
    """
    declared = {name: blanked(source.column(name), name, rules) for name in columns.names()}
    cells = pa.table(declared)
    found: dict[str, Any] = {name: booleans(cells, name) for name in columns.labels}
    found |= {name: cells.column(name) for name in columns.classes}
    if columns.target:
        found[columns.target] = pa.array(numbers(cells, columns.target), from_pandas=True)
    if columns.time:
        time = numbers(cells, columns.time)
        problem = f"follow-up time {columns.time!r} is negative"
        refuse_rows(time < 0, problem, source.column(columns.time))
        found["time"] = pa.array(time, from_pandas=True)
        found |= endings(cells, time, columns.event, columns.cause)
    return found


def strata_of(outcomes: dict[str, Any], columns: OutcomeColumns) -> np.ndarray:
    """Return (persons,) text that is equal for people with like outcomes.

    Args:
        outcomes: One value per person.
        columns: Their names.

    Raises:
        InputError: There is no outcome.
    """
    if columns.time:
        ended = outcomes["cause" if columns.cause else "event"]
        return np.array([str(event) for event in ended.to_pylist()])
    if columns.classes:
        return np.array([str(name) for name in outcomes[columns.classes[0]].to_pylist()])
    if columns.labels:
        present = np.array([outcomes[name].to_pylist() for name in columns.labels]) == True  # noqa: E712 (null is neither)
        often = np.where(present, present.sum(1, keepdims=True), np.inf)
        rarest = np.array(["none", *columns.labels])
        return rarest[np.where(present.any(0), often.argmin(0) + 1, 0)]
    if columns.target:
        values = outcomes[columns.target].to_numpy(zero_copy_only=False)
        cuts = np.nanquantile(values, FIFTHS)
        return np.searchsorted(cuts, values).astype(str)
    raise InputError("--stratify needs an outcome: labels, classes, a target or a follow-up")


def divide(
    people: Sequence[str],
    fractions: tuple[float, float, float],
    seed: int,
    strata: np.ndarray | None = None,
) -> list[str]:
    """Return the split of each person.

    Args:
        people: Ids, each once.
        fractions: Shares of train, validation and test.
        seed: Another seed, another draw.
        strata: (persons,) equal for people with like outcomes: then every split gets its share
            of each stratum, to the person. Without, a person's split depends on seed and id
            alone, so that it stays the same when the table grows.

    Raises:
        InputError: Fractions that do not add up to 1, or a split that gets nobody.
    """
    if strata is None:
        return draw_splits(people, fractions, seed)
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {fractions} are not three shares that add up to 1")
    keys = [hashlib.blake2b(f"{seed} {person}".encode()).hexdigest() for person in people]
    # Strata one after the other on one line, cut by error diffusion: shares hold in each
    # stratum and in total, however small the strata are.
    line = np.lexsort((np.array(keys), strata))
    given = np.zeros(3)
    split = np.empty(len(people), object)
    for place, person in enumerate(line, start=1):
        lacking = place * np.array(fractions) - given
        chosen = int(lacking.argmax())
        given[chosen] += 1
        split[person] = SPLITS[chosen]
    for name, share in zip(SPLITS, fractions):
        if share > 0 and name not in split:
            raise InputError(f"{len(people)} people are too few for the split {name!r}")
    return split.tolist()
