"""What a user of an exported model must know: inputs, outputs, the steps before and after."""

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from fm_med.fusion.naming import JOINT, PARTS, PRESENT
from fm_med.hub import LoadedModel
from fm_med.modalities import modality_of, modality_of_encoder
from fm_med.onnx_export.inputs import CLINICAL, POOLED, Arrays, free_axes, outputs_of

FORMAT = 1


def describe(model: LoadedModel, example: Arrays, used: Sequence[str]) -> dict[str, Any]:
    """Return all that a user of the file must know, as JSON values.

    Args:
        model: The model.
        example: Its inputs.
        used: Names of the inputs that the graph has; others have no influence.
    """
    axes = free_axes(model, example)
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
                "shape": [axes[name].get(k, n) for k, n in enumerate(value.shape)],
            }
            for name, value in example.items()
            if name in used
        ],
        "outputs": outputs_of(model),
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
