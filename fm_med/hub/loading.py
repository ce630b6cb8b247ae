"""Load a saved model from a folder or from the Hugging Face Hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel

import fm_med.auto  # noqa: F401  (registers the encoders with the Auto classes)
from fm_med.alignment import AlignmentHeads
from fm_med.errors import InputError
from fm_med.examples import Covariate, encode_clinical
from fm_med.heads import PredictionHead
from fm_med.hub.fetching import download, folder_named
from fm_med.hub.migrations import REFERENCE_FILE, TASK_FILE, up_to_date
from fm_med.lora import load_adapter, merge
from fm_med.modalities import MODALITIES, checkpoint_kind
from fm_med.probe_head import ProbeHead
from fm_med.quiet import quietly
from fm_med.tasks import ClassificationTask, FollowUpTask, Hazard, Task, task_from_dict

HEAD_FOLDER = "head"


@dataclass
class LoadedModel:
    """An encoder with the processor it was trained with, ready for new rows.

    Attributes:
        encoder: In evaluation mode, on `device`; adapters are merged into its weights.
        processor: Turns rows of its modality into the encoder's input.
        alignment: Projections into the space shared with reports; None if not pretrained with text.
        folder: The local folder it was read from.
        head: From pooled features to the prediction; None for an encoder alone.
        task: What is predicted; None for an encoder alone.
        coding: How clinical columns become numbers, in the order of the head's covariates.
        baseline: What turns outputs into risks, such as the baseline hazard of a survival model.
        horizons: Times at which risks are given, in the unit of the follow-up.
        details: Content of `task.json`: thresholds, how it was trained; of an encoder alone the
            `reference` at most.
    """

    encoder: PreTrainedModel
    processor: Any
    alignment: AlignmentHeads | None
    folder: Path
    head: PredictionHead | ProbeHead | None = None
    task: Task | None = None
    coding: list[Covariate] = field(default_factory=list)
    baseline: Hazard | None = None
    horizons: tuple[float, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def embed(self, rows: Any) -> np.ndarray:
        """Return the pooled features of rows of a cohort or of what the processor takes.

        Args:
            rows: A `pa.Table` with the processor's `columns`, or for ECGs one recording or a list
                of them, from `fm_med.ecg.records.read_recording`.

        Returns:
            (rows, pooled_size) float32.
        """
        return self.encoder(**self.inputs(rows)).pooler_output.float().cpu().numpy()

    @torch.inference_mode()
    def predict(
        self, rows: Any, *, clinical: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Predict for new rows.

        Args:
            rows: As for `embed`; a table also holds the clinical columns.
            clinical: Clinical columns by name, None for missing values, where `rows` has none.

        Returns:
            Named columns: `log_hazard` and `risk_<horizon>_<unit>` (of competing risks with the
            cause after the first word), `probability_<label>` (and for classes what `decisions`
            returns), or `value`.

        Raises:
            InputError: The model has no head, or a clinical column is missing.
        """
        if self.head is None or self.task is None:
            raise InputError(f"{self.folder} is an encoder without a head; it predicts nothing")
        if isinstance(rows, pa.Table) and clinical is None:
            names = [covariate.name for covariate in self.coding]
            there = [name for name in names if name in rows.column_names]
            clinical = {name: rows.column(name).to_pylist() for name in there}
        inputs = self.inputs(rows)
        number = len(next(iter(inputs.values())))
        covariates = encode_clinical(self.coding, clinical or {}, number, "the input")
        outputs = self.outputs(inputs, torch.from_numpy(covariates)).cpu().numpy()
        columns = self.task.columns_of(outputs) | self.decisions(outputs)
        if isinstance(self.task, FollowUpTask) and self.baseline is not None:
            columns |= self.task.risk_columns(self.baseline, outputs, self.horizons)
        return columns

    @property
    def threshold(self) -> float | None:
        """Confidence below which rows are called no class; None where every row is called one."""
        return (self.details.get("rejection") or {}).get("threshold")

    def decisions(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return `predicted` and perhaps `confident` of a model of classes; else nothing.

        Args:
            outputs: (rows, classes) of the head.
        """
        if not isinstance(self.task, ClassificationTask):
            return {}
        return self.task.decisions(outputs, self.threshold)

    def inputs(self, rows: Any) -> dict[str, Tensor]:
        """Return the encoder's inputs on its device."""
        device = self.encoder.device
        if isinstance(rows, pa.Table):
            return self.processor.from_rows(rows, device)
        return {name: value.to(device) for name, value in self.processor(rows).items()}

    def outputs(self, inputs: dict[str, Tensor], clinical: Tensor) -> Tensor:
        """Return the head's output for prepared inputs and filled covariates."""
        if self.head is None:
            raise InputError(f"{self.folder} is an encoder without a head; it predicts nothing")
        pooled = self.encoder(**inputs).pooler_output
        named = self.head(pooled, clinical.to(pooled.device) if self.coding else None)
        return named[self.head.config.output_name]


def load(
    name_or_path: str | Path, *, revision: str | None = None, device: str = "cpu"
) -> LoadedModel:
    """Load a saved model from a folder or a Hub id; nothing else needs to be imported.

    Args:
        name_or_path: A run's `model` folder, the adapter alone (its encoder is then looked up under
            the name that it states), or `organisation/name` on the Hub; also a foreign checkpoint
            that a modality adopts.
        revision: Branch, tag or commit on the Hub.
        device: Where to put the encoder.

    Raises:
        InputError: No such folder, not a model of fm_med, of a schema that this version does not
            read, or not available offline.
    """
    folder = local_folder(name_or_path, revision=revision)
    with up_to_date(folder) as whole:
        model = _load_folder(whole, device)
    model.folder = folder
    return model


def _load_folder(folder: Path, device: str) -> LoadedModel:
    """Load a model of the present schema."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return _load_adapted(folder, device)
    adopted = adopt(folder, {}, {})
    if adopted is not None:
        adopted.encoder.to(device)
        return adopted
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a model of fm_med: it has no {name}")
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    if not str(model_type).startswith("fm_med_"):
        raise InputError(f"{folder} is not a model of fm_med: its model type is {model_type!r}")
    encoder = _whole(AutoModel, folder).to(device).eval()
    alignment = None
    if (folder / "alignment").is_dir():
        alignment = _whole(AlignmentHeads, folder / "alignment").to(device).eval()
    processor = AutoFeatureExtractor.from_pretrained(folder)
    return _with_head(LoadedModel(encoder, processor, alignment, folder), device)


def adopt(
    folder: Path, encoder_settings: Mapping[str, Any], processor_settings: Mapping[str, Any]
) -> LoadedModel | None:
    """Take a foreign checkpoint, such as a vision model of transformers or timm, as an encoder.

    Args:
        folder: Of the checkpoint.
        encoder_settings: Fields of the config of the encoder that it becomes a part of.
        processor_settings: Of the processor, instead of those that the checkpoint states.

    Returns:
        The encoder; None for a model of fm_med, or of a type that no modality adopts.

    Raises:
        InputError: The checkpoint is not whole, or a setting is unknown.
    """
    kind = checkpoint_kind(folder)
    for modality in MODALITIES.values():
        if kind in modality.adopts:
            make = modality.adopts[str(kind)]
            encoder, processor = make(folder, encoder_settings, processor_settings)
            return LoadedModel(encoder, processor, None, folder)
    return None


def _load_adapted(folder: Path, device: str) -> LoadedModel:
    """Load the encoder that an adapter belongs to, and merge the adapter into it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    base = load(config["base_model_name_or_path"], revision=config.get("revision"))
    encoder = merge(load_adapter(base.encoder, folder, base_folder=base.folder))
    processor = base.processor  # PEFT saves an adapter without one
    if (folder / "preprocessor_config.json").is_file():
        processor = type(processor).from_pretrained(folder)
    adapted = LoadedModel(encoder.to(device).eval(), processor, None, folder)
    return _with_head(adapted, device)


def _with_head(model: LoadedModel, device: str) -> LoadedModel:
    """Read head and task where the folder has them."""
    path = model.folder / TASK_FILE
    if not path.is_file():
        kept = model.folder / REFERENCE_FILE
        model.details = {"reference": json.loads(kept.read_text())} if kept.is_file() else {}
        return model
    details = json.loads(path.read_text())
    model.head = _load_head(model.folder / HEAD_FOLDER).to(device).eval()
    model.task = task_from_dict(details["task"])
    model.coding = [Covariate(**values) for values in details["clinical"]]
    model.horizons = tuple(details["horizons"])
    if isinstance(model.task, FollowUpTask) and details["baseline"] is not None:
        model.baseline = model.task.hazard_from(details["baseline"])
    model.details = details
    return model


def _load_head(folder: Path) -> Any:
    """Load a head of either kind; what scikit-learn fitted keeps its precision."""
    path = folder / "config.json"
    model_type = json.loads(path.read_text()).get("model_type") if path.is_file() else None
    if model_type == ProbeHead.config_class.model_type:
        return _whole(ProbeHead, folder, torch.float64)
    return _whole(PredictionHead, folder)


def _whole(model_class: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model of which every weight is in the file and every weight of the file is used.

    Raises:
        InputError: Weights are missing, foreign or of another shape, or the file is damaged or
            none of safetensors.
    """
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} has no model.safetensors; pickled weights are not read")
    try:
        with quietly():
            model, found = model_class.from_pretrained(
                folder, dtype=dtype, output_loading_info=True, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the model in {folder} cannot be loaded: {reason}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            names = ", ".join(map(str, sorted(found[kind])[:3]))
            raise InputError(f"the weights in {folder} have {kind.replace('_', ' ')}: {names}")
    return model


def local_folder(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloading it first when it is a Hub id.

    Args:
        name_or_path: Of the Hub also with a revision, `organisation/name@revision`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: Neither a folder nor a model that the Hub or its cache can give.
    """
    folder = folder_named(name_or_path)
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {name_or_path}")
        return folder
    name, _, stated = str(name_or_path).partition("@")
    try:
        return download(name, revision=revision or stated or None)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ")
        encoders = [name for modality in MODALITIES.values() for name in modality.encoders]
        kind = "" if "/" in name else f"no encoder ({', '.join(encoders)}), "
        raise InputError(
            f"{name_or_path} is {kind}no folder, and no model that the Hub can give ({reason})"
        ) from None
