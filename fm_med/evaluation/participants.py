"""Who is evaluated: one recording per person, who was left out and why, and who they are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.cohort import Cohort
from fm_med.cohort.people import tells
from fm_med.cohort.reading import read_skipped
from fm_med.examples import Covariate, Examples, read_examples
from fm_med.report.page import Table
from fm_med.survival.planning import follow_up_summary
from fm_med.tasks import Task

FlowStep = tuple[str, str, str]
REASONS_SHOWN = 6


@dataclass(frozen=True)
class Participants:
    """The evaluated rows and those for training the baselines.

    Attributes:
        test: Rows that the model is judged on.
        train: Rows that baselines are fitted on; None where the cohort has no training split.
        flow: How the test rows were arrived at.
    """

    test: Examples
    train: Examples | None
    flow: Sequence[FlowStep]


def participants(
    cohort: Cohort, task: Task, coding: Sequence[Covariate], *, split: str, one_per_person: bool
) -> Participants:
    """Choose the rows.

    Args:
        cohort: The cohort.
        task: What is predicted.
        coding: Of the model's clinical covariates.
        split: To evaluate on.
        one_per_person: Keep each person's first recording: a person has one follow-up, which two
            recordings would count twice.

    Raises:
        InputError: See `read_examples`.
    """
    found = read_examples(cohort, task, coding, splits=[split])
    test = found.take(first_of_each(found.subject_id)) if one_per_person else found
    train = None
    if split != "train" and "train" in cohort.splits:
        train = read_examples(cohort, task, coding, splits=["train"])
    return Participants(test, train, _flow(cohort, found, test, split))


def first_of_each(subject_id: np.ndarray) -> np.ndarray:
    """Return the sorted indices of each person's first row."""
    return np.sort(np.unique(subject_id, return_index=True)[1])


def _flow(cohort: Cohort, found: Examples, test: Examples, split: str) -> list[FlowStep]:
    """Return the steps from all recordings to those evaluated."""
    skipped = read_skipped(cohort.path)
    sizes = {name: table.num_rows for name, table in cohort.splits.items()}
    whole = sum(sizes.values())
    steps: list[FlowStep] = []
    if skipped:
        steps.append(("Recordings offered", f"{whole + len(skipped):,}", ""))
        reasons = Counter(reason.rsplit(": ", 1)[-1] for _, reason in skipped).most_common()
        for reason, count in reasons[:REASONS_SHOWN]:
            steps.append((f"− left out when the cohort was made: {reason}", f"{count:,}", ""))
        rest = sum(count for _, count in reasons[REASONS_SHOWN:])
        if rest:
            steps.append(("− left out for other reasons (skipped.csv)", f"{rest:,}", ""))
    steps.append(("Recordings in the cohort", f"{whole:,}", ""))
    for name, size in sizes.items():
        if name != split:
            steps.append((f"− in the split “{name}”", f"{size:,}", ""))
    steps.append((f"Recordings in the split “{split}”", f"{sizes[split]:,}", ""))
    if found.left_out:
        steps.append(("− without a target that can be used", f"{found.left_out:,}", ""))
    if len(test) < len(found):
        steps.append(("− later recordings of the same persons", f"{len(found) - len(test):,}", ""))
    persons = len(set(test.subject_id.tolist()))
    what = "Persons evaluated" if persons == len(test) else "Recordings evaluated"
    return [*steps, (what, f"{len(test):,}", _events(test.targets))]


def _events(targets: Mapping[str, np.ndarray]) -> str:
    """Return the number of events, empty for other tasks."""
    return f"{int(targets['event'].sum()):,}" if "event" in targets else ""


def characteristics(
    groups: Mapping[str, Examples], *, unit: str = "", causes: Sequence[str] = ()
) -> Table:
    """Describe the rows of each group: persons, events, follow-up, age and sex.

    Args:
        groups: Rows by what the column is called.
        unit: Of the follow-up.
        causes: Names of the events, where there are several.
    """
    described = {name: _describe(examples, unit, causes) for name, examples in groups.items()}
    names = list(dict.fromkeys(key for rows in described.values() for key in rows))
    cells = [(name, *(rows.get(name, "") for rows in described.values())) for name in names]
    return Table(
        ("", *groups),
        cells,
        "The persons.",
        "Median follow-up by the reverse Kaplan-Meier method." if unit else "",
    )


def _describe(examples: Examples, unit: str, causes: Sequence[str]) -> dict[str, str]:
    """Return one column of the table."""
    persons = len(set(examples.subject_id.tolist()))
    rows = {"Recordings": f"{len(examples):,}", "Persons": f"{persons:,}"}
    if "event" in examples.targets:
        time, event = examples.targets["time"], examples.targets["event"]
        rows["Events"] = f"{int(event.sum()):,} ({event.mean():.1%})"
        for number, cause in enumerate(causes, start=1):
            own = examples.targets["cause"] == number
            rows[f"Events: {cause}"] = f"{int(own.sum()):,} ({own.mean():.1%})"
        if not event.all():
            median = follow_up_summary(time, event).median.value
            known = np.isfinite(median)
            rows[f"Median follow-up, {unit}"] = (
                f"{median:.1f}" if known else f"over {time.max():.1f}"
            )
    available = examples.cohort.splits[str(examples.split[0])].column_names
    known = examples.table([name for name in ("age", "sex") if name in available])
    for name, describe in (("age", _numbers), ("sex", _shares)):
        if tells(known, name):
            rows |= describe(known.column(name).to_pylist())
    return rows


def _numbers(values: list[Any]) -> dict[str, str]:
    """Describe ages."""
    known = np.array([value for value in values if value is not None and np.isfinite(value)])
    missing = len(values) - len(known)
    rows = {
        "Age, mean (SD), years": f"{known.mean():.1f} ({known.std():.1f})" if len(known) else "–"
    }
    return rows | ({"Age missing": f"{missing:,}"} if missing else {})


def _shares(values: list[Any]) -> dict[str, str]:
    """Describe sexes."""
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    share = sum(value == "female" for value in known) / len(known) if known else float("nan")
    rows = {"Women": f"{share:.0%}" if known else "–"}
    return rows | ({"Sex missing": f"{missing:,}"} if missing else {})
