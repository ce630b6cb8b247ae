"""Expression as a sentence of genes, the most unusual ones first, for BERT-like encoders."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fm_med.errors import InputError
from fm_med.processors import StrictProcessor
from fm_med.rna.genes import MINIMUM_SHARE
from fm_med.rna.processor import ExpressionProcessor
from fm_med.rna.storage import decode
from fm_med.rna.units import TEN_THOUSAND, UNITS

PAD, START = 0, 1  # tokens of an encoder that starts from scratch
LINEAR_UNITS = tuple(
    name for name, unit in UNITS.items() if name.startswith("log") and unit.linear is not None
)


class RankValueProcessor(ExpressionProcessor):
    """Names a sample's genes in the order of expression over the gene's usual expression.

    Expression is scaled to a sum of ten thousand per sample and divided by the gene's median over
    the samples that express it at all, so that genes that every cell is full of do not come first.
    Genes without expression are left out, and so is what exceeds `max_tokens`.

    Args:
        genes: Names of the genes that have a token.
        tokens: (genes,) token of each gene.
        medians: (genes,) its median where it is expressed, in samples of sum ten thousand.
        units: Unit of the values, as the medians were made from: log1p_cp10k for counts.
        max_tokens: Longest sentence, first and last token included.
        pad_token: Fills shorter sentences.
        first_token: Before the genes; None for none.
        last_token: Behind them; None for none.
        minimum_share: Data that hold a smaller share of the genes are refused.

    Raises:
        InputError: Repeated genes, lists of different lengths, medians that are not above zero, or
            a unit without a linear scale.

    References:
        Theodoris et al., "Transfer learning enables predictions in network biology", Nature 2023.
    """

    def __init__(
        self,
        *,
        genes: Sequence[str],
        tokens: Sequence[int],
        medians: Sequence[float],
        units: str = "log1p_cp10k",
        max_tokens: int = 2048,
        pad_token: int = PAD,
        first_token: int | None = None,
        last_token: int | None = None,
        minimum_share: float = MINIMUM_SHARE,
    ) -> None:
        StrictProcessor.__init__(self)  # there are no means and scales to hold
        if units not in LINEAR_UNITS:
            raise InputError(
                f"rank values are made from {' or '.join(LINEAR_UNITS)}, units is {units!r}"
            )
        if not len(genes) == len(tokens) == len(medians) > 0:
            raise InputError(
                f"rank values need a token and a median per gene, there are {len(genes)} genes, "
                f"{len(tokens)} tokens and {len(medians)} medians"
            )
        if not all(0 < value < float("inf") for value in medians):
            raise InputError("the median of a gene must be above 0 and finite")
        self.hold(genes, units, minimum_share)
        self.tokens = [int(token) for token in tokens]
        self.medians = [float(value) for value in medians]
        self.max_tokens = int(max_tokens)
        self.pad_token = int(pad_token)
        self.first_token, self.last_token = first_token, last_token

    @classmethod
    def for_cohort(
        cls, card: Any, table: pa.Table, *, max_genes: int = 5000, **settings: Any
    ) -> Self:
        """Learn the medians on training rows, for an encoder that starts from scratch.

        Args:
            card: The cohort's `CohortCard`.
            table: The TRAINING rows with the column `expression`.
            max_genes: Genes to keep, those that most samples express, in the cohort's order.
            settings: Further arguments of the processor.

        Raises:
            InputError: The cohort does not hold expression on a linear scale.
        """
        if card.modality != "rna":
            raise InputError(f"the cohort {card.name} holds {card.modality}, expected rna")
        values, genes, unit = decode(table)
        shares = np.where(values > 0, _to_shares(values, unit), np.nan)
        expressed = np.isfinite(shares).sum(axis=0)
        kept = np.sort(np.argsort(-expressed, kind="stable")[:max_genes])
        kept = kept[expressed[kept] > 0]
        return cls(
            genes=[genes[place] for place in kept],
            tokens=list(range(START + 1, START + 1 + len(kept))),
            medians=np.nanmedian(shares[:, kept], axis=0).tolist(),
            units=unit,
            **{"max_tokens": 512, "first_token": START, **settings},
        )

    def encoder_settings(self) -> dict[str, Any]:
        """Return the fields of an encoder's config that depend on the data."""
        ends = (self.pad_token, self.first_token, self.last_token)
        special = sorted({token for token in ends if token is not None})
        return {"vocab_size": max(*self.tokens, *special) + 1, "special_tokens": special}

    def __call__(
        self,
        values: np.ndarray,
        genes: Sequence[str],
        *,
        unit: str,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Write the sentence of each sample of a matrix whose genes are named.

        Args:
            values: (samples, genes) of a logarithmic unit (see `fm_med.rna.units.to_logarithm`).
            genes: Names of the columns, without Ensembl versions.
            unit: Of the values.
            device: Where the result lies.

        Returns:
            `input_ids` (batch, tokens) int64 and `attention_mask` (batch, tokens) bool, True where
            there is a token; as long as the longest sentence.

        Raises:
            InputError: Another unit, too few of the genes, or a sample that expresses none.
        """
        values = self.in_units(values, unit)
        place = self.place_of(genes)
        there = np.flatnonzero(place >= 0)
        known = values[:, place[there]]
        score = _to_shares(known, self.units) / np.array(self.medians)[there]
        score[known <= 0] = -np.inf
        expressed = np.isfinite(score).sum(axis=1)
        if not expressed.all():
            row = int(np.flatnonzero(expressed == 0)[0])
            raise InputError(
                f"sample {row + 1} of {len(values)} expresses none of the model's genes"
            )
        ends = (self.first_token is not None) + (self.last_token is not None)
        length = np.minimum(expressed, self.max_tokens - ends)
        order = np.argsort(-score, axis=1, kind="stable")[:, : length.max()]
        sentence = np.array(self.tokens, np.int64)[there][order]
        sentence[np.arange(sentence.shape[1]) >= length[:, None]] = self.pad_token
        return self._with_ends(sentence, length, device)

    def _with_ends(
        self, sentence: np.ndarray, length: np.ndarray, device: torch.device | str
    ) -> dict[str, Tensor]:
        """Put first and last token around the genes."""
        rows, first = len(sentence), self.first_token is not None
        blank = np.full((rows, 1), self.pad_token, np.int64)
        parts = [np.full_like(blank, self.first_token)] if first else []
        parts += [sentence] + ([blank] if self.last_token is not None else [])
        whole, filled = np.concatenate(parts, axis=1), length + first
        if self.last_token is not None:
            whole[np.arange(rows), filled] = self.last_token
            filled = filled + 1
        mask = np.arange(whole.shape[1]) < filled[:, None]
        return {
            "input_ids": torch.from_numpy(whole).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }


def _to_shares(values: np.ndarray, unit: str) -> np.ndarray:
    """Return (samples, genes) float64 on a linear scale; a sum of TPM becomes ten thousand.

    Raises:
        InputError: The unit has no known linear scale.
    """
    kind = UNITS[unit]
    if kind.linear is None or kind.sum is None:
        raise InputError(f"rank values need a linear scale, which {unit} ({kind.meaning}) has not")
    return kind.linear(values.astype(np.float64)) * (TEN_THOUSAND / kind.sum)
