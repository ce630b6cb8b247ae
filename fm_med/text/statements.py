"""SCP-ECG codes as sentences: a report form that does not depend on the language it was written in.

PTB-XL's reports are German, English and machine text; its codes are one vocabulary. The form is
that of Chen et al. (IEEE TBD 2025, arXiv 2403.10581): `{category}: {description}` per code,
embedded one by one and averaged by likelihood. The sentences are PTB-XL's own, CC BY 4.0, see
`scp_statements.json`.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from fm_med.errors import InputError

if TYPE_CHECKING:
    from fm_med.text.store import ReportStore

Codes = Sequence[tuple[str, float]]


@cache
def scp_sentences() -> dict[str, str]:
    """Return `{category}: {description}` of each of the 71 SCP-ECG codes of PTB-XL."""
    table = json.loads((files("fm_med.text") / "scp_statements.json").read_text("utf-8"))
    return {
        code: f"{statement['category']}: {statement['description']}"
        for code, statement in table["statements"].items()
    }


def statements(codes: Codes) -> list[tuple[str, float]]:
    """Turn one recording's SCP codes into sentences with weights that sum to 1.

    A code weighs likelihood / sum of likelihoods. Likelihood 0 means 'not stated' in PTB-XL, as for
    every rhythm and form code; such a code counts only where no other is left (the published code
    gives None there).

    Args:
        codes: (SCP code, likelihood in percent) of one recording.

    Returns:
        (sentence, weight) of the codes that count, in the order given.

    Raises:
        InputError: No code, an unknown code, or a likelihood that is negative or not finite.
    """
    if not codes:
        raise InputError("a recording has no SCP code: drop rows without codes first")
    sentences = scp_sentences()
    for code, likelihood in codes:
        if code not in sentences:
            raise InputError(f"unknown SCP code {code!r}: not among the {len(sentences)} of PTB-XL")
        if not (math.isfinite(likelihood) and likelihood >= 0):
            raise InputError(f"SCP code {code} has likelihood {likelihood}, expected 0 to 100")
    total = sum(likelihood for _, likelihood in codes)
    if total == 0:
        return [(sentences[code], 1 / len(codes)) for code, _ in codes]
    return [(sentences[code], value / total) for code, value in codes if value > 0]


def embed_statements(store: "ReportStore", rows: Sequence[Codes]) -> np.ndarray:
    """Embed recordings by their SCP codes: (rows, dim) float32, the weighted mean over statements.

    Args:
        store: Each sentence is embedded once, so a whole cohort costs at most 71 forward passes.
        rows: The codes of each recording.

    Raises:
        InputError: As `statements`, with the number of the row.
    """
    sentences: list[str] = []
    weights: list[float] = []
    owner: list[int] = []
    for number, codes in enumerate(rows):
        try:
            parts = statements(codes)
        except InputError as error:
            raise InputError(f"row {number}: {error}") from None
        sentences += [sentence for sentence, _ in parts]
        weights += [weight for _, weight in parts]
        owner += [number] * len(parts)
    distinct, which = store.embed_distinct(sentences)
    share = np.zeros((len(rows), len(distinct)), dtype=np.float32)  # at most 71 columns
    for row, column, weight in zip(owner, which, weights, strict=True):
        share[row, column] += weight  # a code may stand twice
    return share @ distinct


def embed_reports(store: "ReportStore", reports: Sequence[str]) -> np.ndarray:
    """Embed recordings by their reports as written: (rows, dim) float32.

    Raises:
        InputError: A report is missing or blank, with the number of the row.
    """
    for number, report in enumerate(reports):
        if not isinstance(report, str):
            raise InputError(f"row {number} has no report: drop rows without a report first")
    return store.embed(reports)
