"""What the two parts of a fusion are called: in a card, in a cohort's columns, among inputs."""

from collections.abc import Mapping
from typing import Any

PARTS = ("first", "second")
JOINT = "+"  # between the names of two modalities, their units, their encoders
UNITS_JOINT = f" {JOINT} "
PRESENT = "present"


def presence_column(modality: str) -> str:
    """Return the cohort's column that is true where a row holds this modality."""
    return f"has_{modality}"


def inputs_of(part: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of one part's encoder, under the encoder's own names."""
    own = {k.removeprefix(f"{part}_"): v for k, v in inputs.items() if k.startswith(f"{part}_")}
    return {name: value for name, value in own.items() if name != PRESENT}


def named_for(part: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return one encoder's inputs under the names that they have among those of both."""
    return {f"{part}_{name}": value for name, value in inputs.items()}
