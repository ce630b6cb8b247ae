"""Which rows hold which part, and what stands in rows that do not."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fm_med.errors import InputError
from fm_med.fusion.naming import PARTS


def presence(
    given: dict[str, Tensor | None], own: dict[str, dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return (batch,) bool of both parts; a part without any inputs is absent.

    Raises:
        InputError: A part is said to be there without inputs.
    """
    there = [*given.values(), *(value for inputs in own.values() for value in inputs.values())]
    example = next((value for value in there if value is not None), None)
    if example is None:
        raise InputError("a late fusion was given no inputs")
    found = {}
    for part in PARTS:
        value = given[part]
        if value is None:
            value = torch.full((len(example),), bool(own[part]), device=example.device)
        if not own[part] and value.any():
            raise InputError(f"{part}_present is true in rows without inputs {part}_...")
        found[part] = value.bool()
    return found


def blanked(inputs: Mapping[str, Tensor], shown: Tensor) -> dict[str, Tensor]:
    """Replace what absent rows hold, which may be NaN, by what every encoder can read.

    Numbers become zero and masks true: an encoder need not know rows without leads or visits.
    """
    blanked = {}
    for name, value in inputs.items():
        absent = ~shown.view(-1, *(1,) * (value.ndim - 1))
        # `|` for bools: masked_fill of bools is nothing that ONNX can do.
        is_mask = value.dtype is torch.bool
        blanked[name] = value | absent if is_mask else value.masked_fill(absent, 0)
    return blanked


def refuse_batch_norm(encoder: nn.Module, shown: Tensor) -> None:
    """Refuse statistics over rows that are not there.

    Raises:
        InputError: A BatchNorm is in training mode, and rows are absent.
    """
    norms = (m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if any(norm.training for norm in norms) and not shown.all():
        raise InputError(
            f"{type(encoder).__name__} has BatchNorms, which would average over rows without its "
            "modality; freeze them (norms: frozen), or take an encoder without and no "
            "modality_dropout"
        )
