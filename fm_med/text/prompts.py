"""Prompts for zero-shot reading: what a report says where a label is present, and where it is not.

A file holds `{label: {"present": [text, ...], "absent": [text, ...]}}`. Those of the package are
`superclass` (PTB-XL's five, English and German), `superclass_statements` (the same in the form of
`fm_med.text.statements`) and `findings` (the simulated cohort's fifteen).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fm_med.errors import InputError

Prompts = dict[str, dict[str, list[str]]]

_SIDES = ("present", "absent")


def available_prompts() -> list[str]:
    """Return the names of the prompt files of the package."""
    folder = files("fm_med.text") / "prompts"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))


def load_prompts(name_or_path: str | Path) -> Prompts:
    """Read a prompt file by its name in the package or by path.

    Returns:
        For each label, in the order of the file, its `present` and `absent` texts.

    Raises:
        InputError: No such file, not JSON, or not of the form above.
    """
    if str(name_or_path) in available_prompts():
        text = (files("fm_med.text") / "prompts" / f"{name_or_path}.json").read_text("utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text("utf-8", errors="replace")
    else:
        raise InputError(
            f"there are no prompts {str(name_or_path)!r}: name a JSON file or one of "
            f"{', '.join(available_prompts())}"
        )
    try:
        prompts = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"prompt file {name_or_path} is not JSON: {error}") from None
    _check(prompts, str(name_or_path))
    return prompts


def zero_shot_directions(
    embed: Callable[[Sequence[str]], np.ndarray], prompts: Mapping[str, Mapping[str, Sequence[str]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Average the embeddings of each label's prompts.

    A label's score is the similarity of a recording to `present` minus that to `absent`, once both
    are in the shared space.

    Args:
        embed: Texts to (texts, dim): `ReportStore.embed` or `FrozenTextEncoder.encode`.
        prompts: What `load_prompts` returns.

    Returns:
        present and absent, (labels, dim) float32 each, not centred, in the order of `prompts`.
    """
    texts = [text for sides in prompts.values() for side in _SIDES for text in sides[side]]
    embeddings = embed(texts)
    means = []
    start = 0
    for sides in prompts.values():
        for side in _SIDES:
            stop = start + len(sides[side])
            means.append(embeddings[start:stop].mean(0))
            start = stop
    return np.stack(means[0::2]), np.stack(means[1::2])


def _check(prompts: Any, name: str) -> None:
    """Refuse a file that is not `{label: {"present": [text], "absent": [text]}}`."""
    if not isinstance(prompts, dict) or not prompts:
        raise InputError(f"prompt file {name} must be an object with at least one label")
    for label, sides in prompts.items():
        if not isinstance(sides, dict) or set(sides) != set(_SIDES):
            raise InputError(f"prompt file {name}: label {label!r} needs 'present' and 'absent'")
        for side in _SIDES:
            texts = sides[side]
            fine = isinstance(texts, list) and texts
            if not fine or not all(isinstance(text, str) and text.strip() for text in texts):
                raise InputError(
                    f"prompt file {name}: {side!r} of {label!r} must be a list of non-blank texts"
                )
