"""From the cells of a table to what an encoder reads; everything is learnt on training rows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from fm_med.disclosure import MINIMUM, common_levels
from fm_med.errors import InputError
from fm_med.processors import StrictProcessor
from fm_med.tabular.cells import VisitLayout, cell_persons, flat, level_cells, numeric_cells
from fm_med.tabular.scaling import NumericScale

VISIT_TIME = "visit_time"
UNSEEN, MISSING, FIRST_LEVEL = 0, 1, 2  # codes of categorical cells
ROWS_PER_COLUMN = 3  # with fewer, curves would have more coefficients than there are rows


class TableProcessor(StrictProcessor):
    """Prepares rows of a table; saved beside the weights as `preprocessor_config.json`.

    A missing number becomes the training median and is flagged in `missing`; a missing level has a
    code of its own. A column that was complete in training cannot teach what its absence means:
    there the flag stays down and a missing level counts as unseen. Unseen levels have code 0, and
    so have those of fewer than ten persons: nothing that is saved tells of so few (see
    `fm_med.disclosure`). A column without a level of ten persons says nothing then.

    Args:
        numeric: Names of the numeric columns.
        scales: One per numeric column, from `NumericScale.to_dict`.
        flagged: Whether the numeric column had missing cells in training.
        categorical: Names of the categorical columns.
        levels: Their known levels.
        blank: Whether the categorical column had missing cells in training.
        visits: Whether rows hold visits with a time.
        time_scale: Typical gap between visits, the unit of `visit_time`.
        max_visits: Only the latest ones are read.
    """

    # Medians, scales and levels are learnt from the training rows.
    fits_rows = True

    def __init__(
        self,
        *,
        numeric: Sequence[str],
        scales: Sequence[dict[str, Any]],
        flagged: Sequence[bool],
        categorical: Sequence[str],
        levels: Sequence[Sequence[str]],
        blank: Sequence[bool],
        visits: bool,
        time_scale: float,
        max_visits: int = 128,
    ) -> None:
        super().__init__()
        self.numeric = list(numeric)
        self.scales = list(scales)
        self.flagged = [bool(flag) for flag in flagged]
        self.categorical = list(categorical)
        self.levels = [list(known) for known in levels]
        self.blank = [bool(flag) for flag in blank]
        self.visits = bool(visits)
        self.time_scale = float(time_scale)
        self.max_visits = int(max_visits)

    @property
    def columns(self) -> list[str]:
        """The columns of a cohort that `from_rows` reads."""
        return [*self.numeric, *self.categorical, *([VISIT_TIME] if self.visits else [])]

    @classmethod
    def for_cohort(
        cls,
        card: Any,
        table: pa.Table | Callable[[], pa.Table],
        *,
        scaling: Literal["standard", "quantile"] = "standard",
        max_visits: int = 128,
    ) -> Self:
        """Learn medians, scales and levels.

        Args:
            card: The cohort's `CohortCard`.
            table: The TRAINING rows; their fields' metadata say which columns are inputs.
            scaling: "standard" centres and divides by the standard deviation; "quantile" gives
                each value the normal score of its rank.
            max_visits: As of the class.

        Raises:
            InputError: Another modality, no input, a column that is missing in all rows, or
                levels alone of which none is that of ten persons.
        """
        if card.modality != "tabular":
            raise InputError(f"the cohort {card.name} holds {card.modality}, expected tabular")
        rows = table() if callable(table) else table
        kinds = {name: _input_kind(rows.schema.field(name)) for name in rows.column_names}
        numeric = [name for name, kind in kinds.items() if kind == "numeric"]
        categorical = [name for name, kind in kinds.items() if kind == "categorical"]
        if not numeric and not categorical:
            raise InputError(f"the cohort {card.name} names no inputs; see fm-med cohort table")
        for name in (*numeric, *categorical):
            if flat(rows.column(name)).is_valid().false_count == len(flat(rows.column(name))):
                raise InputError(f"column {name!r} is missing in every training row; leave it out")
        cells = {name: numeric_cells(rows, name) for name in numeric}
        curved = rows.num_rows >= ROWS_PER_COLUMN * (len(numeric) + len(categorical))
        persons = {name: cell_persons(rows, name) for name in numeric}
        scales = [
            NumericScale.fit(cells[name], scaling, persons=persons[name], curved=curved)
            for name in numeric
        ]
        levels = {name: _levels(rows, name) for name in categorical}
        if not numeric and not any(levels.values()):
            raise InputError(
                f"no level of {', '.join(categorical)} is that of {MINIMUM} persons or more, and "
                f"rarer ones are not kept: nothing can be learnt from these {rows.num_rows} rows"
            )
        return cls(
            numeric=numeric,
            scales=[scale.to_dict() for scale in scales],
            flagged=[bool(np.isnan(cells[name]).any()) for name in numeric],
            categorical=categorical,
            levels=list(levels.values()),
            blank=[flat(rows.column(name)).null_count > 0 for name in categorical],
            visits=VISIT_TIME in rows.column_names,
            time_scale=_typical_gap(rows),
            max_visits=max_visits,
        )

    def encoder_settings(self) -> dict[str, Any]:
        """Return the fields of an encoder's config that depend on the data."""
        scales = [NumericScale(**scale) for scale in self.scales]
        return {
            "num_numeric": len(self.numeric),
            "levels": [FIRST_LEVEL + len(known) for known in self.levels],
            "bins": [scale.bins() for scale in scales],
            "quantiles": [scale.scaled_quantiles() for scale in scales],
            "flagged": self.flagged,
            "blank": self.blank,
            "visits": self.visits,
        }

    def from_rows(self, table: pa.Table, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Prepare rows of a cohort.

        Args:
            table: Rows with the columns of training; others are ignored.
            device: Where the result lies.

        Returns:
            `numeric` (batch, visits, numeric columns) float32, scaled, the median where missing;
            `missing` of the same shape, bool; `categorical` (batch, visits, categorical columns)
            int64; `visit_mask` (batch, visits) bool, padding last; `visit_time` (batch, visits)
            float32, since the first visit in units of the typical gap. A table without visits is
            a single one.

        Raises:
            InputError: A column of training is absent or of another kind.
        """
        for name in self.columns:
            if name not in table.column_names:
                raise InputError(
                    f"the table has no column {name!r}, which the model was trained on; "
                    f"it has {', '.join(table.column_names)}"
                )
        layout = VisitLayout.of(table, self.columns, self.max_visits)
        mask = layout.mask
        numeric = np.zeros((*mask.shape, len(self.numeric)), np.float32)
        missing = np.zeros(numeric.shape, bool)
        for k, name in enumerate(self.numeric):
            cells, column = numeric_cells(table, name), table.column(name)
            scaled = NumericScale(**self.scales[k]).apply(cells)
            numeric[..., k] = layout.spread(column, scaled.astype(np.float32), 0.0)
            missing[..., k] = layout.spread(column, np.isnan(cells) & self.flagged[k], False)
        categorical = np.zeros((*mask.shape, len(self.categorical)), np.int64)
        for k, name in enumerate(self.categorical):
            codes = {level: FIRST_LEVEL + code for code, level in enumerate(self.levels[k])}
            cells = level_cells(table, name, codes, UNSEEN)
            cells[cells < 0] = MISSING if self.blank[k] else UNSEEN
            categorical[..., k] = layout.spread(table.column(name), cells, UNSEEN)
        arrays = {
            "numeric": numeric,
            "categorical": categorical,
            "missing": missing,
            "visit_mask": mask,
            "visit_time": self._times(table, layout),
        }
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def _times(self, table: pa.Table, layout: VisitLayout) -> np.ndarray:
        mask = layout.mask
        if not self.visits:
            return np.zeros(mask.shape, np.float32)
        column = table.column(VISIT_TIME)
        time = layout.spread(column, numeric_cells(table, VISIT_TIME), 0.0)
        since = (time - time[:, :1]) / self.time_scale
        return np.where(mask, since, 0.0).astype(np.float32)


def _input_kind(column: pa.Field) -> str | None:
    kind = (column.metadata or {}).get(b"input")
    return kind.decode() if kind else None


def _levels(rows: pa.Table, name: str) -> list[str]:
    """Return the levels of a column that are those of enough persons."""
    cells = flat(rows.column(name)).cast(pa.string())
    known = cells.is_valid().to_numpy(zero_copy_only=False)
    texts = cells.drop_null().to_numpy(zero_copy_only=False).astype(str)
    return common_levels(texts, cell_persons(rows, name)[known])


def _typical_gap(rows: pa.Table) -> float:
    """Return the median time between visits of one row; 1 without any."""
    if VISIT_TIME not in rows.column_names:
        return 1.0
    counts = pc.list_value_length(rows.column(VISIT_TIME)).to_numpy()
    time = numeric_cells(rows, VISIT_TIME)
    same = np.diff(np.repeat(np.arange(len(counts)), counts)) == 0
    gaps = np.diff(time)[same]
    gaps = gaps[gaps > 0]
    return float(np.median(gaps)) if len(gaps) else 1.0
