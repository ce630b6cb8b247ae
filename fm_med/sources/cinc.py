"""PhysioNet/CinC Challenge 2020 and 2021 as a cohort, from a copy of their training folders.

Source: Reyna et al., Will Two Do? Varying Dimensions in Electrocardiography: the
PhysioNet/Computing in Cardiology Challenge 2021, https://doi.org/10.13026/34va-7q14; Perez Alday et
al., Classification of 12-lead ECGs, Physiological Measurement 41:124003 (2020).
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fm_med.cohort import CohortCard
from fm_med.cohort.writing import free_destination
from fm_med.ecg.leads import LEADS
from fm_med.ecg.records import Recording, read_recording
from fm_med.errors import InputError
from fm_med.sources.ecg_table import OLDEST, SEXES
from fm_med.sources.pieces import FILE_COLUMN
from fm_med.sources.public import Making

LABEL_SET = "dx"
# The longest of the Challenge but for the half hours of INCART, whose labels belong to no 10 s.
LONGEST = 150.0  # seconds
_GROUP = re.compile(r"g\d+|training")  # folders that say nothing about a recording
_COMMENT = re.compile(r"#\s*(\w+)\s*:\s*(.*)")


class Diagnosis(NamedTuple):
    """A line of ``snomed.csv``: the 133 diagnoses of the Challenge.

    Attributes:
        code: SNOMED CT.
        abbreviation: The Challenge's.
        name: English.
        scored: The label that it counts for, the same for codes that the Challenge scores as one
            (complete left bundle branch block counts as left bundle branch block); or blank.
    """

    code: str
    abbreviation: str
    name: str
    scored: str


class Described(NamedTuple):
    """What the comments of a header say."""

    age: float | None
    sex: str | None
    codes: list[str]


@cache
def diagnoses() -> dict[str, Diagnosis]:
    """Return the Challenge's diagnoses by code."""
    path = Path(__file__).with_name("snomed.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["code"]: Diagnosis(**row) for row in csv.DictReader(file)}


@dataclass(frozen=True)
class ShortReader:
    """Reads recordings that are files of their own, if they are not too long.

    Attributes:
        seconds: The longest that is read.
    """

    seconds: float

    def __call__(self, places: Sequence[str]) -> Iterator[Recording | InputError]:
        """Read the recordings at some places."""
        for place in places:
            try:
                recording = read_recording(place)
            except InputError as error:
                yield error
                continue
            length = recording.signal.shape[1] / recording.sampling_rate
            if length > self.seconds:
                yield InputError(f"{place}: is {length:.0f} s long; at most {self.seconds:g} s")
            else:
                yield recording


def make_cinc(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    max_seconds: float = LONGEST,
    making: Making | None = None,
) -> Path:
    """Convert a folder of Challenge records, with whatever folders in it.

    Every recording counts as a person, because the Challenge tells no patients. A label is false,
    too, where a hospital never looked for it.

    Args:
        source: Folder that has records (.hea and .mat) somewhere in it.
        destination: The new cohort's folder.
        max_seconds: Longer recordings are left out and listed.
        making: Splits, duplicates, processes.

    Returns:
        The cohort's folder, or that of the part.

    Raises:
        InputError: There is no record, two have one name, or see `convert_recordings`.
    """
    free_destination(destination)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"no Challenge records at {folder}: there is no such folder")
    if not max_seconds > 0:
        raise InputError(f"max_seconds is {max_seconds}; expected a number above 0")
    headers = _headers(folder)
    described = [_describe(path) for path in headers]
    labels = _labels(described)
    rows = {
        "subject_id": [path.stem for path in headers],
        "record_id": [path.stem for path in headers],
        "site": pa.array([_site(path.relative_to(folder)) for path in headers], pa.string()),
        "age": pa.array([one.age for one in described], pa.float32()),
        "sex": pa.array([one.sex for one in described], pa.string()),
        "report": pa.array([_report(one.codes) for one in described], pa.string()),
        "dx_codes": pa.array([one.codes for one in described], pa.list_(pa.string())),
        **labels,
        FILE_COLUMN: [str(path) for path in headers],
    }
    return (making or Making()).convert(
        pa.table(rows),
        destination,
        _card(list(labels), described),
        options=f"cinc {max_seconds!r}",
        read=ShortReader(float(max_seconds)),
    )


def _card(labels: list[str], described: list[Described]) -> CohortCard:
    named = diagnoses()
    unknown = Counter(c for one in described for c in one.codes if c not in named)
    listed = ", ".join(f"{code} ({count} times)" for code, count in unknown.most_common())
    return CohortCard(
        name="PhysioNet/CinC Challenge",
        modality="ecg",
        units="mV",
        leads=list(LEADS),
        label_sets={LABEL_SET: labels} if labels else {},
        columns={
            "subject_id": "the recording: the Challenge tells no patients, so that recordings of"
            " one person may be in two splits",
            "site": "the folder, which is the source data set",
            "age": "years; null where none is given",
            "report": "names of the diagnoses",
            "dx_codes": f"SNOMED CT codes{f'; without a name: {listed}' if unknown else ''}",
            **{
                label: f"diagnosis that the Challenge scores ({_meaning(label)}); false also where"
                " the source data set never states it, null without any diagnosis"
                for label in labels
            },
        },
        language=["en"],
        source="PhysioNet/CinC Challenge 2021 (Reyna et al.), https://doi.org/10.13026/34va-7q14",
        license="cc-by-4.0",
    )


def _meaning(label: str) -> str:
    return " or ".join(one.name for one in diagnoses().values() if one.scored == label)


def _headers(folder: Path) -> list[Path]:
    headers = sorted(folder.rglob("*.hea"))
    if not headers:
        raise InputError(f"{folder} has no record: no *.hea in it or its folders")
    seen: dict[str, Path] = {}
    for path in headers:
        if path.stem in seen:
            raise InputError(f"two records are named {path.stem}: {seen[path.stem]} and {path}")
        seen[path.stem] = path
    return headers


def _site(path: Path) -> str | None:
    """Return "georgia" of training/georgia/g1/E00001.hea."""
    return "/".join(part for part in path.parts[:-1] if not _GROUP.fullmatch(part)) or None


def _describe(path: Path) -> Described:
    """Read ``# Age: 78``, ``#Sex: Male`` and ``# Dx: 426177001,164934002`` of a header."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = filter(None, map(_COMMENT.match, text.splitlines()))
    values = {match[1].lower(): match[2].strip() for match in found}
    codes = [code.strip() for code in values.get("dx", "").split(",")]
    return Described(
        _age(values.get("age", "")),
        SEXES.get(values.get("sex", "").lower()),
        list(dict.fromkeys(code for code in codes if code.isdigit())),
    )


def _age(text: str) -> float | None:
    """Return years; the headers hold NaN and impossible numbers for what is not known."""
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 <= age <= OLDEST else None


def _report(codes: list[str]) -> str | None:
    named = diagnoses()
    return ". ".join(named[code].name for code in codes if code in named) or None


def _labels(described: list[Described]) -> dict[str, pa.Array]:
    """Return a bool column for each scored label that occurs, null in rows without diagnosis."""
    named = diagnoses()
    stated = [
        {named[code].scored for code in one.codes if code in named} - {""} for one in described
    ]
    silent = np.array([not one.codes for one in described])
    labels = dict.fromkeys(one.scored for one in named.values() if one.scored)
    return {
        label: pa.array([label in row for row in stated], pa.bool_(), mask=silent)
        for label in labels
        if any(label in row for row in stated)
    }
