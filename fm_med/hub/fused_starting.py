"""Where fine-tuning starts with two encoders: each a new or a saved one."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.fusion.naming import JOINT, PARTS, presence_column
from fm_med.fusion.processor import FusionProcessor
from fm_med.hub.start import Start
from fm_med.modalities import Modality

ROWS_FOR_SCALE = 128  # enough for a mean and a deviation


@dataclass
class FusedStart:
    """Two encoders to start from; every fold gets its own copy.

    Attributes:
        modality: Of the cohort, two names joined.
        cards: Of the cohort, as if it held one modality, for each of both.
        starts: Where each of both encoders starts.
        settings: Fields of the fusion's config besides its encoders.
        scales: By part with saved weights, the inputs by which its output is standardised: those of
            the first rows that it was built for, so that folds can share features.
    """

    modality: Modality
    cards: tuple[CohortCard, CohortCard]
    starts: tuple[Start, Start]
    settings: dict[str, Any]
    scales: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Both encoders' names, joined."""
        return JOINT.join(start.name for start in self.starts)

    @property
    def is_fresh(self) -> bool:
        """Whether both encoders are new."""
        return all(start.is_fresh for start in self.starts)

    @property
    def has_weights(self) -> bool:
        """Whether there is anything to train."""
        return any(start.has_weights for start in self.starts)

    @property
    def has_new(self) -> bool:
        """Whether one of the encoders is new."""
        return any(start.is_fresh for start in self.starts)

    @property
    def key(self) -> str:
        """What the encoders' weights depend on."""
        return JOINT.join(start.key for start in self.starts)

    def adapter_base(self, method: str) -> tuple[str, Path]:
        """Refuse to keep an adapter alone.

        Raises:
            InputError: It would belong to two encoders.
        """
        del method
        raise InputError(
            f"--save_adapter: an adapter belongs to one saved encoder, and {self.name} are two; "
            "keep the whole model"
        )

    def remark(self, method: str) -> str:
        """Return what else is trained beside what `method` says."""
        new = [start.name for start in self.starts if start.is_fresh and start.has_weights]
        if len(new) != 1 or self.is_fresh or method == "full":
            return ""
        return f"; {new[0]} is new, so all of it is trained"

    def build(self, train: Examples) -> tuple[PreTrainedModel, Any]:
        """Return the fused encoder to train and its processor.

        Args:
            train: The rows that a new processor may learn from, each from those that it can read.

        Raises:
            InputError: No row has a modality, or a setting is unknown or impossible.
        """
        built: dict[str, tuple[PreTrainedModel, Any]] = {}
        numbers = sorted(range(len(PARTS)), key=lambda k: self.starts[k].learns_from_rows)
        for k in numbers:
            others = {name for _, processor in built.values() for name in processor.columns}
            rows = partial(self._rows, train, k, others)
            built[PARTS[k]] = self.starts[k].build_for(self.cards[k], rows)
        processors = {part: built[part][1] for part in PARTS}
        names = [card.modality for card in self.cards]
        new = tuple(part for part, start in zip(PARTS, self.starts) if start.is_fresh)
        encoder = LateFusionModel.of_encoders(
            {part: built[part][0] for part in PARTS},
            new_parts=new if len(new) == 1 else (),
            **self.settings,
        )
        processor = FusionProcessor(names=names, **processors)
        for part, inputs in self._inputs_for_scale(train, processor).items():
            encoder.standardise_by(part, inputs)
        return encoder, processor

    def _present(self, train: Examples, k: int) -> np.ndarray:
        """Return the rows that hold the k-th modality, which some must."""
        modality = self.cards[k].modality
        column = presence_column(modality)
        rows = np.flatnonzero(train.table([column]).column(column).to_numpy())
        if not len(rows):
            raise InputError(f"{train.cohort.path}: no training row holds {modality}")
        return rows

    def _rows(self, train: Examples, k: int, others: set[str]) -> pa.Table:
        """Return the rows of the k-th modality, without the columns that another one reads."""
        there = train.cohort.splits[str(train.split[0])].column_names
        columns = [name for name in there if name not in others]
        return train.table(columns, self._present(train, k))

    def _inputs_for_scale(
        self, train: Examples, processor: FusionProcessor
    ) -> dict[str, dict[str, Tensor]]:
        """Return inputs of the encoders with saved weights, the same ones for every fold."""
        for k, part in enumerate(PARTS):
            if self.starts[k].is_fresh or part in self.scales:
                continue
            present = self._present(train, k)
            few = present[np.linspace(0, len(present) - 1, ROWS_FOR_SCALE, dtype=np.int64)]
            own = getattr(processor, part)
            self.scales[part] = own.from_rows(train.table(list(own.columns), np.unique(few)))
        return self.scales
