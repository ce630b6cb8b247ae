"""Cross-validation: which rows are held out when, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from fm_med.atomic import atomic_file
from fm_med.errors import InputError
from fm_med.sampling import patient_folds


@dataclass(frozen=True)
class Fold:
    """One fold of one repeat.

    Attributes:
        repeat: Counted from 0.
        number: Of the fold within its repeat, counted from 0.
        train: (n,) rows to learn from, validation included.
        test: (m,) rows held out, of other persons.
    """

    repeat: int
    number: int
    train: np.ndarray
    test: np.ndarray

    @property
    def name(self) -> str:
        """Name of the fold's folder."""
        return f"repeat-{self.repeat}-fold-{self.number}"


def make_folds(
    strata: np.ndarray, subject_id: np.ndarray, *, folds: int, repeats: int = 1, seed: int = 0
) -> Iterator[Fold]:
    """Yield the folds of every repeat, cut between persons, with the strata spread evenly.

    Args:
        strata: (rows,) int, such as event or class.
        subject_id: (rows,) the person of each row.
        folds: Folds per repeat, at least 2.
        repeats: Random partitions.
        seed: Of the partitions.

    Raises:
        InputError: Fewer persons than folds, or fewer than 2 folds.
    """
    persons = len(np.unique(subject_id))
    if not 2 <= folds <= persons:
        raise InputError(f"folds is {folds}, expected 2 to {persons} (the number of persons)")
    for repeat in range(repeats):
        fold = patient_folds(one_hot(strata), subject_id, folds=folds, seed=seed + repeat)
        for number in range(folds):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            yield Fold(repeat, number, train, test)


def hold_out(
    strata: np.ndarray, subject_id: np.ndarray, *, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows between persons, with the strata in equal shares; for early stopping in a fold.

    Args:
        strata: (rows,) int.
        subject_id: (rows,) the person of each row.
        share: Of the rows to hold out, up to one half.
        seed: Of the choice.

    Returns:
        Rows to keep and rows to hold out.
    """
    persons = len(np.unique(subject_id))
    folds = min(max(2, round(1 / share)), persons)
    fold = patient_folds(one_hot(strata), subject_id, folds=folds, seed=seed)
    return np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)


def one_hot(strata: np.ndarray) -> np.ndarray:
    """Return (rows, kinds) bool."""
    return strata[:, None] == np.unique(strata)


def write_table(path: Path, columns: dict[str, np.ndarray | list]) -> None:
    """Write a CSV file, whole or not at all.

    Args:
        path: The file; its folder is made if needed.
        columns: By name, all of one length.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(_plain(values)) for name, values in columns.items()})
    with atomic_file(path) as temporary:
        pa_csv.write_csv(table, temporary)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_table` wrote; ids stay texts.

    Args:
        path: The file.
    """
    texts = {name: pa.string() for name in ("record_id", "subject_id", "split")}
    table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=texts))
    return {name: np.asarray(table.column(name).to_pylist()) for name in table.column_names}


def _plain(values: np.ndarray | list) -> np.ndarray | list:
    return values.tolist() if isinstance(values, np.ndarray) and values.dtype == object else values
