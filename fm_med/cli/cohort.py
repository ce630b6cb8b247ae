"""`fm-med cohort ...`: make a cohort, check it, describe it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fm_med.cli.command import Command
from fm_med.cli.made import MADE_JSON, describe_folder, tell_made
from fm_med.cli.table import ClinicalTable, clinical_table
from fm_med.errors import InputError
from fm_med.settings import argument, required, setting

SHARD_HELP = "2/8: convert the second of eight shares, to be joined by fm-med cohort merge"


@dataclass
class PtbXl:
    """Settings of `fm-med cohort ptbxl`."""

    source: str = argument("folder with ptbxl_database.csv, scp_statements.csv and the records")
    destination: str = argument("folder of the new cohort")
    sampling_rate: Literal[100, 500] = setting(100, "which of PTB-XL's two recordings to take (Hz)")
    workers: int | None = setting(None, "processes that read; default: all cores")
    allow_duplicates: bool = setting(False, "proceed although equal recordings are in two splits")
    shard: str | None = setting(None, SHARD_HELP)
    json: bool = setting(False, MADE_JSON)


@dataclass
class EcgTable:
    """Settings of `fm-med cohort ecg`."""

    destination: str = argument("folder of the new cohort")
    table: str = required("CSV or Parquet with one row per recording")
    records: str = required("folder that the paths in the table are relative to")
    subject: str = required("column with the person's id")
    path: str = required("column with the recording's path")
    report: str | None = setting(None, "column with the report's text")
    time: str | None = setting(None, "column with the follow-up time")
    event: str | None = setting(None, "column that is true where the event was observed")
    cause: str | None = setting(None, "column that names which event it was; blank or 0 for none")
    follow_up_unit: str | None = setting(None, "unit of --time: days, months or years")
    label: list[str] | None = setting(None, "one or more label columns")
    age: str | None = setting(None, "column with the age in years")
    sex: str | None = setting(None, "column with the sex")
    split: str | None = setting(None, "column with train, validation, test; default: 80/10/10")
    seed: int = setting(0, "seed of the split by person")
    workers: int | None = setting(None, "processes that read; default: all cores")
    allow_duplicates: bool = setting(False, "proceed although equal recordings are in two splits")
    shard: str | None = setting(None, SHARD_HELP)
    json: bool = setting(False, MADE_JSON)


@dataclass
class Merge:
    """Settings of `fm-med cohort merge`."""

    destination: str = argument("folder of the new cohort, as given when its parts were made")
    parts: list[str] | None = setting(None, "folders of all parts; default: those beside it")
    allow_duplicates: bool = setting(False, "proceed although equal recordings are in two splits")
    drop_duplicates: bool = setting(False, "of equal recordings, keep those of one split only")
    json: bool = setting(False, MADE_JSON)


@dataclass
class Simulate:
    """Settings of `fm-med cohort simulate`."""

    destination: str = argument("folder of the new cohort")
    subjects: int = setting(2000, "number of persons")
    seed: int = setting(0, "seed of everything")
    sampling_rate: int = setting(100, "Hz, 100 to 1000")
    hospital: Literal["a", "b"] = setting("a", "b has other prevalences, language and noise")
    effect: float = setting(1.0, "strength of the findings' effect on survival; 0 for none")
    event_share: float = setting(0.10, "share of persons with an observed event")
    workers: int | None = setting(None, "processes that simulate; default: all cores")
    json: bool = setting(False, MADE_JSON)


@dataclass
class Check:
    """Settings of `fm-med cohort check` and `describe`."""

    cohort: str = argument("folder of a cohort")
    allow_duplicates: bool = setting(False, "do not count equal recordings in two splits")
    json: bool = setting(False, "print the card, or the problems, as JSON")


def ptbxl(settings: PtbXl) -> None:
    """Convert PTB-XL."""
    from fm_med.sources.ptbxl import make_ptbxl

    folder = make_ptbxl(
        Path(settings.source),
        Path(settings.destination),
        sampling_rate=settings.sampling_rate,
        workers=settings.workers,
        allow_duplicates=settings.allow_duplicates,
        shard=settings.shard,
    )
    tell_made(folder, as_json=settings.json, shard=settings.shard)


def ecg_table(settings: EcgTable) -> None:
    """Convert a table and a folder of recordings."""
    from fm_med.sources.ecg_table import make_ecg_table

    folder = make_ecg_table(
        Path(settings.table),
        Path(settings.records),
        Path(settings.destination),
        subject=settings.subject,
        path=settings.path,
        report=settings.report,
        time=settings.time,
        event=settings.event,
        cause=settings.cause,
        follow_up_unit=settings.follow_up_unit,
        labels=tuple(settings.label or ()),
        age=settings.age,
        sex=settings.sex,
        split=settings.split,
        seed=settings.seed,
        workers=settings.workers,
        allow_duplicates=settings.allow_duplicates,
        shard=settings.shard,
    )
    tell_made(folder, as_json=settings.json, shard=settings.shard)


def merge(settings: Merge) -> None:
    """Join the parts that were converted with --shard."""
    from fm_med.sources.shards import merge_parts

    merge_parts(
        settings.destination,
        settings.parts,
        allow_duplicates=settings.allow_duplicates,
        drop_duplicates=settings.drop_duplicates,
    )
    notes = ["the parts are not needed any more"]
    tell_made(settings.destination, as_json=settings.json, notes=notes)


def simulate(settings: Simulate) -> None:
    """Simulate a cohort with known truth."""
    from fm_med.sources.simulated import make_simulated

    make_simulated(
        Path(settings.destination),
        subjects=settings.subjects,
        seed=settings.seed,
        sampling_rate=settings.sampling_rate,
        hospital=settings.hospital,
        effect=settings.effect,
        event_share=settings.event_share,
        workers=settings.workers,
    )
    tell_made(settings.destination, as_json=settings.json)


def check(settings: Check) -> None:
    """Validate a cohort's every row; status 2 and the list of problems if there are any."""
    from fm_med.cohort import check_cohort

    problems = check_cohort(Path(settings.cohort), allow_duplicates=settings.allow_duplicates)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        listed = json.dumps({"problems": problems}, indent=1)
        print(listed if settings.json else "\n".join(f"- {problem}" for problem in problems))
        raise InputError(f"cohort {settings.cohort}: {problems[0]}{more}")
    if settings.json:
        print(json.dumps({"problems": []}))
        return
    describe_folder(settings.cohort)
    print("no problem found")


def describe(settings: Check) -> None:
    """Print what a cohort holds."""
    tell_made(settings.cohort, as_json=settings.json)


COHORT_COMMANDS = {
    "cohort ptbxl": Command(PtbXl, ptbxl, "make a cohort from a copy of PTB-XL"),
    "cohort ecg": Command(EcgTable, ecg_table, "make a cohort from a table and recordings"),
    "cohort table": Command(ClinicalTable, clinical_table, "make a cohort from a clinical table"),
    "cohort merge": Command(Merge, merge, "join the parts that were made with --shard"),
    "cohort simulate": Command(Simulate, simulate, "make a simulated cohort with known truth"),
    "cohort check": Command(Check, check, "validate every row of a cohort"),
    "cohort describe": Command(Check, describe, "say what a cohort holds"),
}
