"""From stored expression to what an encoder reads: genes by name, one scale per gene."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fm_med.errors import InputError
from fm_med.processors import StrictProcessor
from fm_med.rna.genes import MINIMUM_SHARE, align, clean_genes
from fm_med.rna.storage import decode
from fm_med.rna.units import UNITS, to_logarithm

# A gene that hardly varies in training would be blown up by its scale.
SMALLEST_SCALE = 0.05


class ExpressionProcessor(StrictProcessor):
    """Prepares expression for an encoder; saved beside its weights as `preprocessor_config.json`.

    Genes are found by name, whatever their order; a gene that a data set lacks is given its
    training mean. Each gene is centred and scaled as in the training samples.

    Args:
        genes: Names of the encoder's genes in their order.
        units: Unit of the values before scaling, one of the logarithmic ones of `UNITS`.
        mean: (genes,) training means in that unit.
        scale: (genes,) training standard deviations.
        minimum_share: Data that hold a smaller share of the genes are refused.

    Raises:
        InputError: Repeated genes, an unknown unit, or lists of different lengths.
    """

    def __init__(
        self,
        *,
        genes: Sequence[str],
        units: str,
        mean: Sequence[float],
        scale: Sequence[float],
        minimum_share: float = MINIMUM_SHARE,
    ) -> None:
        super().__init__()
        if not len(genes) == len(mean) == len(scale) > 0:
            raise InputError(
                f"an expression processor needs a mean and a scale per gene, it has {len(genes)} "
                f"genes, {len(mean)} means and {len(scale)} scales"
            )
        self.hold(genes, units, minimum_share)
        self.mean = [float(value) for value in mean]
        self.scale = [float(value) for value in scale]

    def hold(self, genes: Sequence[str], units: str, minimum_share: float) -> None:
        """Keep what every way to encode expression needs.

        Raises:
            InputError: Repeated genes or an unknown unit.
        """
        if units not in UNITS:
            raise InputError(f"units is {units!r}, expected one of {', '.join(UNITS)}")
        self.genes = clean_genes(genes, "preprocessor_config.json")
        self.units = units
        self.minimum_share = float(minimum_share)

    @property
    def columns(self) -> list[str]:
        """The columns of a cohort that `from_rows` reads."""
        return ["expression"]

    # Means and scales are learnt from the training rows.
    fits_rows = True

    @classmethod
    def for_cohort(
        cls, card: Any, table: pa.Table, *, max_genes: int = 5000, **settings: Any
    ) -> Self:
        """Fit means and scales on training rows; keep the genes that vary most there.

        Args:
            card: The cohort's `CohortCard`.
            table: The TRAINING rows with the column `expression`.
            max_genes: Genes to keep, the most variable ones, in the cohort's order.
            settings: Further arguments of the processor.

        Raises:
            InputError: The cohort does not hold expression.
        """
        if card.modality != "rna":
            raise InputError(f"the cohort {card.name} holds {card.modality}, expected rna")
        values, genes, unit = decode(table)
        spread = values.std(axis=0, dtype=np.float64)
        kept = np.sort(np.argsort(-spread, kind="stable")[:max_genes])
        return cls(
            genes=[genes[index] for index in kept],
            units=unit,
            mean=values.mean(axis=0, dtype=np.float64)[kept].tolist(),
            scale=np.maximum(spread[kept], SMALLEST_SCALE).tolist(),
            **settings,
        )

    def encoder_settings(self) -> dict[str, Any]:
        """Return the fields of an encoder's config that depend on the data."""
        return {"num_genes": len(self.genes)}

    def from_rows(self, table: pa.Table, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Prepare rows of a cohort.

        Args:
            table: Rows with the column `expression`, which names its genes and unit.
            device: Where the result lies.

        Returns:
            What the encoder reads; here `expression` (batch, genes) float32, centred and scaled.

        Raises:
            InputError: Another unit, or too few of the genes.
        """
        values, genes, unit = decode(table)
        return self(values, genes, unit=unit, device=device)

    def __call__(
        self,
        values: np.ndarray,
        genes: Sequence[str],
        *,
        unit: str,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Prepare a matrix whose genes are named.

        Args:
            values: (samples, genes) of a logarithmic unit (see `fm_med.rna.units.to_logarithm`).
            genes: Names of the columns, without Ensembl versions.
            unit: Of the values.
            device: Where the result lies.

        Returns:
            As `from_rows`.

        Raises:
            InputError: As `from_rows`.
        """
        values = self.in_units(values, unit)
        place = self.place_of(genes)
        there = place >= 0
        mean, scale = np.array(self.mean, np.float32), np.array(self.scale, np.float32)
        prepared = np.zeros((len(values), len(place)), np.float32)
        prepared[:, there] = (values[:, place[there]] - mean[there]) / scale[there]
        return {"expression": torch.from_numpy(prepared).to(device)}

    def share_found(self, genes: Sequence[str]) -> float:
        """Return the share of the model's genes that are among `genes`."""
        return float((align(genes, self.genes) >= 0).mean())

    def remark(self, table: pa.Table) -> str:
        """Return one line on how many of the model's genes some rows of a cohort hold."""
        _, genes, _ = decode(table.slice(0, 1))
        found, known = int((align(genes, self.genes) >= 0).sum()), len(self.genes)
        return f"{found:,} of the model's {known:,} genes found ({found / known:.0%})"

    def in_units(self, values: np.ndarray, unit: str) -> np.ndarray:
        """Return values in the model's unit.

        Raises:
            InputError: They cannot be brought to it.
        """
        if unit != self.units and unit == "log2_tpm1":
            values, unit = to_logarithm(values, unit)
        if unit != self.units:
            raise InputError(
                f"the expression is in {unit}, the model was trained on {self.units}; "
                "make the cohort from counts or TPM so that both are the same"
            )
        return values

    def place_of(self, genes: Sequence[str]) -> np.ndarray:
        """Return (model's genes,) the column of each, -1 where it is missing.

        Raises:
            InputError: Too few of them are there.
        """
        place = align(genes, self.genes)
        found = int((place >= 0).sum())
        if found < self.minimum_share * len(place):
            missing = self.genes[int(np.argmin(place))]
            share = f"{found} of the model's {len(place)} genes ({found / len(place):.0%})"
            raise InputError(
                f"the data hold {share}, at least {self.minimum_share:.0%} are needed; missing for "
                f"example {missing}, there is for example {genes[0]}"
            )
        return place
