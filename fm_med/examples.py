"""The rows that a model is trained on or judged by: inputs, targets, covariates and persons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fm_med.cohort import Cohort
from fm_med.disclosure import covered_quantiles
from fm_med.errors import InputError
from fm_med.feeding import to_device
from fm_med.tasks import Targets, Task

SEX_CODE = {"female": 0.0, "male": 1.0}
CovariateKind = Literal["number", "yes_no", "sex"]


@dataclass(frozen=True)
class Covariate:
    """How one clinical column becomes a number; saved with the model.

    Attributes:
        name: Column of the cohort.
        kind: "number" as it is; "yes_no" as 0 and 1; "sex" as female 0, male 1.
        fill: What a missing value is replaced with: the median of the training rows; of a number
            known of fewer than about 40 persons their mean.
        low: Smallest value among the training rows' 1st and 99th percentiles.
        high: Largest of them; values far outside are worth a warning.
    """

    name: str
    kind: CovariateKind
    fill: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def numbers(self, values: Any, where: str) -> np.ndarray:
        """Return (rows,) float64 with NaN where missing.

        Args:
            values: As `Cohort.column` gives them, or any sequence with None for missing.
            where: For messages.

        Raises:
            InputError: A value is no number, or no sex.
        """
        if self.kind == "sex":
            texts = [None if value is None else str(value).strip().lower() for value in values]
            foreign = sorted({text for text in texts if text is not None} - SEX_CODE.keys())
            if foreign:
                raise InputError(
                    f"{where}: {self.name!r} is {foreign[0]!r}, expected female, male or null"
                )
            return np.array([np.nan if text is None else SEX_CODE[text] for text in texts])
        try:
            return np.array([np.nan if v is None else float(v) for v in values], np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {self.name!r} holds values that are no numbers") from None

    def filled(self, values: Any, where: str) -> np.ndarray:
        """Return (rows,) float64 with the training median where missing."""
        numbers = self.numbers(values, where)
        return np.where(np.isfinite(numbers), numbers, self.fill)


def clinical_coding(cohort: Cohort, names: Sequence[str], split: str = "train") -> list[Covariate]:
    """Decide how clinical columns become numbers, by the rows of a split.

    Args:
        cohort: The cohort.
        names: Columns: numbers, yes/no, or "sex" with the values female and male.
        split: The training split.

    Raises:
        InputError: There is no such column, it is of another kind, always missing or constant.
    """
    coding = []
    for name in names:
        values = cohort.column(split, name)
        where = f"{cohort.path}, split {split!r}"
        kind: CovariateKind = "sex" if not isinstance(values, np.ndarray) else "number"
        if pa.types.is_boolean(cohort.splits[split].schema.field(name).type):
            kind = "yes_no"
        numbers = Covariate(name, kind).numbers(values, where)
        known = numbers[np.isfinite(numbers)]
        if not len(known) or not np.ptp(known) > 0:
            raise InputError(
                f"{where}: the clinical column {name!r} is "
                f"{'missing' if not len(known) else 'the same'} in every row"
            )
        found = np.quantile(known, (0.01, 0.5, 0.99))
        if kind == "number":  # a quantile may be one person's value, and these are shared
            people = np.unique(cohort.column(split, "subject_id"), return_inverse=True)[1]
            found = covered_quantiles(known, (0.01, 0.5, 0.99), people[np.isfinite(numbers)])
        low, fill, high = (float(f"{q:.3g}") for q in found)
        coding.append(Covariate(name, kind, fill=fill, low=low, high=high))
    return coding


@dataclass(frozen=True)
class Examples:
    """Rows of one or several splits that have a target.

    Attributes:
        cohort: The cohort.
        split: (rows,) name of the split of each row.
        row: (rows,) row number within its split.
        id: (rows,) int64, unique in the cohort; seeds the augmentation.
        record_id: (rows,) str.
        subject_id: (rows,) str.
        clinical: (rows, covariates) float32, missing values filled.
        targets: As of the task.
        left_out: Rows of the splits that have no target.
    """

    cohort: Cohort
    split: np.ndarray
    row: np.ndarray
    id: np.ndarray
    record_id: np.ndarray
    subject_id: np.ndarray
    clinical: np.ndarray
    targets: Targets
    left_out: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row)

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some rows (indices or mask), in that order."""
        columns = ("split", "row", "id", "record_id", "subject_id", "clinical")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in columns},
            targets={name: value[rows] for name, value in self.targets.items()},
        )

    def joined(self, other: "Examples") -> "Examples":
        """Return these rows and then the other ones, of the same cohort."""
        both: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("split", "row", "id", "record_id", "subject_id", "clinical")
        }
        return replace(
            self,
            **both,
            targets={n: np.concatenate([v, other.targets[n]]) for n, v in self.targets.items()},
        )

    def of_splits(self, splits: Sequence[str]) -> "Examples":
        """Return the rows of some splits."""
        return self.take(np.isin(self.split, splits))

    def table(self, columns: list[str] | None = None, rows: np.ndarray | None = None) -> pa.Table:
        """Read rows of the cohort.

        Args:
            columns: All of them when None.
            rows: (n,) indices; all rows when None.
        """
        chosen = np.arange(len(self)) if rows is None else rows
        splits = self.split[chosen]
        parts, places = [], []
        for split in dict.fromkeys(splits.tolist()):
            inside = np.flatnonzero(splits == split)
            parts.append(self.cohort.rows(split, self.row[chosen[inside]], columns))
            places.append(inside)
        if len(parts) == 1:
            return parts[0]
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(places)))

    def inputs(
        self, rows: np.ndarray, processor: Any, device: torch.device | str
    ) -> dict[str, Tensor]:
        """Read rows and prepare them on the device.

        Args:
            rows: (batch,) indices.
            processor: Of the cohort's modality.
            device: Where the encoder is.
        """
        return processor.from_rows(self.table(list(processor.columns), rows), device)

    def tensors(self, rows: np.ndarray, device: torch.device | str) -> dict[str, Tensor]:
        """Return the targets of some rows on the device."""
        return {name: to_device(v[rows], device) for name, v in self.targets.items()}

    def covariates(self, rows: np.ndarray, device: torch.device | str) -> dict[str, Tensor]:
        """Return `clinical` of some rows on the device; nothing where there are none."""
        if not self.clinical.shape[1]:
            return {}
        return {"clinical": to_device(self.clinical[rows], device)}


