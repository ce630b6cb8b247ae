"""Load what a run saved, from a folder or from the Hugging Face Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel

import fm_med.auto  # noqa: F401  (registers the encoders with the Auto classes)
from fm_med.alignment import AlignmentHeads
from fm_med.errors import InputError


@dataclass
class LoadedModel:
    """An encoder with the processor it was trained with, ready for new recordings.

    Attributes:
        encoder: In evaluation mode, on `device`.
        processor: Turns recordings of any rate and lead order into the encoder's input.
        alignment: Projections into the space shared with reports; None if not pretrained with text.
        folder: The local folder it was read from.
    """

    encoder: PreTrainedModel
    processor: Any
    alignment: AlignmentHeads | None
    folder: Path

    @torch.inference_mode()
    def embed(self, recordings: Any) -> np.ndarray:
        """Return the pooled features of one recording or a list of them.

        Args:
            recordings: What the processor takes, for an ECG `fm_med.ecg.records.Recording`.

        Returns:
            (recordings, pooled_size) float32.
        """
        inputs = self.processor(recordings)
        inputs = {name: value.to(self.encoder.device) for name, value in inputs.items()}
        return self.encoder(**inputs).pooler_output.float().cpu().numpy()


def load(
    name_or_path: str | Path, *, revision: str | None = None, device: str = "cpu"
) -> LoadedModel:
    """Load a saved model from a folder or a Hub id; nothing else needs to be imported.

    Args:
        name_or_path: A run's `model` folder, or `organisation/name` on the Hub.
        revision: Branch, tag or commit on the Hub.
        device: Where to put the encoder.

    Raises:
        InputError: No such folder, not a model of fm_med, or not available offline.
    """
    folder = local_folder(name_or_path, revision=revision)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a model of fm_med: it has no {name}")
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    if not str(model_type).startswith("fm_med_"):
        raise InputError(f"{folder} is not a model of fm_med: its model type is {model_type!r}")
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    alignment = None
    if (folder / "alignment").is_dir():
        alignment = AlignmentHeads.from_pretrained(folder / "alignment").to(device).eval()
    return LoadedModel(encoder, AutoFeatureExtractor.from_pretrained(folder), alignment, folder)


def local_folder(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloading it first when it is a Hub id.

    Raises:
        InputError: Neither a folder nor a model that the Hub or its cache can give.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if path.is_absolute() or str(name_or_path).startswith((".", "~")):
        raise InputError(f"there is no folder {name_or_path}")
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name_or_path} is neither a folder nor a model that the Hub can give ({reason})"
        ) from None
