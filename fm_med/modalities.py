"""The modalities, each a room of its own: this is the only place that lists them.

Two of them are fused under their joined names: "ecg+tabular".

A room has an encoder table `ENCODERS`, a processor and perhaps an augmentation. The processor reads
rows of a cohort: `columns`, `from_rows(table, device)`, `for_cohort(card, training_rows,
**settings)` (with `fits_rows = False` where nothing is learnt from the rows, which then are not
read) and `encoder_settings()`, what a new encoder's config takes from the data.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from fm_med.differences import Describing
from fm_med.ecg import describing as ecg_describing
from fm_med.ecg.augment import EcgAugmentation, augment, hide_leads_of_batch
from fm_med.ecg.decoder import ReconstructionDecoder
from fm_med.ecg.encoders import ENCODERS as ECG_ENCODERS
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.fusion.naming import JOINT, PARTS, inputs_of, named_for
from fm_med.fusion.processor import FusionProcessor
from fm_med.image import describing as image_describing
from fm_med.image.augment import ImageAugmentation
from fm_med.image.augment import augment as augment_images
from fm_med.image.backbone_families import FAMILIES as VISION_FAMILIES
from fm_med.image.encoders import ENCODERS as IMAGE_ENCODERS
from fm_med.image.hub_backbone import adopt as adopt_backbone
from fm_med.image.processor import ImageProcessor
from fm_med.image.timm_checkpoints import KIND as TIMM
from fm_med.image.timm_checkpoints import adopt as adopt_timm
from fm_med.image.timm_checkpoints import is_timm
from fm_med.rna import describing as rna_describing
from fm_med.rna.encoders import ENCODERS as RNA_ENCODERS
from fm_med.rna.hub_transformer import adopt as adopt_transformer
from fm_med.rna.processor import ExpressionProcessor
from fm_med.tabular import describing as tabular_describing
from fm_med.tabular.encoders import ENCODERS as TABULAR_ENCODERS
from fm_med.tabular.processor import TableProcessor

Inputs = dict[str, Tensor]
# From a foreign checkpoint's folder, fields of the encoder's config, and of the processor.
Adopt = Callable[[Path, Mapping[str, Any], Mapping[str, Any]], tuple[PreTrainedModel, Any]]


class Augment(Protocol):
    """Returns an augmented copy of an encoder's inputs; equal arguments, equal result."""

    def __call__(self, inputs: Inputs, *, seed: int, epoch: int, step: int, rows: Tensor) -> Inputs:
        """Augment.

        Args:
            inputs: Of a batch.
            seed: Of the run.
            epoch: Another one augments anew.
            step: For what is the same for a whole batch, over all processes.
            rows: (batch,) int64 ids, for what differs between rows.
        """


@dataclass(frozen=True)
class Modality:
    """A room.

    Attributes:
        name: As on the cohort's card.
        encoders: By name; the first is the default.
        processor: The class; an encoder may name a subclass of it as its `processor_class`.
        augmentations: By name, from the processor to its augmentation; "default" is taken unless
            another one is asked for.
        decoder: Makes a network that rebuilds the input from the encoder's last hidden state.
        mask_name: The encoder's input that tells which channels are there.
        adopts: By the kind of a foreign checkpoint, from `checkpoint_kind`, what makes an encoder
            and a processor of it.
        describing: What can be told of its rows and its processor; None for a fusion, whose rooms
            have their own.
    """

    name: str
    encoders: Mapping[str, type[PreTrainedModel]]
    processor: type[Any]
    augmentations: Mapping[str, Callable[[Any], Augment]] = field(default_factory=dict)
    decoder: Callable[[Any, Any], nn.Module] | None = None
    mask_name: str | None = None
    adopts: Mapping[str, Adopt] = field(default_factory=dict)
    describing: Describing | None = None

    def reads(self, processor: Any) -> bool:
        """Whether a processor prepares rows of this modality."""
        is_ours = isinstance(processor, self.processor)
        return is_ours and getattr(processor, "modality", self.name) == self.name

    def augmentation(self, name: str, processor: Any) -> Augment | None:
        """Return an augmentation; None for "none", and for "default" where the room has none.

        Raises:
            InputError: No such augmentation.
        """
        if name == "none" or (name == "default" and not self.augmentations):
            return None
        if name not in self.augmentations:
            known = ", ".join([*self.augmentations, "none"])
            raise InputError(f"{self.name} has no augmentation {name!r}; it has {known}")
        return self.augmentations[name](processor)

    def make_decoder(self, encoder: PreTrainedModel, processor: Any) -> nn.Module:
        """Return a network that rebuilds the encoder's input.

        Raises:
            InputError: The room has none.
        """
        if self.decoder is None:
            raise InputError(f"reconstruction_weight: {self.name} has no decoder")
        return self.decoder(encoder, processor)


