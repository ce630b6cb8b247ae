"""Save a model as one self-contained folder; load it from there or from the Hugging Face Hub."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel

import fm_med.auto  # noqa: F401  (registers the encoders with the Auto classes)
from fm_med.alignment import AlignmentHeads
from fm_med.atomic import atomic_folder
from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.recording import Recording
from fm_med.errors import InputError
from fm_med.quiet import quietly


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
    processor: EcgProcessor
    alignment: AlignmentHeads | None
    folder: Path

    @torch.inference_mode()
    def embed(self, recordings: Recording | list[Recording]) -> np.ndarray:
        """Return the pooled features of one recording or a list of them.

        Args:
            recordings: From `fm_med.ecg.records.read_recording`.

        Returns:
            (recordings, pooled_size) float32.
        """
        inputs = self.processor(recordings)
        inputs = {name: value.to(self.encoder.device) for name, value in inputs.items()}
        return self.encoder(**inputs).pooler_output.float().cpu().numpy()


def save(
    folder: Path,
    *,
    encoder: PreTrainedModel,
    processor: EcgProcessor,
    alignment: AlignmentHeads,
    sample: dict[str, torch.Tensor],
    text_model: Path | None = None,
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

    Raises:
        RuntimeError: What was saved does not reproduce the encoder; the folder is not made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with quietly(), atomic_folder(folder) as temporary:
        encoder.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        alignment.save_pretrained(temporary / "alignment")
        if text_model is not None:
            shutil.copytree(text_model, temporary / "text_model")
        _check_saved(temporary, encoder, sample)
        if (folder / "config.json").is_file():  # a resumed run writes its model again
            shutil.rmtree(folder)


def _check_saved(folder: Path, encoder: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Load a saved encoder and compare its output with the encoder in memory, bit for bit."""
    with torch.inference_mode():
        expected = encoder.eval()(**inputs).pooler_output
        device = str(expected.device)
        found = load(folder, device=device).encoder(**inputs).pooler_output
    if not torch.equal(expected, found):
        difference = (expected - found).abs().max().item()
        raise RuntimeError(f"{folder} does not reproduce the trained encoder: off by {difference}")


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
    encoder = _whole(AutoModel, folder).to(device).eval()
    alignment = None
    if (folder / "alignment").is_dir():
        alignment = _whole(AlignmentHeads, folder / "alignment").to(device).eval()
    return LoadedModel(encoder, AutoFeatureExtractor.from_pretrained(folder), alignment, folder)


def _whole(model_class: Any, folder: Path) -> Any:
    """Load a model of which every weight is in the file and every weight of the file is used.

    Raises:
        InputError: Weights are missing, foreign or of another shape, or the file is damaged.
    """
    try:
        with quietly():
            model, found = model_class.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the model in {folder} cannot be loaded: {reason}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            names = ", ".join(map(str, sorted(found[kind])[:3]))
            raise InputError(f"the weights in {folder} have {kind.replace('_', ' ')}: {names}")
    return model


def start_encoder(
    name_or_path: str, *, sampling_rate: float, seconds: float
) -> tuple[PreTrainedModel, EcgProcessor]:
    """Return an encoder to train and its processor.

    Args:
        name_or_path: A name in `ENCODERS` starts from scratch; a folder or Hub id continues a
            saved encoder, with its own processor.
        sampling_rate: Hz that a new encoder sees.
        seconds: Length that a new encoder sees.
    """
    if name_or_path in ENCODERS:
        kind = ENCODERS[name_or_path]
        processor = EcgProcessor(sampling_rate=sampling_rate, seconds=seconds)
        return kind(kind.config_class()), processor
    saved = load(name_or_path)
    return saved.encoder, saved.processor


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
            f"{name_or_path} is no encoder ({', '.join(ENCODERS)}), no folder, and no model that "
            f"the Hub can give ({reason})"
        ) from None
