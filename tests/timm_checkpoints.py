"""Small checkpoints as timm writes them, whose features timm itself computed.

Their weights come from a formula, so that `reference_timm.json` only holds configs, shapes and what
came out; `image/reference_timm.py`, which needs timm, makes it from the same formula.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

REFERENCE = Path(__file__).parent / "image" / "reference_timm.json"


def noise(shape, number):
    """Return values in -1 to 1 that no library's generator changes."""
    waves = np.sin(12.9898 * np.arange(1, np.prod(shape) + 1) + 78.233 * number) * 43758.5453
    return (2 * (waves - np.floor(waves)) - 1).reshape(shape)


def weights(shapes):
    """Return weights by timm's names; the tokens are small, so that a norm's epsilon counts."""
    found = {}
    for number, name in enumerate(sorted(shapes)):
        values = noise(shapes[name], number)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.3 * values
        elif name.endswith("gamma"):
            values = 0.6 + 0.4 * values
        elif name.startswith(("cls", "pos", "reg", "patch")):
            values = 0.003 * values
        else:
            values = 0.4 * values
        found[name] = values.astype(np.float32)
    return found


def pixels(edge):
    """Return one image, (1, 3, edge, edge)."""
    return noise((1, 3, edge, edge), 1000).astype(np.float32)


def reference():
    """Return what timm computed."""
    return json.loads(REFERENCE.read_text())


def write(folder, case, *, config=None, tensors=None):
    """Write a case of the reference as a checkpoint of timm; return its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or case["config"]))
    save_file(weights(case["shapes"]) if tensors is None else tensors, folder / "model.safetensors")
    return folder
