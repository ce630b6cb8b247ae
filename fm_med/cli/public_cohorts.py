"""`fm-med cohort code15 | mimic-iv-ecg | cinc`: make cohorts from copies of public data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fm_med.cli.cohort import SHARD_HELP
from fm_med.cli.command import Command
from fm_med.cli.made import MADE_JSON, tell_made
from fm_med.settings import argument, setting

if TYPE_CHECKING:
    from fm_med.sources.public import Making

SEED_HELP = "seed of the split by person, 80/10/10"
DUPLICATES_HELP = "equal recordings in two splits: keep those of one, stop, or keep all"
WORKERS_HELP = "processes that read; default: all cores"
Duplicates = Literal["drop", "refuse", "allow"]


@dataclass
class Code15:
    """Settings of `fm-med cohort code15`."""

    source: str = argument("folder with exams.csv and exams_part*.hdf5, or one file per exam")
    destination: str = argument("folder of the new cohort")
    millivolt_per_unit: float = setting(1.0, "what a stored unit is; checked by the amplitudes")
    seed: int = setting(0, SEED_HELP)
    duplicates: Duplicates = setting("drop", DUPLICATES_HELP)
    workers: int | None = setting(None, WORKERS_HELP)
    shard: str | None = setting(None, SHARD_HELP)
    json: bool = setting(False, MADE_JSON)


@dataclass
class MimicIvEcg:
    """Settings of `fm-med cohort mimic-iv-ecg`."""

    source: str = argument("folder with record_list.csv, machine_measurements.csv and files/")
    destination: str = argument("folder of the new cohort")
    patients: str | None = setting(None, "patients.csv of MIMIC-IV, unpacked: age and sex")
    outcomes: str | None = setting(
        None, "table with time, event and study_id, or subject_id: from the first recording"
    )
    follow_up_unit: str | None = setting(None, "unit of that time: days, months or years")
    keep_time: bool = setting(False, "keep the (shifted) time of recording, which is a date")
    seed: int = setting(0, SEED_HELP)
    duplicates: Duplicates = setting("drop", DUPLICATES_HELP)
    workers: int | None = setting(None, WORKERS_HELP)
    shard: str | None = setting(None, SHARD_HELP)
    json: bool = setting(False, MADE_JSON)


@dataclass
class Cinc:
    """Settings of `fm-med cohort cinc`."""

    source: str = argument("folder with the Challenge's records, in any folders")
    destination: str = argument("folder of the new cohort")
    max_seconds: float = setting(150.0, "leave longer recordings out (INCART: half an hour)")
    seed: int = setting(0, SEED_HELP)
    duplicates: Duplicates = setting("drop", DUPLICATES_HELP)
    workers: int | None = setting(None, WORKERS_HELP)
    shard: str | None = setting(None, SHARD_HELP)
    json: bool = setting(False, MADE_JSON)


def code15(settings: Code15) -> None:
    """Convert CODE-15%."""
    from fm_med.sources.code15 import make_code15

    folder = make_code15(
        Path(settings.source),
        Path(settings.destination),
        millivolt_per_unit=settings.millivolt_per_unit,
        making=_making(settings),
    )
    _tell(folder, settings)


def mimic_iv_ecg(settings: MimicIvEcg) -> None:
    """Convert MIMIC-IV-ECG."""
    from fm_med.sources.mimic import make_mimic

    folder = make_mimic(
        Path(settings.source),
        Path(settings.destination),
        patients=settings.patients,
        outcomes=settings.outcomes,
        follow_up_unit=settings.follow_up_unit,
        keep_time=settings.keep_time,
        making=_making(settings),
    )
    _tell(folder, settings)


def cinc(settings: Cinc) -> None:
    """Convert records of the Challenges of 2020 and 2021."""
    from fm_med.sources.cinc import make_cinc

    folder = make_cinc(
        Path(settings.source),
        Path(settings.destination),
        max_seconds=settings.max_seconds,
        making=_making(settings),
    )
    _tell(folder, settings)


def _making(settings: Code15 | MimicIvEcg | Cinc) -> "Making":
    from fm_med.sources.public import Making

    return Making(
        seed=settings.seed,
        duplicates=settings.duplicates,
        workers=settings.workers,
        shard=settings.shard,
    )


def _tell(folder: Path, settings: Code15 | MimicIvEcg | Cinc) -> None:
    """Say what was made, and how columns that differ from other cohorts are to be read."""
    from fm_med.cohort import COLUMN_MEANINGS, open_cohort

    columns = open_cohort(folder).card.columns if settings.shard is None else {}
    notes = [
        f"  {name}: {columns[name]}"
        for name in ("signal", "dx_codes")
        if ";" in columns.get(name, "") and columns[name] != COLUMN_MEANINGS.get(name)
    ]
    tell_made(folder, as_json=settings.json, shard=settings.shard, notes=notes)


PUBLIC_COMMANDS = {
    "cohort code15": Command(Code15, code15, "make a cohort from a copy of CODE-15%"),
    "cohort mimic-iv-ecg": Command(
        MimicIvEcg, mimic_iv_ecg, "make a cohort from a copy of MIMIC-IV-ECG"
    ),
    "cohort cinc": Command(Cinc, cinc, "make a cohort from records of the CinC Challenges"),
}
