"""A cohort in aggregates that give nobody away, for a model's card."""

from collections.abc import Mapping, Sequence

import numpy as np

from fm_med.cohort import Cohort
from fm_med.cohort.people import tells
from fm_med.disclosure import HIDDEN, MINIMUM, hidden_parts
from fm_med.survival.subgroups import age_band

Lines = list[str]


def shown(counts: Mapping[str, int]) -> dict[str, str]:
    """Return counts of the parts of a whole as text, small ones hidden (`hidden_parts`)."""
    found = hidden_parts(counts)
    return {name: n if isinstance(n, str) else f"{n:,}" for name, n in found.items()}


def share(count: int, total: int) -> str:
    """Return a count out of a known total, hidden where it or what remains is small."""
    return HIDDEN if min(count, total - count) < MINIMUM else f"{count:,} ({count / total:.1%})"


def quartiles(values: np.ndarray, unit: str) -> str:
    """Return median and quartiles, in whole units; the extremes would be single persons."""
    known = values[np.isfinite(values)]
    if len(known) < 4 * MINIMUM:
        return f"not shown (fewer than {4 * MINIMUM} values)"
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    return f"median {middle:.0f} {unit} (quartiles {low:.0f} to {high:.0f})"


def cohort_facts(cohort: Cohort) -> Lines:
    """Return lines on a cohort: size, follow-up, age, sex, labels; aggregates only."""
    card = cohort.card
    header = ["split", "recordings", "subjects", *(["subjects with event"] if card.event else [])]
    lines = [_row(header), _row(["---"] * len(header))]
    for split in cohort.splits:
        rows = len(cohort.column(split, "subject_id"))
        subjects = card.subjects.get(split, 0)
        cells = [split, *(f"{n:,}" if n >= MINIMUM else HIDDEN for n in (rows, subjects))]
        if card.event:
            event = np.asarray(cohort.column(split, card.event)) == 1
            people = np.asarray(cohort.column(split, "subject_id"))
            cells.append(share(len(np.unique(people[event])), subjects))
        lines.append(_row(cells))
    splits = list(cohort.splits)
    table = cohort.splits[splits[0]]
    lines.append("")
    if card.time:
        time = _joined(cohort, splits, card.time)
        lines.append(f"- Follow-up: {quartiles(time, card.follow_up_unit or '')}")
    if tells(table, "age"):
        age = _joined(cohort, splits, "age")
        lines.append(f"- Age: {quartiles(age, 'years')}; {_bands(cohort, splits, age)}")
    if tells(table, "sex"):
        sex = [text or "not known" for split in splits for text in cohort.column(split, "sex")]
        lines.append(f"- Sex (subjects): {_counted(_persons(cohort, splits), sex)}")
    for label_set, labels in card.label_sets.items():
        lines += _labels(cohort, splits, label_set, labels)
    if card.language:
        lines.append(f"- Language of the reports: {', '.join(card.language)}")
    if card.license:
        lines.append(f"- Licence of the data: {card.license}")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(cohort: Cohort, splits: Sequence[str], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(cohort.column(s, name), np.float64) for s in splits])


def _persons(cohort: Cohort, splits: Sequence[str]) -> list[str]:
    return [person for split in splits for person in cohort.column(split, "subject_id")]


def _counted(persons: Sequence[str], groups: Sequence[str]) -> str:
    """Count the persons of each group; a person belongs to the group of the first row."""
    first = dict(zip(reversed(persons), reversed(groups)))
    names, counts = np.unique(list(first.values()), return_counts=True)
    found = shown(dict(zip(names.tolist(), counts.tolist())))
    found = dict(sorted(found.items(), key=lambda item: not item[0].startswith("under")))
    return ", ".join(f"{name}: {count}" for name, count in found.items())


def _bands(cohort: Cohort, splits: Sequence[str], age: np.ndarray) -> str:
    bands = age_band(age)
    return f"subjects {_counted(_persons(cohort, splits), bands)}"


def _labels(cohort: Cohort, splits: Sequence[str], label_set: str, labels: Sequence[str]) -> Lines:
    """Return how often each label is set, in recordings."""
    cells = []
    for label in labels:
        values = _joined(cohort, splits, label)
        known = values[~np.isnan(values)]
        cells.append(f"{label} {share(int((known == 1).sum()), len(known))}")
    return [f"- Labels `{label_set}` (recordings): {', '.join(cells)}"]
