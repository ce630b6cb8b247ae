"""What every encoder of tables does to its input before its first layer."""

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from fm_med.errors import InputError


@strict
class TableConfig(PreTrainedConfig):
    """What an encoder must know of a table; `TableProcessor.encoder_settings` gives it.

    Args:
        num_numeric: Numeric columns.
        levels: Codes of each categorical column, 0 for unseen and 1 for missing among them.
        bins: Edges of bins of each numeric column, scaled, in ascending order.
        quantiles: Of each numeric column at `scaling.RANKS`, scaled; empty where no curve can be
            learnt.
        flagged: Whether a numeric column had missing cells in training.
        blank: Whether a categorical column had.
        visits: Whether rows hold visits with a time.
    """

    num_numeric: int = 0
    levels: list[int] = field(default_factory=list)
    bins: list[list[float]] = field(default_factory=list)
    quantiles: list[list[float]] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)
    blank: list[bool] = field(default_factory=list)
    visits: bool = False

    def validate_columns(self) -> None:
        """Refuse what is said of another number of columns; saying nothing is allowed."""
        for name, wanted in (
            ("quantiles", self.num_numeric),
            ("flagged", self.num_numeric),
            ("blank", len(self.levels)),
        ):
            found = len(getattr(self, name))
            if found not in (0, wanted):
                raise ValueError(f"{name} tells of {found} columns, there are {wanted}")


@dataclass(frozen=True)
class Cells:
    """A checked batch; padding is zeroed, whatever it held.

    Attributes:
        numeric: (batch, visits, numeric columns).
        missing: (batch, visits, numeric columns) bool.
        categorical: (batch, visits, categorical columns) int64.
        mask: (batch, visits) bool, the visits first, padding after.
        time: (batch, visits).
    """

    numeric: Tensor
    missing: Tensor
    categorical: Tensor
    mask: Tensor
    time: Tensor

    @classmethod
    def checked(
        cls,
        config: TableConfig,
        numeric: Tensor,
        *,
        categorical: Tensor | None,
        missing: Tensor | None,
        visit_mask: Tensor | None,
        visit_time: Tensor | None,
    ) -> "Cells":
        """Fill what was not given and refuse what does not fit the encoder.

        Raises:
            InputError: Another number of columns or visits.
        """
        if numeric.dim() != 3 or numeric.shape[2] != config.num_numeric:
            raise InputError(
                f"numeric must be (batch, visits, {config.num_numeric} columns), "
                f"its shape is {tuple(numeric.shape)}"
            )
        shape = numeric.shape[:2]
        if shape[1] == 0:
            raise InputError("numeric has no visits, an encoder of tables needs at least one")
        given = (
            ("categorical", categorical, (*shape, len(config.levels)), torch.int64),
            ("missing", missing, tuple(numeric.shape), torch.bool),
            ("visit_mask", visit_mask, tuple(shape), torch.bool),
            ("visit_time", visit_time, tuple(shape), numeric.dtype),
        )
        found = []
        for name, value, expected, kind in given:
            if value is None:
                value = numeric.new_zeros(expected, dtype=kind)
                value = ~value if name == "visit_mask" else value
            if tuple(value.shape) != expected:
                raise InputError(f"{name} must be {expected}, its shape is {tuple(value.shape)}")
            found.append(value.to(kind))
        codes, flags, mask, time = found
        padding = ~mask[..., None]
        return cls(
            numeric.masked_fill(padding, 0.0),
            flags & mask[..., None],  # not masked_fill: ONNX has none for bools
            codes.masked_fill(padding, 0),
            mask,
            time.masked_fill(~mask, 0.0),
        )

    def last(self, values: Tensor) -> Tensor:
        """Return values (batch, visits, ...) of each row's latest visit (batch, ...)."""
        index = (self.mask.sum(1) - 1).clamp(min=0)
        return values[torch.arange(len(values), device=values.device), index]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (batch, visits, width) over each row's visits."""
        weight = self.mask[..., None].to(values.dtype)
        return (values * weight).sum(1) / weight.sum(1).clamp(min=1)


class LevelEmbedding(nn.Embedding):
    """A vector per level of each categorical column, in one table; unseen levels are zero.

    Shape:
        - codes: (..., columns) int64 -> (..., columns, width).
    """

    def __init__(self, levels: list[int], width: int) -> None:
        super().__init__(sum(levels), width)
        self.firsts = list(accumulate(levels, initial=0))[:-1]

    def forward(self, codes: Tensor) -> Tensor:
        """Look the codes up."""
        found = functional.embedding(codes + codes.new_tensor(self.firsts), self.weight)
        return found * (codes > 0)[..., None].to(found.dtype)
