"""Prepare rows of a joined cohort for two encoders."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from transformers.models.auto.feature_extraction_auto import feature_extractor_class_from_name

from fm_med.errors import InputError
from fm_med.fusion.naming import JOINT, PARTS, PRESENT, named_for, presence_column
from fm_med.processors import StrictProcessor


class FusionProcessor(StrictProcessor):
    """The processors of two modalities, saved together as `preprocessor_config.json`.

    Args:
        names: The modalities, as joined in the card of the cohort.
        first: Processor of the first one, or its settings with `feature_extractor_type`.
        second: Of the second one.

    Raises:
        InputError: Settings that name no processor of fm_med.
    """

    def __init__(self, *, names: list[str], first: Any, second: Any) -> None:
        super().__init__()
        self.names = list(names)
        self.first, self.second = (_processor(given) for given in (first, second))

    @property
    def modality(self) -> str:
        """As on the cohort's card."""
        return JOINT.join(self.names)

    @property
    def presence_columns(self) -> list[str]:
        """The columns that are true where a row holds the modality, in the order of the parts."""
        return [presence_column(name) for name in self.names]

    @property
    def columns(self) -> list[str]:
        """The columns of a cohort that `from_rows` reads."""
        return [*self.presence_columns, *self.first.columns, *self.second.columns]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "names": list(self.names),
            **{part: getattr(self, part).to_dict() for part in PARTS},
            "feature_extractor_type": type(self).__name__,
        }

    def from_rows(self, table: pa.Table, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Prepare rows of a cohort that `fm-med cohort join` made.

        Args:
            table: Rows with the columns of both modalities and those that say which are there.
            device: Where the result lies.

        Returns:
            `first_present`, `second_present` (batch,) bool, and what the processors return as
            `first_<name>` and `second_<name>`: zeros in rows without, left out if no row has it.

        Raises:
            InputError: A column is absent, a row has neither, or see the processors.
        """
        for name in self.presence_columns:
            if name not in table.column_names:
                raise InputError(f"the table has no column {name!r}; see fm-med cohort join")
        present = [
            pc.fill_null(table.column(name), False).to_numpy() for name in self.presence_columns
        ]
        neither = ~(present[0] | present[1])
        if neither.any():
            row, many = int(np.argmax(neither)) + 1, int(neither.sum())
            raise InputError(
                f"{many} of {len(neither)} row(s), first number {row}, hold neither "
                f"{' nor '.join(self.names)}"
            )
        inputs: dict[str, Tensor] = {}
        for part, shown in zip(PARTS, present):
            mask = torch.from_numpy(np.require(shown, requirements="W")).to(device)
            own = {PRESENT: mask}
            if shown.any():
                rows = table if shown.all() else table.filter(pa.array(shown))
                prepared = getattr(self, part).from_rows(rows, device)
                own |= {name: _spread(value, mask) for name, value in prepared.items()}
            inputs |= named_for(part, own)
        return inputs


def _spread(value: Tensor, mask: Tensor) -> Tensor:
    """Put the rows of `value` where the mask is true, zeros elsewhere."""
    if len(value) == len(mask):
        return value
    spread = value.new_zeros((len(mask), *value.shape[1:]))
    spread[mask] = value
    return spread


def _processor(given: Any) -> Any:
    """Return a processor, made by its settings if they are given."""
    if not isinstance(given, dict):
        return given
    name = str(given.get("feature_extractor_type"))
    kind = feature_extractor_class_from_name(name)
    if kind is None or not issubclass(kind, StrictProcessor):
        raise InputError(f"preprocessor_config.json names the processor {name!r}, which is none")
    return kind.from_dict(given)
