"""The card of a cohort: what the numbers mean, kept in the YAML header of its README.md."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from fm_med.errors import InputError

SCHEMA_VERSION = 1
CARD_FILE = "README.md"
CARD_KEY = "fm_med"  # our part of the header; the rest of it belongs to the Hugging Face Hub

COLUMN_MEANINGS = {
    "subject_id": "the person; never in two splits",
    "record_id": "the recording; unique in the cohort",
    "split": "train, validation or test",
    "signal": "int16 little endian, C order (leads, samples); times gain = mV; -32768 = missing",
    "samples": "samples per lead",
    "sampling_rate": "Hz",
    "gain": "mV per stored unit, one per lead",
    "lead_mask": "true where the lead has signal, one per lead",
    "missing_samples": "samples missing in present leads after repair of short gaps",
    "signal_hash": "equal for equal recordings",
    "middle_hash": "equal for recordings that are equal in their middle half, as copies are",
    "report": "free text as written; null when blank",
    "age": "years",
    "sex": "female, male or null",
    "scp_codes": "SCP-ECG statements with likelihood in percent (0 = unknown)",
    "input_hash": "equal for equal inputs",
    "expression": "float32 little endian, one value per gene; its metadata names genes and unit",
    "time": "follow-up from the recording to the event or to censoring",
    "event": "true when the event ended the follow-up, false when censored",
    "cause": "which event ended the follow-up; null when censored",
}

_TEXT, _NUMBER = (str,), (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "name": _TEXT,
    "modality": _TEXT,
    "units": _TEXT,
    "sampling_rate": _NUMBER,
    "leads": (list,),
    "follow_up_unit": (str, type(None)),
    "time": (str, type(None)),
    "event": (str, type(None)),
    "label_sets": (dict,),
    "classes": (dict,),
    "features": _TEXT,
    "columns": (dict,),
    "language": (list,),
    "source": _TEXT,
    "license": (str, type(None)),
    "allow_duplicates": (bool,),
    "subjects": (dict,),
    "recordings": (dict,),
    "fingerprint": _TEXT,
}


@dataclass(kw_only=True)
class CohortCard:
    """What a reader must know before using the rows.

    Attributes:
        name: The cohort's name.
        modality: What the input is, for example "ecg".
        units: Unit of the decoded input, for example "mV".
        sampling_rate: Hz, one for all rows; 0.0 when rows differ (see their `sampling_rate`).
        leads: Names in the order in which they are stored.
        follow_up_unit: Unit of the `time` column, for example "months"; None without follow-up.
        time: Name of the follow-up column, or None.
        event: Name of the event column, or None.
        label_sets: Label columns by set, for example {"superclass": ["NORM", "MI"]}.
        classes: Columns of text that hold exactly one class per row, for example
            {"subtype": ["KMT2A", "NPM1"]}, with all classes in the order of their numbers.
        features: Of a table: the input columns in their order, separated by blanks.
        columns: Meaning and unit of each column.
        language: ISO codes of the languages of the reports.
        source: Where the recordings come from.
        license: Licence of the data (an identifier of the Hub), or None.
        allow_duplicates: True when equal recordings across splits were allowed on purpose.
        subjects: People per split; filled when written.
        recordings: Rows per split; filled when written.
        fingerprint: Hash over the content of all rows; filled when written.
        schema_version: Version of this contract.
    """

    name: str
    modality: str
    units: str
    sampling_rate: float = 0.0
    leads: list[str] = field(default_factory=list)
    follow_up_unit: str | None = None
    time: str | None = None
    event: str | None = None
    label_sets: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    features: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    language: list[str] = field(default_factory=list)
    source: str = ""
    license: str | None = None
    allow_duplicates: bool = False
    subjects: dict[str, int] = field(default_factory=dict)
    recordings: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    schema_version: int = SCHEMA_VERSION


def read_card(folder: Path) -> CohortCard:
    """Read the card of the cohort in `folder`.

    Raises:
        InputError: The folder or card is missing, the header is not valid, its schema version is
            unknown, units are missing, or a key is unknown or of the wrong type.
    """
    if not folder.is_dir():
        raise InputError(f"no cohort at {folder}: there is no such folder")
    path = folder / CARD_FILE
    if not path.is_file():
        raise InputError(f"{folder} is not a cohort: it has no {CARD_FILE}")
    values = _header(path).get(CARD_KEY)
    if not isinstance(values, dict):
        raise InputError(f"{path} is not the card of a cohort: its header has no {CARD_KEY!r} part")
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema_version {version!r}, expected {SCHEMA_VERSION}")
    _check_values(values, path)
    return CohortCard(**values)


def _header(path: Path) -> dict[str, Any]:
    """Parse the YAML between the two `---` lines at the top of a Markdown file."""
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise InputError(f"{path} is not the card of a cohort: it has no YAML header")
    try:
        header = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise InputError(f"the YAML header of {path} cannot be parsed: {problem}") from error
    return header if isinstance(header, dict) else {}


def _check_values(values: dict[str, Any], path: Path) -> None:
    known = {item.name for item in fields(CohortCard)}
    for key in values:
        if key not in known:
            raise InputError(f"{path} has the unknown key {key!r}")
    for key in ("name", "modality", "units"):
        if not values.get(key):
            raise InputError(f"{path} does not state {key!r}")
    for key, types in _TYPES.items():
        if key in values and not isinstance(values[key], types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise InputError(f"{path}: {key!r} is {values[key]!r}, expected {expected}")


def write_card(folder: Path, card: CohortCard, columns: Sequence[str]) -> None:
    """Write the card as README.md: a header for programs, a page for people.

    Args:
        folder: The cohort's folder.
        card: The card, with counts and fingerprint.
        columns: Names of the columns in their order.
    """
    header: dict[str, Any] = {"pretty_name": card.name}
    if card.license:
        header["license"] = card.license
    if card.language:
        header["language"] = card.language
    files = [{"split": split, "path": f"data/{split}-*.arrow"} for split in card.recordings]
    header["configs"] = [{"config_name": "default", "data_files": files}]
    header[CARD_KEY] = asdict(card)
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=100)
    (folder / CARD_FILE).write_text(f"---\n{text}---\n\n{_page(card, columns)}", encoding="utf-8")


def _kind(card: CohortCard) -> str:
    """Return what else there is to say about the input."""
    if card.modality == "ecg":
        rate = f"{card.sampling_rate:g} Hz" if card.sampling_rate else "mixed sampling rates"
        return f", {rate}; leads: {', '.join(card.leads) or 'none'}"
    return f", {len(card.features.split())} features" if card.features else ""


def _page(card: CohortCard, columns: Sequence[str]) -> str:
    """Return the readable part of the card."""
    lines = [f"# {card.name}", ""]
    if card.source:
        lines += [card.source, ""]
    lines += [f"{card.modality} in {card.units}{_kind(card)}."]
    if card.time:
        lines += [f"Follow-up in {card.follow_up_unit}: `{card.time}`, `{card.event}`."]
    lines += ["", "| split | recordings | subjects |", "|---|---|---|"]
    lines += [f"| {s} | {n} | {card.subjects.get(s, 0)} |" for s, n in card.recordings.items()]
    lines += ["", "| column | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {card.columns.get(name, '')} |" for name in columns]
    for name, labels in card.label_sets.items():
        lines += ["", f"Label set `{name}`: {', '.join(labels)}."]
    for name, classes in card.classes.items():
        lines += ["", f"Classes of `{name}`: {', '.join(classes)}."]
    if card.allow_duplicates:
        lines += ["", "Equal recordings in different splits were allowed on purpose."]
    lines += [
        "",
        "Read it with `fm_med.cohort.open_cohort(folder)` or `datasets.load_dataset(folder)`.",
        "Recordings that could not be read are listed in `skipped.csv`.",
        "",
    ]
    return "\n".join(lines)
