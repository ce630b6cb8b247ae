"""The TRIPOD+AI checklist: what the page answers, and what its authors have to add."""

import re
from collections.abc import Collection

from fm_med.report.page import Section, Table

_AUTHORS = "To be written by the authors."
ITEMS = (
    ("1 Title, 2 Abstract", "Heading of this page; “In short”."),
    ("3 Background, 4 Objectives", f"{_AUTHORS} Intended use and target population."),
    ("5 Data", "“Methods”: cohort, licence, fingerprint. Dates of inclusion: authors."),
    ("6 Participants", "“Participants”. Setting, eligibility and treatments: authors."),
    ("7 Data preparation", "“Methods”: the model’s processor is saved with it."),
    ("8 Outcome", "“Methods”: event, unit, follow-up. How events were ascertained: authors."),
    ("9 Predictors", "“Methods”: inputs and clinical covariates."),
    ("10 Sample size", "“What this number of events allows”."),
    ("11 Missing data", "“Participants” and “Methods”."),
    ("12 Analytical methods", "“Methods”; baselines, intervals, tests in the notes of each table."),
    ("13 Class imbalance", "“Methods”. In Cox training events are never oversampled."),
    ("14 Fairness", "“Is it fair?”"),
    ("15 Model output", "predictions.csv: risks and log-hazard, probabilities or numbers."),
    ("16 Training against evaluation", "“Participants”: both splits side by side."),
    ("17 Ethical approval, 18 Open science, 19 Public involvement", _AUTHORS),
    ("20 Participants (results)", "“Participants”."),
    ("21 Model development", "“Participants”, “What this number of events allows”."),
    ("22 Model specification", "The model’s folder: weights, processor, task, baseline hazard."),
    ("23 Model performance", "“Does it rank patients rightly?”, “Can the risks be believed?”"),
    ("24 Model updating", "None unless stated under “Methods”."),
    ("25 Interpretation", f"“In short” compares with simple models. {_AUTHORS}"),
    ("26 Limitations", f"“What this number of events allows”. {_AUTHORS}"),
    ("27 Usability", "fm-med predict checks the input and warns outside the training range."),
)


def checklist(headings: Collection[str]) -> Section:
    """Return the checklist as a section.

    Args:
        headings: Of the page's sections and boxes; what the page does not have is left to its
            authors.
    """

    def answered(where: str) -> str:
        named = re.findall("“(.*?)”", where)
        there = not named or any(name in headings for name in named)
        return where if there else _AUTHORS

    rows = [(item, answered(where)) for item, where in ITEMS]
    table = Table(("Item", "Where"), rows, "TRIPOD+AI (BMJ 2024;385:e078378).", prose=True)
    return Section("TRIPOD+AI checklist", "", [table])
