"""Write the graph of a model as ONNX, and prove that it predicts the same."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fm_med.atomic import atomic_file
from fm_med.errors import InputError
from fm_med.hub import LoadedModel
from fm_med.onnx_export.description import describe
from fm_med.onnx_export.inputs import CLINICAL, Arrays, example_inputs, free_axes, outputs_of
from fm_med.quiet import quietly

TOLERANCE = 1e-4
_EXPORTED, _CHECKED = 4, (1, 7)  # rows


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The ONNX file.
        description: The JSON beside it.
        largest_difference: Between onnxruntime and torch; None where it is not installed.
    """

    path: Path
    description: Path
    largest_difference: float | None


class _Graph(nn.Module):
    """Encoder and head with inputs by place, as an exported graph has them."""

    def __init__(
        self, encoder: PreTrainedModel, head: PreTrainedModel | None, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.names = encoder, head, tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding, after it the head's output if there is one."""
        inputs = dict(zip(self.names, values))
        clinical = inputs.pop(CLINICAL, None)
        pooled = self.encoder(**inputs).pooler_output
        if self.head is None:
            return (pooled,)
        return pooled, self.head(pooled, clinical)[self.head.config.output_name]


def export(model: LoadedModel, path: Path) -> Exported:
    """Write a model as ONNX and a JSON of the same name beside it; batches may be of any size.

    Where onnxruntime is installed the file is run on two batches of other sizes, masks included,
    before it is put in its place.

    Args:
        model: From `fm_med.load`, on the CPU.
        path: The new file, ending in .onnx.

    Raises:
        InputError: The path is taken or ends otherwise, onnx is not installed, or the encoder uses
            what ONNX does not have.
        RuntimeError: The file does not agree with the model within `TOLERANCE`.
    """
    beside = path.with_suffix(".json")
    if path.suffix != ".onnx":
        raise InputError(f"{path} does not end in .onnx")
    for file in (path, beside):
        if file.exists():
            raise InputError(f"{file} exists already")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {' and '.join(missing)}: pip install 'fm-med[onnx]'")
    example = example_inputs(model, _EXPORTED, seed=0)
    graph = _Graph(model.encoder, model.head, list(example)).eval()
    program = _program(graph, example, outputs_of(model), free_axes(model, example), model.folder)
    described = describe(model, example, _used_inputs(program))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, _silence():
        difference = None
        program.save(str(temporary))
        if find_spec("onnxruntime") is not None:
            difference = _difference(temporary, graph, model)
            described["agreement"] = {
                "largest_difference": difference,
                "tolerance": TOLERANCE,
                "rows": list(_CHECKED),
                "onnxruntime": metadata.version("onnxruntime"),
            }
        program.model.metadata_props["fm_med"] = json.dumps(described)
        program.save(str(temporary))
    with atomic_file(beside) as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return Exported(path, beside, difference)


def _program(
    graph: _Graph,
    example: Arrays,
    outputs: list[str],
    axes: Mapping[str, Mapping[int, str]],
    folder: Path,
) -> Any:
    """Export the graph.

    Raises:
        InputError: Something in it has no counterpart in ONNX.
    """
    values = tuple(torch.from_numpy(value) for value in example.values())
    free = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes[name]} for name in example)
    from torch.onnx.errors import OnnxExporterError

    try:
        with _silence(), torch.no_grad():
            return torch.onnx.export(
                graph,
                values,
                input_names=list(example),
                output_names=outputs,
                dynamic_shapes=(free,),
                dynamo=True,
                verbose=False,
            )
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        kind = type(graph.encoder).__name__
        raise InputError(f"{folder}: {kind} cannot be exported to ONNX: {reason}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's remarks on torchvision and on its own code from the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _used_inputs(program: Any) -> list[str]:
    return [value.name for value in program.model.graph.inputs]


def _difference(file: Path, graph: _Graph, model: LoadedModel) -> float:
    """Return the largest difference from torch, relative to values above 1.

    Raises:
        RuntimeError: It is above `TOLERANCE`.
    """
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    largest = 0.0
    for rows in _CHECKED:
        inputs = example_inputs(model, rows, seed=rows)
        found = session.run(None, {n: value for n, value in inputs.items() if n in known})
        with torch.inference_mode():
            expected = graph(*(torch.from_numpy(value) for value in inputs.values()))
        for ours, other in zip(expected, found):
            wanted = ours.numpy()
            if other.shape != wanted.shape:
                raise RuntimeError(f"{rows} rows give {other.shape} instead of {wanted.shape}")
            apart = np.abs(other - wanted) / np.maximum(1.0, np.abs(wanted))
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max()))
    if largest > TOLERANCE:
        raise RuntimeError(f"the ONNX file differs from the model by {largest:g}")
    return largest
