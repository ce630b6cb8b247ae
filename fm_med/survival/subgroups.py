"""A statistic by subgroup, without giving away small groups of persons."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fm_med.disclosure import MINIMUM
from fm_med.errors import InputError
from fm_med.metrics import Interval

NOT_KNOWN = "not known"


@dataclass(frozen=True)
class SubgroupRow:
    """One line of the table.

    Attributes:
        variable: "sex".
        group: "female".
        persons: Number of persons; None where suppressed.
        events: Persons with the event; None where suppressed.
        value: The statistic; None where suppressed.
    """

    variable: str
    group: str
    persons: int | None
    events: int | None
    value: Interval | None

    @property
    def suppressed(self) -> bool:
        """Whether the row is hidden, for its own sake or for another's."""
        return self.persons is None


def subgroup_rows(
    variables: Mapping[str, Any],
    statistic: Callable[[np.ndarray], Interval],
    *,
    event: Any,
    subject_id: Any = None,
    minimum: int = MINIMUM,
) -> list[SubgroupRow]:
    """Return a row per group of each variable, in the order of the labels.

    A row is hidden where fewer than `minimum` persons, persons with the event or persons without
    it are in the group. Who knows the totals could get a hidden number by subtraction; so the
    smallest of the other rows of a variable are hidden too, until two or more are hidden and their
    sums reach `minimum`. All of a hidden row is hidden: an interval tells the number of events.

    Args:
        variables: Name of each variable to (rows,) labels; None, NaN and "" form a group of their
            own, ``"not known"``, so that the groups add up to the total.
        statistic: Function of the (k,) positions of a subgroup's rows; called for shown rows only.
        event: (rows,) True where the follow-up ended with the event.
        subject_id: (rows,) person of each row; None: each row its own.
        minimum: Smallest number of persons that may be told.

    Raises:
        InputError: A variable has another number of rows.
    """
    event = np.asarray(event).astype(bool)
    person = np.arange(len(event)) if subject_id is None else np.asarray(subject_id)
    columns = {**variables, "subject_id": person}
    for name, values in columns.items():
        if len(values) != len(event):
            raise InputError(f"{name} must have {len(event)} rows like event, not {len(values)}")
    table = []
    for variable, values in variables.items():
        labels = np.array([_label(value) for value in _plain(values)], dtype=object)
        groups = {label: np.flatnonzero(labels == label) for label in _ordered(labels)}
        counts = np.array(
            [_persons(event[rows], person[rows]) for rows in groups.values()]
        ).reshape(-1, 3)
        hidden = _hidden(counts, minimum)
        for (label, rows), (persons, events, _), hide in zip(groups.items(), counts, hidden):
            shown = (None, None, None) if hide else (int(persons), int(events), statistic(rows))
            table.append(SubgroupRow(variable, label, *shown))
    return table


def age_band(age: Any, edges: Sequence[float] = (40, 50, 60, 70, 80)) -> list[str]:
    """Return a label per row: ``"under 40"``, ``"40 to 49"``, ... ``"80 and over"``.

    Args:
        age: (rows,) years; NaN = not known.
        edges: Rising first years of the bands, whole numbers.
    """
    if list(edges) != sorted(set(edges)) or not len(edges):
        raise InputError(f"edges of age bands must rise, not {list(edges)}")
    names = [f"under {edges[0]:g}"]
    names += [f"{low:g} to {high - 1:g}" for low, high in pairwise(edges)]
    names.append(f"{edges[-1]:g} and over")
    years = np.asarray(age, dtype=np.float64)
    band = np.searchsorted(np.asarray(edges, dtype=np.float64), years, side="right")
    return [NOT_KNOWN if math.isnan(y) else names[b] for y, b in zip(years.tolist(), band)]


def _persons(event: np.ndarray, person: np.ndarray) -> tuple[int, int, int]:
    """Return persons, those with the event and those without."""
    persons, with_event = len(np.unique(person)), len(np.unique(person[event]))
    return persons, with_event, persons - with_event


def _hidden(counts: np.ndarray, minimum: int) -> np.ndarray:
    """Return (groups,) True where a row must not be told; counts are (groups, 3)."""
    hidden: np.ndarray = np.any(counts < minimum, axis=1)
    if not hidden.any():
        return hidden
    for group in np.argsort(counts[:, 0], kind="stable"):
        # One hidden row alone never passes: it is hidden because one of its counts is small.
        if (counts[hidden].sum(axis=0) >= minimum).all():
            break
        hidden[group] = True
    return hidden


def _plain(values: Any) -> Sequence[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _label(value: Any) -> str:
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return NOT_KNOWN if missing else str(value)


def _ordered(labels: np.ndarray) -> list[str]:
    """Return labels in order, those that begin with "under" first and "not known" last."""
    found = sorted(set(labels.tolist()))
    return sorted(found, key=lambda label: (label == NOT_KNOWN, not label.startswith("under ")))
