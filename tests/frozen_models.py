"""The checkpoints in `tests/hub/frozen`: how those of this schema were made, and their input.

    python tests/frozen_models.py

writes the folder of the present schema; those of earlier schemas are never written again.
"""

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import numpy as np

FROZEN = Path(__file__).parent / "hub" / "frozen"
MODELS = ("encoder", "risk", "adapter")
CLINICAL = {"age": [60.0, 71.0, None], "sex": ["female", "male", None]}


def recordings():
    """Three recordings out of whole numbers, the same for ever and everywhere."""
    from fm_med.ecg.records import Recording

    sample, lead = np.arange(1000), np.arange(12)[:, None]
    whole = [(sample * (7 + row) + lead * 53) % 401 - 200 for row in range(3)]
    return [
        Recording(
            signal=signal.astype(np.float32) / 256,
            sampling_rate=100.0,
            lead_mask=np.ones(12, bool),
            missing_samples=0,
            resolution=np.full(12, np.nan, np.float32),
        )
        for signal in whole
    ]


def machine():
    """What the last bits of a result depend on."""
    import torch

    kind = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": f"{platform.machine()} {kind}"}


def outputs(place):
    """Return what the three models say, named; float32 features and predictions."""
    import fm_med

    here = Path.cwd()
    os.chdir(place)  # the adapter knows its encoder as ./encoder
    try:
        loaded = {name: fm_med.load(f"./{name}") for name in MODELS}
    finally:
        os.chdir(here)
    found = {"encoder": {"features": loaded["encoder"].embed(recordings())}}
    for name in MODELS[1:]:
        found[name] = loaded[name].predict(recordings(), clinical=CLINICAL)
    return found


def make(place):
    """Write the three models of the present schema and what they say."""
    from hub_models import adapted, pretrained

    from fm_med import hub
    from fm_med.cohort import open_cohort
    from fm_med.sources.simulated import make_simulated

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        cohort = open_cohort(make_simulated(home / "cohort", subjects=40, seed=4, workers=1))
        encoder = pretrained(home / "pretrain")
        risk = adapted(home / "risk", encoder, cohort)
        hub.push(encoder, str(place / "encoder"))
        hub.push(risk, str(place / "risk"))
        here = Path.cwd()
        os.chdir(place)
        hub.push(risk / "adapter", str(place / "adapter"), base="./encoder")
        os.chdir(here)
    for card in place.glob("*/README.md"):
        card.unlink()
    found = outputs(place)
    told = {
        model: {name: values.astype(np.float64).tolist() for name, values in columns.items()}
        for model, columns in found.items()
    }
    text = json.dumps({"machine": machine(), "outputs": told}, indent=1)
    (place / "outputs.json").write_text(text + "\n")


if __name__ == "__main__":
    from fm_med.hub.migrations import SCHEMA_VERSION

    target = FROZEN / f"v{SCHEMA_VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    make(target)
    for name in MODELS:
        size = sum(path.stat().st_size for path in (target / name).rglob("*") if path.is_file())
        print(name, size)
