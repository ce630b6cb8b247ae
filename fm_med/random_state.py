"""Every random generator of a process, taken down and put back, without pickling."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Collect this process's generators: Python's as JSON, numpy's and torch's as tensors."""
    state: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = state
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return {"python": random.getstate(), "tensors": tensors}


def set_random_state(python: list[Any], tensors: dict[str, torch.Tensor]) -> None:
    """Undo `random_state`."""
    version, internal, gauss = python
    random.setstate((version, tuple(internal), gauss))
    position, has_gauss, cached = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
