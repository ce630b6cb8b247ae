"""`fm-med cohort table ...`: make a cohort from a clinical table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fm_med.cli.made import MADE_JSON, tell_made
from fm_med.errors import InputError
from fm_med.settings import argument, required, setting


@dataclass
class ClinicalTable:
    """Settings of `fm-med cohort table`."""

    destination: str = argument("folder of the new cohort")
    table: str = required("CSV or Parquet: one row per person, or with --visit_time per visit")
    subject: str | None = setting(None, "column with the person's id; default: a person per row")
    visit_time: str | None = setting(None, "column with each visit's time: numbers or ISO dates")
    inputs: list[str] | None = setting(None, "columns to predict from; default: all others")
    numeric: list[str] | None = setting(None, "inputs that are numbers")
    categorical: list[str] | None = setting(None, "inputs that are levels, also if numbers")
    drop: list[str] | None = setting(None, "columns to leave out when --inputs is not given")
    label: list[str] | None = setting(None, "columns of yes/no outcomes, any of which may hold")
    classes: list[str] | None = setting(None, "columns of one class per person")
    target: str | None = setting(None, "column with a number to predict")
    time: str | None = setting(None, "column with the follow-up time")
    event: str | None = setting(None, "column that is true where the event was observed")
    cause: str | None = setting(None, "column that names which event it was; blank or 0 for none")
    follow_up_unit: str | None = setting(None, "unit of --time: days, months or years")
    missing: list[str] | None = setting(None, "codes for missing values: TOKEN or COLUMN=TOKEN")
    accept: list[str] | None = setting(None, "values that look like such codes but are real")
    decimal: Literal[".", ",", "either"] = setting(".", "sign before the decimals")
    unit: list[str] | None = setting(None, "units for the card: COLUMN=UNIT")
    split: str | None = setting(None, "column with train, validation, test; default: 80/10/10")
    stratify: bool = setting(False, "give every split its share of each outcome")
    seed: int = setting(0, "seed of the split by person")
    delimiter: str | None = setting(None, "of a CSV; default: found")
    encoding: str = setting("utf-8", "of a CSV")
    json: bool = setting(False, MADE_JSON)


def clinical_table(settings: ClinicalTable) -> None:
    """Convert a clinical table."""
    from fm_med.sources.table import TableColumns, make_table
    from fm_med.sources.table_cells import CellRules
    from fm_med.sources.table_outcomes import OutcomeColumns

    outcomes = OutcomeColumns(
        labels=tuple(settings.label or ()),
        classes=tuple(settings.classes or ()),
        target=settings.target,
        time=settings.time,
        event=settings.event,
        cause=settings.cause,
        follow_up_unit=settings.follow_up_unit,
    )
    columns = TableColumns(
        subject=settings.subject,
        visit_time=settings.visit_time,
        numeric=tuple(settings.numeric or ()),
        categorical=tuple(settings.categorical or ()),
        inputs=tuple(settings.inputs or ()),
        drop=tuple(settings.drop or ()),
        split=settings.split,
        outcomes=outcomes,
    )
    folder = make_table(
        Path(settings.table),
        Path(settings.destination),
        columns=columns,
        rules=CellRules(
            tuple(settings.missing or ()), tuple(settings.accept or ()), settings.decimal
        ),
        units=_units(settings.unit or []),
        stratify=settings.stratify,
        seed=settings.seed,
        delimiter=settings.delimiter,
        encoding=settings.encoding,
    )
    notes = [describe_inputs(folder)]
    if settings.subject is None:
        notes.append("  no --subject: every row counts as another person")
    tell_made(folder, as_json=settings.json, notes=notes)


def describe_inputs(folder: Path) -> str:
    """Return the inputs of a tabular cohort, so that a leak of the outcome is seen."""
    from fm_med.cohort import open_cohort

    meanings = open_cohort(folder).card.columns
    kinds = {
        kind: [name for name, meaning in meanings.items() if meaning.startswith(f"{kind} input")]
        for kind in ("numeric", "categorical")
    }
    lines = [f"  {len(names)} {kind} inputs: {', '.join(names)}" for kind, names in kinds.items()]
    return "\n".join(line for line, names in zip(lines, kinds.values()) if names)


def _units(declared: list[str]) -> dict[str, str]:
    units = {}
    for entry in declared:
        name, sign, unit = entry.partition("=")
        if not (name and sign and unit):
            raise InputError(f"--unit is {entry!r}, expected COLUMN=UNIT")
        units[name] = unit
    return units
