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


def free_axes(model: LoadedModel) -> dict[int, str]:
    """Return the axes of any length: rows, and of a table with visits the visits."""
    visits = bool(getattr(model.processor, "visits", False))
    return {0: "rows", 1: "visits"} if visits else {0: "rows"}