def read_examples(
    cohort: Cohort, task: Task | None, coding: Sequence[Covariate] = (), *, splits: Sequence[str]
) -> Examples:
    """Find the rows of some splits that have a target.

    Args:
        cohort: The cohort.
        task: What is predicted; None keeps every row, without targets.
        coding: Of the clinical columns, from `clinical_coding`.
        splits: Names, in the order wanted.

    Raises:
        InputError: No such split or column, bad targets, or no row with a target.
    """
    parts = [_read_split(cohort, task, coding, split) for split in splits]
    kept = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("split", "row", "record_id", "subject_id", "clinical", "id")
    }
    targets = {
        name: np.concatenate([part.targets[name] for part in parts]) for name in parts[0].targets
    }
    left_out = sum(part.left_out for part in parts)
    examples = Examples(cohort=cohort, targets=targets, left_out=left_out, **kept)
    if not len(examples):
        columns = ", ".join(task.columns) if task else "rows"
        raise InputError(f"{cohort.path}: no row of {', '.join(splits)} has a target ({columns})")
    return examples


def encode_clinical(
    coding: Sequence[Covariate], columns: Mapping[str, Any], rows: int, where: str
) -> np.ndarray:
    """Return (rows, covariates) float32 of named columns, missing values filled.

    Raises:
        InputError: A column is missing or of another kind than in training.
    """
    for covariate in coding:
        if covariate.name not in columns:
            raise InputError(
                f"{where} has no column {covariate.name!r}, which the model needs; "
                f"it has {', '.join(columns)}"
            )
    filled = [covariate.filled(columns[covariate.name], where) for covariate in coding]
    return np.stack(filled, 1).astype(np.float32) if filled else np.zeros((rows, 0), np.float32)


def coding_to_dicts(coding: Sequence[Covariate]) -> list[dict[str, Any]]:
    """Return JSON values."""
    return [asdict(covariate) for covariate in coding]


def _read_split(
    cohort: Cohort, task: Task | None, coding: Sequence[Covariate], split: str
) -> Examples:
    ids = np.array(cohort.column(split, "record_id"))
    targets = {} if task is None else task.targets(cohort, split)
    keep = np.ones(len(ids), bool) if task is None else task.usable(targets)
    columns = {covariate.name: cohort.column(split, covariate.name) for covariate in coding}
    clinical = encode_clinical(coding, columns, len(ids), f"{cohort.path}, split {split!r}")
    sizes = {name: table.num_rows for name, table in cohort.splits.items()}
    first = sum(list(sizes.values())[: list(sizes).index(split)])
    row = np.flatnonzero(keep)
    return Examples(
        cohort=cohort,
        split=np.full(len(row), split, dtype=object),
        row=row,
        id=first + row,
        record_id=ids[row],
        subject_id=np.array(cohort.column(split, "subject_id"))[row],
        clinical=clinical[row],
        targets={name: value[row] for name, value in targets.items()},
        left_out=len(ids) - len(row),
    )
