"""Save a model as one self-contained folder, and prove that it loads the same."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from fm_med.alignment import AlignmentHeads
from fm_med.atomic import atomic_folder
from fm_med.ecg.processor import EcgProcessor
from fm_med.examples import Covariate, coding_to_dicts
from fm_med.hub.loading import HEAD_FOLDER, load
from fm_med.hub.migrations import REFERENCE_FILE, SCHEMA_VERSION, TASK_FILE, write_schema
from fm_med.predictor import Predictor
from fm_med.quiet import quietly
from fm_med.survival.coarsening import coarsened_hazard
from fm_med.tasks import Hazard, Task

ADAPTER_FOLDER = "adapter"


class Trained(Protocol):
    """What a finished fit consists of."""

    predictor: Predictor
    processor: Any
    task: Task


def save(
    folder: Path,
    *,
    encoder: PreTrainedModel,
    processor: EcgProcessor,
    alignment: AlignmentHeads,
    sample: dict[str, torch.Tensor],
    text_model: Path | None = None,
    reference: Mapping[str, Any] | None = None,
) -> None:
    """Write encoder, processor and alignment as one folder, and prove that it loads the same.

    Args:
        folder: The new folder; the encoder's files lie at its top, so that
            `AutoModel.from_pretrained(folder)` gives the encoder.
        encoder: The trained encoder.
        processor: Saved as `preprocessor_config.json`.
        alignment: Saved in `alignment/`.
        sample: Some inputs of the encoder; the saved one must give the same output, bit for bit.
        text_model: Folder of a text model made on this machine, copied to `text_model/` because
            nobody else could find it; None for one from elsewhere.
        reference: Aggregates of the training rows, from `fm_med.reference.kept_reference`.

    Raises:
        RuntimeError: What was saved does not reproduce the encoder; the folder is not made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with quietly(), atomic_folder(folder) as temporary:
        encoder.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        alignment.save_pretrained(temporary / "alignment")
        write_schema(temporary)
        if reference:
            (temporary / REFERENCE_FILE).write_text(json.dumps(reference, indent=1) + "\n")
        if text_model is not None:
            shutil.copytree(text_model, temporary / "text_model")
        _check_encoder(temporary, encoder, sample)
        _make_room(folder)


def save_predictor(
    folder: Path,
    trained: Trained,
    *,
    coding: Sequence[Covariate],
    sample: tuple[dict[str, torch.Tensor], torch.Tensor],
    risks: tuple[Hazard | None, Sequence[float]] = (None, ()),
    notes: dict[str, Any] | None = None,
    adapter: Path | None = None,
) -> None:
    """Write encoder, head, processor and task as one folder, and prove that it loads the same.

    Args:
        folder: The new folder; the encoder, adapters merged, lies at its top, the head in `head/`,
            all else in `task.json`.
        trained: Its predictor (encoder and head, in full precision, without adapters), the
            processor, saved as `preprocessor_config.json`, and the task.
        coding: Of the clinical columns.
        sample: Some inputs of the encoder, and their (rows, covariates); the saved model must
            predict the same for them, bit for bit.
        risks: What turns outputs into risks, such as the baseline hazard of a survival model, and
            the times at which its risks are given; saved without single patients' event times
            (see `fm_med.survival.coarsening`).
        notes: What else belongs into `task.json`: thresholds, how it was trained; aggregates only.
        adapter: Folder of the adapter alone; copied to `adapter/` with all but the encoder.

    Raises:
        RuntimeError: What was saved does not reproduce the predictor; the folder is not made.
    """
    predictor, (baseline, horizons) = trained.predictor, risks
    if baseline is not None:
        usual = getattr(trained.task, "horizons", ())  # an evaluation asks for these
        baseline = coarsened_hazard(baseline, {*horizons, *usual})
    details = {
        "schema_version": SCHEMA_VERSION,
        "task": trained.task.to_dict(),
        "clinical": coding_to_dicts(coding),
        "horizons": list(horizons),
        "baseline": None if baseline is None else baseline.to_dict(),
        **(notes or {}),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with quietly(), atomic_folder(folder) as temporary:
        predictor.encoder.save_pretrained(temporary)
        places = [temporary]
        if adapter is not None:
            shutil.copytree(adapter, temporary / ADAPTER_FOLDER)
            places.append(temporary / ADAPTER_FOLDER)
        for place in places:
            trained.processor.save_pretrained(place)
            predictor.head.save_pretrained(place / HEAD_FOLDER)
            (place / TASK_FILE).write_text(json.dumps(details, indent=1) + "\n")
            _check_predictor(place, predictor, sample)
        _make_room(folder)


def _check_encoder(folder: Path, encoder: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Load a saved encoder and compare its output with the encoder in memory, bit for bit."""
    with torch.inference_mode():
        expected = encoder.eval()(**inputs).pooler_output
        device = str(expected.device)
        found = load(folder, device=device).encoder(**inputs).pooler_output
    _refuse_difference(folder, expected, found)


def _check_predictor(
    folder: Path, predictor: Predictor, sample: tuple[dict[str, torch.Tensor], torch.Tensor]
) -> None:
    """Load a saved model and compare its prediction with the one in memory, bit for bit."""
    inputs, clinical = sample
    with torch.inference_mode():
        named = predictor.eval()(clinical=clinical, **inputs)
        expected = named[predictor.head.config.output_name]
        found = load(folder, device=str(expected.device)).outputs(inputs, clinical)
    _refuse_difference(folder, expected, found)


def _refuse_difference(folder: Path, expected: torch.Tensor, found: torch.Tensor) -> None:
    if not torch.equal(expected, found):
        difference = (expected - found).abs().max().item()
        raise RuntimeError(f"{folder} does not reproduce the trained encoder: off by {difference}")


def _make_room(folder: Path) -> None:
    """Remove the model of an earlier end of the same run: a resumed run writes it again."""
    if (folder / "config.json").is_file():
        shutil.rmtree(folder)
