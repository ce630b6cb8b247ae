"""The report of a model of competing risks: one page, the same sections for every cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fm_med.report.page import Box, KeyNumber, Section
from fm_med.report.survival_discrimination import (
    PRECISION,
    discrimination,
    precision_box,
    subgroups,
    verdict,
)
from fm_med.report.survival_results import SurvivalResults
from fm_med.report.survival_sections import calibration, methods, participants, risk_groups
from fm_med.report.tripod import checklist


@dataclass(frozen=True)
class CompetingResults:
    """Everything on the page.

    Attributes:
        whole: What all causes share: participants, methods, cautions; its numbers are not shown.
        causes: Results of each cause, whose event is its name.
    """

    whole: SurvivalResults
    causes: Mapping[str, SurvivalResults]


def competing_sections(results: CompetingResults) -> list[Section]:
    """Return the sections of the page in reading order."""
    answered = [PRECISION]
    sections: list[Section | None] = [_summary(results), participants(results.whole)]
    for name, cause in results.causes.items():
        own = [discrimination(cause), calibration(cause), risk_groups(cause), subgroups(cause)]
        shown = [section for section in own if section]
        answered += [section.title for section in shown]
        sections += [replace(s, title=f"{_capital(name)}: {_small(s.title)}") for s in shown]
    sections.append(methods(results.whole))
    kept = [section for section in sections if section]
    return [*kept, checklist([*answered, *(section.title for section in kept)])]


def _summary(results: CompetingResults) -> Section:
    """Return the headline of each cause, the verdicts, and the box on precision."""
    whole, content = results.whole, list[Any]()
    for name, cause in results.causes.items():
        meaning = f"How often the person with earlier {name} had the higher predicted hazard of it."
        content.append(KeyNumber(f"C-index for {name}", cause.metrics["model"]["c_index"], meaning))
        gain = cause.metrics.get("difference", {}).get("age_sex", {}).get("c_index")
        if gain is not None:
            meaning = "Difference in C-index on the same persons."
            content.append(KeyNumber(f"Gain over age and sex for {name}", gain, meaning))
    rarest, fewest = min(results.causes.items(), key=lambda item: item[1].events)
    box = precision_box(fewest.events, fewest.training_events)
    content.append(Box(box.title, f"The rarest event is {rarest}: {box.text}"))
    counts = [f"{name} in {cause.events:,}" for name, cause in results.causes.items()]
    verdicts = [
        f"{_capital(name)}: {found}"
        for name, cause in results.causes.items()
        if (found := verdict(cause.metrics.get("difference", {})))
    ]
    text = (
        f"A model for the risks of {_listed(list(results.causes))}, of which the first to come "
        f"ends the follow-up, tested on {whole.persons:,} persons that it has never seen. The "
        f"first event was {_listed(counts)}. {' '.join(verdicts)}"
    )
    return Section("In short", text.strip(), content, " ".join(whole.cautions) or None)


def _listed(names: Sequence[str]) -> str:
    """Return names as words of a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]