def per_row(
    apply: Callable[..., Inputs], settings: Callable[[Any], Any]
) -> Callable[[Any], Augment]:
    """Adapt a room's `augment(inputs, *, settings, seed, epoch, rows)`.

    Args:
        apply: The function.
        settings: Makes its settings for a processor.
    """

    def of_processor(processor: Any) -> Augment:
        chosen = settings(processor)

        def augmented(inputs: Inputs, *, seed: int, epoch: int, step: int, rows: Tensor) -> Inputs:
            del step
            return apply(inputs, settings=chosen, seed=seed, epoch=epoch, rows=rows)

        return augmented

    return of_processor


def _published_ecg(_processor: Any) -> Augment:
    """One random subset of the leads for a whole batch (Chen et al. 2025); nothing else."""

    def hidden(inputs: Inputs, *, seed: int, epoch: int, step: int, rows: Tensor) -> Inputs:
        del rows
        return hide_leads_of_batch(inputs, seed=seed, epoch=epoch, step=step)

    return hidden


MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        Modality(
            "ecg",
            ECG_ENCODERS,
            EcgProcessor,
            {
                "default": per_row(
                    augment, lambda ecg: EcgAugmentation(sampling_rate=ecg.sampling_rate)
                ),
                "published": _published_ecg,
            },
            decoder=lambda encoder, ecg: ReconstructionDecoder(
                encoder.config.time_width, samples=ecg.samples
            ),
            mask_name="lead_mask",
            describing=ecg_describing,
        ),
        Modality(
            "image",
            IMAGE_ENCODERS,
            ImageProcessor,
            {"default": per_row(augment_images, lambda _processor: ImageAugmentation())},
            adopts=dict.fromkeys(VISION_FAMILIES, adopt_backbone) | {TIMM: adopt_timm},
            describing=image_describing,
        ),
        Modality(
            "rna",
            RNA_ENCODERS,
            ExpressionProcessor,
            adopts={"bert": adopt_transformer},
            describing=rna_describing,
        ),
        Modality("tabular", TABULAR_ENCODERS, TableProcessor, describing=tabular_describing),
    )
}


def checkpoint_kind(folder: Path) -> str | None:
    """Return what a saved model is, one of a room's `adopts` or ours; None for no model.

    Args:
        folder: Perhaps with a config.json.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    return TIMM if is_timm(folder, config) else config.get("model_type")


# What any two rooms become together, under their joined names.
FUSION = Modality("fusion", {"late_fusion": LateFusionModel}, FusionProcessor)


def modality_of(name: str) -> Modality:
    """Return the room for a card's `modality`, or two rooms as one for two names joined by "+".

    Raises:
        InputError: There is none.
    """
    names = name.split(JOINT)
    for part in names:
        if part not in MODALITIES:
            raise InputError(f"there is no modality {part!r}; there are {', '.join(MODALITIES)}")
    if len(names) == 1:
        return MODALITIES[name]
    if len(set(names)) != 2 or len(names) != 2:
        raise InputError(f"{name!r} cannot be fused: two different modalities can")
    rooms = [MODALITIES[part] for part in names]
    known = dict.fromkeys(augmentation for room in rooms for augmentation in room.augmentations)
    augmentations = {augmentation: _of_both(rooms, augmentation) for augmentation in known}
    return replace(FUSION, name=name, augmentations=augmentations)


def _of_both(rooms: list[Modality], name: str) -> Callable[[FusionProcessor], Augment]:
    """Return an augmentation of the rooms that have one of this name; another is left as it is."""

    def of_processor(processor: FusionProcessor) -> Augment:
        chosen = {
            part: room.augmentations[name](getattr(processor, part))
            for part, room in zip(PARTS, rooms)
            if name in room.augmentations
        }

        def augmented(inputs: Inputs, *, seed: int, epoch: int, step: int, rows: Tensor) -> Inputs:
            for part, change in chosen.items():
                own = inputs_of(part, inputs)
                if own:  # some row of the batch has it
                    changed = change(own, seed=seed, epoch=epoch, step=step, rows=rows)
                    inputs = {**inputs, **named_for(part, changed)}
            return inputs

        return augmented

    return of_processor


def modality_of_encoder(encoder: nn.Module) -> Modality:
    """Return the room that an encoder comes from.

    Raises:
        InputError: From none of ours.
    """
    if isinstance(encoder, LateFusionModel):
        rooms = (modality_of_encoder(getattr(encoder, part)) for part in PARTS)
        return modality_of(JOINT.join(room.name for room in rooms))
    for modality in MODALITIES.values():
        if type(encoder) in modality.encoders.values():
            return modality
    raise InputError(f"{type(encoder).__name__} is an encoder of no modality of fm_med")
