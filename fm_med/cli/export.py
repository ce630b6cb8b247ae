"""`fm-med export`: a model as ONNX."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fm_med.cli.command import Command
from fm_med.settings import argument, setting


@dataclass
class Export:
    """Settings of `fm-med export`."""

    model: str = argument("folder of a model, or a Hub id")
    destination: str = argument("new file ending in .onnx; a .json is written beside it")
    json: bool = setting(False, "print the result as JSON")


def export(settings: Export) -> None:
    """Write the files and say how far they agree with the model."""
    from fm_med import hub, onnx_export

    done = onnx_export.export(hub.load(settings.model), Path(settings.destination))
    if settings.json:
        print(json.dumps(asdict(done), default=str))
        return
    found = done.largest_difference
    checked = "not checked: onnxruntime is not installed"
    if found is not None:
        checked = f"agrees with the model to {found:.1e}"
    print(f"{done.path}: {checked}; what to do before and after it: {done.description}")


EXPORT_COMMANDS = {"export": Command(Export, export, "write a model as ONNX, steps beside it")}
