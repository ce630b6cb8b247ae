"""Find in a text what must not be shared: ids, dates, reports, paths, tokens.

Ids and reports are those of a known cohort. A number of fewer than six digits, and any id of fewer
than four characters, is an id only where the text says so (``"patient_id": 4711``, ``patient
4711``): 512 is a person in one cohort and a layer's width in every config.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm_med.cohort import Cohort
from fm_med.streamed_pairs import TRAIN, StreamedCohort

_SHORTEST, _WINDOW = 4, 6  # words of a report that are told from everyday language
_TOKEN = re.compile(r"[\w][\w.\-/]*")
_PERSON = r"(?:subject|patient|person|record(?:ing)?|case|study)"
_ID_KEY = re.compile(rf"^(?:{_PERSON}s?[_ -]?(?:ids?|numbers?|no)|mrns?|pids?)$", re.IGNORECASE)
_ID_TEXT = re.compile(
    rf"\b(?:{_PERSON}(?:[ _-]?(?:id|no|nr|number))?|mrn|pid)\b[\s\"'#:=.]{{1,6}}([\w.\-]+)",
    re.IGNORECASE,
)
_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz|apr(?:il)?|may|mai|june?|juni?|july?|"
    r"juli?|aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_YEAR, _NUMBER = r"(?:19|20)\d\d", r"\d{1,2}"
_DATES = [
    re.compile(rf"(?<![\w.]){_YEAR}([-/])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?!\d)"),
    re.compile(rf"(?<![\w.]){_NUMBER}([./-]){_NUMBER}\1{_YEAR}(?![\w.])"),
    re.compile(rf"(?<![\w.]){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\w.])"),
    re.compile(
        rf"\b{_NUMBER}(?:st|nd|rd|th|\.)? {_MONTH}\.?,? {_YEAR}\b|"
        rf"\b{_MONTH}\.? {_NUMBER}(?:st|nd|rd|th)?,? {_YEAR}\b",
        re.IGNORECASE,
    ),
]
_PATH_VALUE = re.compile(r"(?:file://|~/|\.{0,2}/[^/\s]+/|[A-Za-z]:[\\/])\S*")
_PATH_TEXT = re.compile(
    r"(?<![\w.:/-])(?:file://|~)?/(?:home|Users|root|tmp|mnt|data|datasets|work|srv|var|opt|scratch|"
    r"media|gpfs|lustre|private|export|nfs|net|storage|projects?|Volumes)/[\w.\-]+|"
    r"\b[A-Za-z]:\\[\w.\-]+"
)
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


@dataclass(frozen=True)
class Traces:
    """What to look for.

    Attributes:
        ids: Ids that are told from any other word or number.
        short_ids: Ids that are ids only where a text says so.
        reports: (words, ...) of each distinct report.
        secrets: Tokens of this machine.
    """

    ids: frozenset[str] = frozenset()
    short_ids: frozenset[str] = frozenset()
    reports: tuple[tuple[str, ...], ...] = ()
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort | None, *, secrets: Iterable[str] = ()) -> "Traces":
        """Collect the ids and reports of all splits of a cohort."""
        if cohort is None:
            return cls(secrets=tuple(secrets))
        ids: set[str] = set()
        reports: set[str] = set()
        streamed = {TRAIN} if isinstance(cohort, StreamedCohort) else set()  # perhaps not at hand
        columns = next(iter(cohort.splits.values())).column_names
        for split in {*cohort.splits} | streamed:
            for column in ("subject_id", "record_id"):
                ids |= {text for text in cohort.column(split, column) if text}
            if "report" in columns:
                reports |= {text for text in cohort.column(split, "report") if text}
        ids |= {Path(text).stem for text in ids if "/" in text}
        short = {text for text in ids if _is_short(text)}
        words = tuple(tuple(_words(text)) for text in sorted(reports))
        return cls(frozenset(ids - short), frozenset(short), words, tuple(secrets))


def _is_short(text: str) -> bool:
    return len(text) < (6 if text.isdecimal() else 4)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def find_traces(text: str, values: Any, known: Traces) -> Iterator[str]:
    """Say what a file holds that must not be shared; each kind once.

    Args:
        text: Of the file.
        values: The same as parsed JSON; None for other text.
        known: Ids, reports, tokens.
    """
    if _SECRET.search(text) or any(secret in text for secret in known.secrets):
        yield "an access token"
    # Strings as they were before JSON escaped them, each by itself.
    strings = [text] if values is None else list(_strings(values))
    whole = "\n".join(strings)
    yield from _ids(text, whole, known)
    if values is not None:
        yield from _id_keys(values)
    for pattern in _DATES:
        found = pattern.search(whole) or (pattern.search(text) if values is not None else None)
        if found:
            yield f"the date {found.group()!r}"
            break
    yield from _reports(strings, known)
    path = _PATH_TEXT.search(whole)
    if path is None and values is not None:
        path = next(filter(None, map(_PATH_VALUE.fullmatch, strings)), None)
    if path:
        yield f"the path {path.group()!r}"


def _strings(values: Any) -> Iterator[str]:
    """Yield every string and every key of parsed JSON."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield key
            yield from _strings(value)
    elif isinstance(values, list):
        for value in values:
            yield from _strings(value)


def _ids(text: str, whole: str, known: Traces) -> Iterator[str]:
    found: set[str] = set()
    for token in _TOKEN.findall(text) + _TOKEN.findall(whole):
        for part in (token, *token.split("/")):
            found |= {part, part.rstrip(".-/")}
    hits = sorted(found & known.ids)
    # What is more than one word cannot be met word by word.
    hits += [name for name in known.ids if not _TOKEN.fullmatch(name) and name in whole]
    said = {match.rstrip(".-") for match in _ID_TEXT.findall(text)}
    hits += sorted(said & known.short_ids)
    if hits:
        more = f" and {len(hits) - 1} more" if len(hits) > 1 else ""
        yield f"the id {hits[0]!r}{more} of the training cohort"


def _id_keys(values: Any) -> Iterator[str]:
    """Yield once if a key says that its value is somebody's id."""
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if _ID_KEY.match(key) and inner not in (None, [], {}) and inner is not True:
                    yield f"ids under the key {key!r}"
                    return
                stack.append(inner)


def _reports(strings: list[str], known: Traces) -> Iterator[str]:
    if not known.reports:
        return
    windows: set[tuple[str, ...]] = set()
    for string in strings:
        words = _words(string)
        for size in range(_SHORTEST, _WINDOW + 1):
            windows |= {tuple(words[k : k + size]) for k in range(len(words) - size + 1)}
    for report in known.reports:
        size = min(len(report), _WINDOW)
        if size < _SHORTEST or len(" ".join(report)) < 20:
            continue
        for k in range(len(report) - size + 1):
            if report[k : k + size] in windows:
                yield f"text of a report, {' '.join(report[k : k + size])!r}"
                return
