"""Where the training of one encoder starts: by its name with random weights, or saved."""

import copy
import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.hub.loading import LoadedModel
from fm_med.lora import file_hash
from fm_med.modalities import Modality

Settings = dict[str, Any]


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
    def has_new(self) -> bool:
        """Whether a part of the encoder is new; a single one has no parts."""
        return self.is_fresh

    @property
    def key(self) -> str:
        """What the encoder's weights depend on: a hash of them, or the name of a new encoder."""
        return self.name if self.saved is None else weights_hash(self.saved.folder)

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

    @property
    def learns_from_rows(self) -> bool:
        """Whether a new processor has something to learn from the training rows."""
        return self.is_fresh and getattr(self.modality.processor, "fits_rows", True)

    def remark(self, method: str) -> str:
        """Return what else is trained beside what `method` says: nothing."""
        del method
        return ""

    def build(self, train: Examples) -> tuple[PreTrainedModel, Any]:
        """Return an encoder to train and its processor.

        Args:
            train: The rows that a new processor may learn from (medians, levels, genes).

        Raises:
            InputError: A setting is unknown or impossible.
        """
        return self.build_for(train.cohort.card, train.table)

    def build_for(
        self, card: CohortCard, rows: Callable[[], pa.Table]
    ) -> tuple[PreTrainedModel, Any]:
        """Return an encoder to train and its processor.

        Args:
            card: Of the cohort.
            rows: Reads those that a new processor may learn from; called only if it does.

        Raises:
            InputError: A setting is unknown or impossible.
        """
        if self.saved is not None:
            return copy.deepcopy(self.saved.encoder), self.saved.processor
        table = rows() if self.learns_from_rows else None
        kind = self.modality.encoders[self.name]
        reads = getattr(kind, "processor_class", self.modality.processor)
        processor = reads.for_cohort(card, table, **self.processor_settings)
        settings = {**processor.encoder_settings(), **self.encoder_settings}
        return _new_encoder(self.name, kind, settings), processor


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


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of a saved encoder's weights, or of an adapter's alone."""
    files = ("model.safetensors", "adapter_model.safetensors")
    return file_hash(next(folder / name for name in files if (folder / name).is_file()))
