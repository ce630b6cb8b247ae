"""Write a model as ONNX, with all that must be done around it told in words and numbers.

The graph is encoder and head. What the processor does before it and what turns its output into
risks after it are no part of it: they are written beside it as JSON, and into its metadata.
"""

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
from fm_med.fusion.naming import JOINT, PARTS, PRESENT, named_for
from fm_med.hub import LoadedModel
from fm_med.modalities import modality_of, modality_of_encoder
from fm_med.quiet import quietly

TOLERANCE = 1e-4
FORMAT = 1
POOLED, CLINICAL = "pooler_output", "clinical"
_EXPORTED, _CHECKED = 4, (1, 7)  # rows

Arrays = dict[str, np.ndarray]


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
    program = _program(graph, example, _outputs(model), _free_axes(model), model.folder)
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


# ----------------------------------------------------------------------------------- Graph


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


def _outputs(model: LoadedModel) -> list[str]:
    return [POOLED, *([model.head.config.output_name] if model.head is not None else [])]


def _free_axes(model: LoadedModel) -> dict[int, str]:
    """Return the axes of any length: rows, and of a table with visits the visits."""
    visits = bool(getattr(model.processor, "visits", False))
    return {0: "rows", 1: "visits"} if visits else {0: "rows"}


def _program(
    graph: _Graph, example: Arrays, outputs: list[str], axes: Mapping[int, str], folder: Path
) -> Any:
    """Export the graph.

    Raises:
        InputError: Something in it has no counterpart in ONNX.
    """
    values = tuple(torch.from_numpy(value) for value in example.values())
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis in axes if name != CLINICAL or axis == 0}
        for name in example
    )
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


# ----------------------------------------------------------------------------- Description


def describe(model: LoadedModel, example: Arrays, used: Sequence[str]) -> dict[str, Any]:
    """Return all that a user of the file must know, as JSON values.

    Args:
        model: The model.
        example: Its inputs.
        used: Names of the inputs that the graph has; others have no influence.
    """
    axes = _free_axes(model)
    details = {k: v for k, v in model.details.items() if k not in ("reference", "training")}
    return {
        "format": FORMAT,
        "fm_med": metadata.version("fm-med"),
        "notice": "Not a medical device. Research use only.",
        "modality": modality_of_encoder(model.encoder).name,
        "encoder": str(model.encoder.config.model_type),
        "inputs": [
            {
                "name": name,
                "type": str(value.dtype),
                "shape": [
                    axes.get(k, n) if name != CLINICAL or k == 0 else n
                    for k, n in enumerate(value.shape)
                ],
            }
            for name, value in example.items()
            if name in used
        ],
        "outputs": _outputs(model),
        "before": _before(model),
        "after": _after(model),
        "processor": model.processor.to_dict(),
        "model": details,
    }


def _before(model: LoadedModel) -> list[str]:
    """Return the steps from rows to inputs."""
    name, steps = modality_of_encoder(model.encoder).name, []
    if JOINT in name:
        for place, part in zip(PARTS, name.split(JOINT)):
            room = modality_of(part).describing
            assert room is not None  # every room has it
            own = room.steps(getattr(model.processor, place))
            steps += [f"{place} ({part}): {step}" for step in own]
            steps.append(f"{place}_{PRESENT}: true in rows that have {part}; else zeros.")
    else:
        room = modality_of(name).describing
        assert room is not None
        steps = room.steps(model.processor)
    if model.coding:
        fills = ", ".join(f"{one.name} ({one.kind}, {one.fill:g})" for one in model.coding)
        steps.append(
            f"{CLINICAL}: float32 (rows, {len(model.coding)}), not standardised; in this order "
            f"with the value for a missing one: {fills}; sex is female 0, male 1; yes/no is 1/0."
        )
    return steps


def _after(model: LoadedModel) -> list[str]:
    """Return what the outputs mean."""
    meaning = [f"{POOLED}: pooled features of the encoder."]
    if model.task is None or model.head is None:
        return meaning
    name = model.head.config.output_name
    means = {
        "survival": "f; the risk at time t is 1 - exp(-h(t) exp(f - centre)), where h is the last "
        "relative_hazard whose time is not after t (0 before the first); both lists, centre and "
        "follow_up, beyond which there is no risk, are in model.baseline",
        "multilabel": f"a sigmoid gives the probability of each of {list(model.task.classes)}; "
        "thresholds in model.thresholds",
        "classification": f"a softmax gives the probabilities of {list(model.task.classes)}",
        "regression": "times task.scale plus task.mean, both in `model`, is the number",
    }
    return [*meaning, f"{name}: {means.get(model.task.name, 'see the task in `model`')}."]
