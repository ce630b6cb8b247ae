"""Names, shapes and made-up values of what a graph takes and gives."""

from typing import Any

import numpy as np

from fm_med.fusion.naming import JOINT, PARTS, PRESENT, named_for
from fm_med.hub import LoadedModel
from fm_med.modalities import modality_of, modality_of_encoder

POOLED, CLINICAL = "pooler_output", "clinical"

Arrays = dict[str, np.ndarray]


def example_inputs(model: LoadedModel, rows: int, *, seed: int) -> Arrays:
    """Return made-up inputs, masks and clinical covariates included."""
    name = modality_of_encoder(model.encoder).name
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    if JOINT in name:
        for place, part in zip(PARTS, name.split(JOINT)):
            shown = np.arange(rows) % 3 != PARTS.index(place)
            own = _of_room(part, getattr(model.processor, place), rows, seed)
            made |= named_for(place, {PRESENT: shown, **own})
    else:
        made = _of_room(name, model.processor, rows, seed)
    if model.coding:
        filled = np.array([covariate.fill for covariate in model.coding])
        drawn = filled + rng.normal(size=(rows, len(filled)))
        made[CLINICAL] = drawn.astype(np.float32)
    return made


def _of_room(modality: str, processor: Any, rows: int, seed: int) -> Arrays:
    describing = modality_of(modality).describing
    assert describing is not None  # every room has it
    return describing.example(processor, rows, seed)


def outputs_of(model: LoadedModel) -> list[str]:
    """Return the names of the outputs."""
    return [POOLED, *([model.head.config.output_name] if model.head is not None else [])]


def free_axes(model: LoadedModel, example: Arrays) -> dict[str, dict[int, str]]:
    """Return, of each input, the axes of any length.

    These are the rows, of a table with visits the visits, of a sentence of genes its tokens.
    """
    return {name: _free_axes(model.processor, name, value) for name, value in example.items()}


def _free_axes(processor: Any, name: str, value: np.ndarray) -> dict[int, str]:
    place = next((part for part in PARTS if name.startswith(f"{part}_")), "")
    processor = getattr(processor, place, processor)
    if name == CLINICAL or value.ndim == 1:
        return {0: "rows"}
    if getattr(processor, "visits", False):
        return {0: "rows", 1: "visits"}
    return {0: "rows", 1: "tokens"} if hasattr(processor, "max_tokens") else {0: "rows"}
