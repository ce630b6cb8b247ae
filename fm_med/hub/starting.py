"""Find where training starts: one encoder or two, each new by its name or a saved one."""

from collections.abc import Mapping
from dataclasses import replace

from transformers import PreTrainedModel

from fm_med.cohort import CohortCard
from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.fusion.naming import JOINT, PARTS, UNITS_JOINT
from fm_med.hub.fetching import folder_named
from fm_med.hub.fused_starting import FusedStart
from fm_med.hub.loading import adopt, load, local_folder
from fm_med.hub.start import Settings, Start
from fm_med.modalities import MODALITIES, Modality, checkpoint_kind, modality_of

FUSION_SETTINGS = ("modality_dropout",)


def start_encoder(
    name_or_path: str, *, sampling_rate: float, seconds: float
) -> tuple[PreTrainedModel, EcgProcessor]:
    """Return an ECG encoder to train and its processor.

    Args:
        name_or_path: A name in `ENCODERS` starts from scratch; a folder or Hub id continues a
            saved encoder, with its own processor.
        sampling_rate: Hz that a new encoder sees.
        seconds: Length that a new encoder sees.

    Raises:
        InputError: No such model, or one that reads no ECGs.
    """
    if name_or_path in ENCODERS:
        kind = ENCODERS[name_or_path]
        processor = EcgProcessor(sampling_rate=sampling_rate, seconds=seconds)
        return kind(kind.config_class()), processor
    _refuse_foreign(name_or_path, MODALITIES["ecg"])
    saved = load(name_or_path)
    return saved.encoder, saved.processor


def start_from(
    name: str | None,
    card: CohortCard,
    *,
    second: str | None = None,
    encoder_settings: Settings | None = None,
    processor_settings: Settings | None = None,
) -> Start | FusedStart:
    """Find the encoder to fine-tune on a cohort, or both encoders for one of two modalities.

    Args:
        name: A name of the modality's encoders starts from scratch; a folder or Hub id continues a
            saved encoder, with its own processor, or a foreign checkpoint that the modality adopts
            (for images any of several kinds of vision models). None takes the modality's first
            encoder. For two modalities: two of these joined by "+", in the order of the card, or a
            saved fusion.
        card: Of the cohort.
        second: The second of two, instead of joining them.
        encoder_settings: Fields of a new encoder's config, or of that around a foreign checkpoint;
            of two encoders those of each under "first" and "second", beside fields of the fusion.
        processor_settings: Of a new encoder's processor, or instead of a foreign checkpoint's; of
            two under "first" and "second".

    Raises:
        InputError: No such encoder, one of another modality, or settings for a saved one.
    """
    modality = modality_of(card.modality)
    of_encoders, of_processors = encoder_settings or {}, processor_settings or {}
    names = _names_of_two(name, second, card)
    if names is None:
        return _start(name, modality, of_encoders, of_processors)
    of_fusion = _of_fusion(of_encoders, "encoder_settings", FUSION_SETTINGS)
    _of_fusion(of_processors, "processor_settings", ())
    cards = _cards_of_parts(card)
    first, second_start = (
        _start(
            own,
            modality_of(part_card.modality),
            of_encoders.get(part) or {},
            of_processors.get(part) or {},
        )
        for own, part_card, part in zip(names, cards, PARTS)
    )
    return FusedStart(modality, cards, (first, second_start), of_fusion)


def _names_of_two(
    name: str | None, second: str | None, card: CohortCard
) -> tuple[str | None, str | None] | None:
    """Return the names of two encoders; None where there is one to start from.

    Raises:
        InputError: Too few or too many names.
    """
    rooms = card.modality.split(JOINT)
    if len(rooms) == 1 and second is not None:
        raise InputError(
            f"--second_encoder {second}: the cohort {card.name} holds {card.modality} alone; "
            "fm-med cohort join adds another modality"
        )
    if len(rooms) == 1:
        return None
    if second is not None or name is None:
        return name, second
    folder = folder_named(name)
    if folder is not None and folder.is_dir():
        return None
    names = name.split(JOINT)
    if len(names) > 2:
        raise InputError(f"{name} names {len(names)} encoders, the cohort holds {card.modality}")
    if len(names) == 2:
        return names[0], names[1]
    if any(name in room.encoders for room in MODALITIES.values()):
        raise InputError(
            f"{name} is one encoder and the cohort holds {card.modality}; name the other one in "
            "--second_encoder"
        )
    return None


def _cards_of_parts(card: CohortCard) -> tuple[CohortCard, CohortCard]:
    """Return the card of a joined cohort as if it held one modality, for each of both."""
    units = card.units.split(UNITS_JOINT)
    names = card.modality.split(JOINT)
    if len(units) != len(names):
        raise InputError(f"the cohort {card.name} holds {card.modality} in {card.units!r}")
    first, second = (replace(card, modality=name, units=unit) for name, unit in zip(names, units))
    return first, second


def _of_fusion(settings: Settings, name: str, known: tuple[str, ...]) -> Settings:
    """Return the settings that belong to none of two encoders.

    Raises:
        InputError: One is unknown, or an encoder's are not in a dict of their own.
    """
    for key, value in settings.items():
        if key not in (*PARTS, *known):
            raise InputError(
                f"{name} has {key!r}; of two encoders it has {', '.join((*PARTS, *known))}"
            )
        if key in PARTS and not isinstance(value, Mapping):
            raise InputError(f"{name}: {key!r} is {value!r}, expected the settings of an encoder")
    return {key: value for key, value in settings.items() if key in known}


def _start(
    name: str | None, modality: Modality, encoder_settings: Settings, processor_settings: Settings
) -> Start:
    """Find one encoder, or a saved fusion."""
    name = name or next(iter(modality.encoders))
    if name in modality.encoders and modality.name in MODALITIES:
        return Start(modality, name, None, encoder_settings, processor_settings)
    for room in MODALITIES.values():
        if name in room.encoders:
            raise InputError(
                f"{name} is an encoder of {room.name}, but the cohort holds {modality.name}, for "
                f"which there are {', '.join(modality.encoders)}"
            )
    _refuse_foreign(name, modality)
    adopted = adopt(local_folder(name), encoder_settings, processor_settings)
    saved = adopted or load(name)
    if not modality.reads(saved.processor):
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


def _refuse_foreign(name: str, modality: Modality) -> None:
    """Refuse a foreign checkpoint of another modality before what it lacks is asked for.

    Raises:
        InputError: Another modality adopts checkpoints of its type.
    """
    kind = checkpoint_kind(local_folder(name))
    owners = [room.name for room in MODALITIES.values() if kind in room.adopts]
    if owners and kind not in modality.adopts:
        raise InputError(
            f"{name} is not a model of fm_med but a {kind!r}, which can read {owners[0]}, and the "
            f"cohort holds {modality.name}"
        )
