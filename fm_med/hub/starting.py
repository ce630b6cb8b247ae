"""Where training starts: a new encoder by its name, or a saved one."""

import copy
import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from fm_med.cohort import CohortCard
from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.hub.loading import LoadedModel, adopt, load, local_folder
from fm_med.lora import file_hash
from fm_med.modalities import Modality, modality_of

Settings = dict[str, Any]


def start_encoder(
    name_or_path: str, *, sampling_rate: float, seconds: float
) -> tuple[PreTrainedModel, EcgProcessor]:
    """Return an ECG encoder to train and its processor.

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


@dataclass(frozen=True)
class Start:
    """Where fine-tuning starts; every fold gets its own copy.

    Attributes:
        modality: Of the cohort.
        name: Of a new encoder, else a folder or Hub id.
        saved: The saved encoder; None for a new one.
        encoder_settings: Fields of a new encoder's config.
        processor_settings: Of a new encoder's processor.
    """

    modality: Modality
    name: str
    saved: LoadedModel | None
    encoder_settings: Settings
    processor_settings: Settings

    @property
    def is_fresh(self) -> bool:
        """Whether the encoder is a new one."""
        return self.saved is None

    @property
    def has_weights(self) -> bool:
        """Whether there is anything to train: not in an encoder that only expands its input."""
        kind = self.modality.encoders[self.name] if self.saved is None else type(self.saved.encoder)
        return getattr(kind, "has_weights", True)

    @property
    def key(self) -> str:
        """What the encoder's weights depend on: a hash of them, or the name of a new encoder."""
        if self.saved is None:
            return self.name
        files = ("model.safetensors", "adapter_model.safetensors")
        present = [
            self.saved.folder / name for name in files if (self.saved.folder / name).is_file()
        ]
        return file_hash(present[0])

    def adapter_base(self, method: str) -> tuple[str, Path]:
        """Return what an adapter states as its encoder, and where that lies on this machine.

        Args:
            method: How the encoder is trained.

        Raises:
            InputError: There will be no adapter, or its encoder could not be found again.
        """
        if method not in ("lora", "dora"):
            raise InputError(f"--save_adapter needs --peft lora or dora, and this is {method}")
        if self.saved is None:
            raise InputError(
                f"--save_adapter needs a saved encoder: {self.name} starts with random weights, "
                "which are kept nowhere"
            )
        if self.encoder_settings or self.processor_settings:
            raise InputError(
                f"--save_adapter: the settings given for {self.name} belong to no encoder that is "
                "saved anywhere; leave them out, or keep the whole model"
            )
        if not (self.saved.folder / "model.safetensors").is_file():
            raise InputError(f"--save_adapter: {self.name} is itself an adapter; use its encoder")
        is_folder = Path(self.name).is_dir()
        return str(Path(self.name).resolve()) if is_folder else self.name, self.saved.folder

    def build(self, train: Examples) -> tuple[PreTrainedModel, Any]:
        """Return an encoder to train and its processor.

        Args:
            train: The rows that a new processor may learn from (medians, levels, genes).

        Raises:
            InputError: A setting is unknown or impossible.
        """
        if self.saved is not None:
            return copy.deepcopy(self.saved.encoder), self.saved.processor
        kind = self.modality.processor
        rows = np.arange(len(train) if getattr(kind, "fits_rows", True) else 0)
        table = train.table(rows=rows) if len(rows) else None
        processor = kind.for_cohort(train.cohort.card, table, **self.processor_settings)
        settings = {**processor.encoder_settings(), **self.encoder_settings}
        return _new_encoder(self.name, self.modality.encoders[self.name], settings), processor


def _new_encoder(name: str, kind: type[PreTrainedModel], settings: Settings) -> PreTrainedModel:
    """Build an encoder of random weights; a config of transformers takes any misspelt field.

    Raises:
        InputError: A setting is unknown or impossible.
    """
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{name} has no setting {unknown[0]!r}{meant}")
    try:
        return kind(kind.config_class(**settings))
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} cannot be built: {reason}") from error


def start_from(
    name: str | None,
    card: CohortCard,
    *,
    encoder_settings: Settings | None = None,
    processor_settings: Settings | None = None,
) -> Start:
    """Find the encoder to fine-tune on a cohort.

    Args:
        name: A name of the modality's encoders starts from scratch; a folder or Hub id continues a
            saved encoder, with its own processor, or a foreign checkpoint that the modality adopts
            (for images any of several kinds of vision models). None takes the modality's first
            encoder.
        card: Of the cohort.
        encoder_settings: Fields of a new encoder's config, or of that around a foreign checkpoint.
        processor_settings: Of a new encoder's processor, or instead of a foreign checkpoint's.

    Raises:
        InputError: No such encoder, one of another modality, or settings for a saved one.
    """
    modality = modality_of(card.modality)
    name = name or next(iter(modality.encoders))
    encoder_settings, processor_settings = encoder_settings or {}, processor_settings or {}
    if name in modality.encoders:
        return Start(modality, name, None, encoder_settings, processor_settings)
    adopted = adopt(local_folder(name), encoder_settings, processor_settings)
    saved = adopted or load(name)
    if not isinstance(saved.processor, modality.processor):
        raise InputError(
            f"{name} was trained on what {type(saved.processor).__name__} reads, but the cohort "
            f"holds {modality.name}"
        )
    for settings in (encoder_settings, processor_settings):
        if settings and adopted is None:
            raise InputError(
                f"{name} is a saved encoder and keeps its own settings; {next(iter(settings))!r} "
                "cannot be changed"
            )
    return Start(modality, name, saved, encoder_settings, processor_settings)
