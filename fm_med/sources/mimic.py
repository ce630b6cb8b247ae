"""MIMIC-IV-ECG as a cohort, from a copy of version 1.0: 800,035 ECGs of 161,352 people.

Source: Gow et al., MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset (2023),
https://doi.org/10.13026/4nqg-sb35. Follow-up, age and sex are not part of it: the first is the
user's own table, the others come from patients.csv of MIMIC-IV (credentialed access).
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import CohortCard
from fm_med.cohort.writing import free_destination
from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError
from fm_med.sources.pieces import FILE_COLUMN
from fm_med.sources.public import Making, follow_up
from fm_med.sources.table_file import (
    column_names,
    identifiers,
    numbers,
    read_table,
    refuse_rows,
    require,
)

SAMPLING_RATE = 500.0
RECORDS, MACHINE = "record_list.csv", "machine_measurements.csv"
REPORTS = tuple(f"report_{number}" for number in range(18))
MEASUREMENTS = {
    "rr_interval": "ms",
    **dict.fromkeys(("p_onset", "p_end", "qrs_onset", "qrs_end", "t_end"), "ms"),
    **dict.fromkeys(("p_axis", "qrs_axis", "t_axis"), "degrees"),
}
NOT_MEASURED = 29999.0
SEXES = {"F": "female", "M": "male"}


def make_mimic(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    patients: str | os.PathLike[str] | None = None,
    outcomes: str | os.PathLike[str] | None = None,
    follow_up_unit: str | None = None,
    keep_time: bool = False,
    making: Making | None = None,
) -> Path:
    """Convert MIMIC-IV-ECG: the machine's statements are the report, in sentences.

    Args:
        source: Folder with record_list.csv, machine_measurements.csv and files/.
        destination: The new cohort's folder.
        patients: patients.csv of MIMIC-IV (subject_id, gender, anchor_age, anchor_year), unpacked.
        outcomes: Table with time and event, by study_id; or by subject_id, counted from the
            person's first recording, which alone gets it.
        follow_up_unit: Unit of that time, for example "days".
        keep_time: Keep the time of recording (shifted by the publisher, but a date).
        making: Splits, duplicates, processes.

    Returns:
        The cohort's folder, or that of the part.

    Raises:
        InputError: A file or column is missing, a value is not what MIMIC-IV holds, the follow-up
            has no unit, or see `convert_recordings`.
    """
    free_destination(destination)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"no MIMIC-IV-ECG at {folder}: there is no such folder")
    if (outcomes is None) != (follow_up_unit is None):
        raise InputError("outcomes and the unit of their time (follow_up_unit) belong together")
    records = read_table(folder / RECORDS, ["subject_id", "study_id", "ecg_time", "path"])
    rows = _rows(folder, records)
    if patients is not None:
        rows |= _people(Path(patients), records)
    if outcomes is not None:
        rows |= _outcomes(Path(outcomes), records)
    if keep_time:
        rows["ecg_time"] = records.column("ecg_time")
    return (making or Making()).convert(
        pa.table(rows), destination, _card(set(rows), follow_up_unit), options="mimic-iv-ecg"
    )


def _card(names: set[str], follow_up_unit: str | None) -> CohortCard:
    columns = {
        "report": "statements of the recording machine, one sentence each",
        "age": "years: anchor_age moved to the year of recording; 91 stands for above 89",
        "time": "by the user's own table of outcomes; of people, that of their first recording",
        "ecg_time": "time of recording, shifted by years for each person by the publisher",
    }
    columns |= {
        name: f"{unit}, measured by the machine; null where it could not"
        for name, unit in MEASUREMENTS.items()
    }
    return CohortCard(
        name="MIMIC-IV-ECG",
        modality="ecg",
        units="mV",
        sampling_rate=SAMPLING_RATE,
        leads=list(LEADS),
        follow_up_unit=follow_up_unit,
        time="time" if follow_up_unit else None,
        event="event" if follow_up_unit else None,
        columns={name: meaning for name, meaning in columns.items() if name in names},
        language=["en"],
        source="MIMIC-IV-ECG 1.0 (Gow et al. 2023), https://doi.org/10.13026/4nqg-sb35",
        license="odbl",
    )


def _rows(folder: Path, records: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the columns of all recordings that the set itself has."""
    studies = identifiers(records, "study_id")
    codes = studies.combine_chunks().dictionary_encode().indices.to_numpy()
    refuse_rows(np.bincount(codes)[codes] > 1, "column 'study_id' is not unique", studies)
    paths = records.column("path")
    refuse_rows(paths.is_null().to_numpy(), "column 'path' is blank")
    return {
        "subject_id": identifiers(records, "subject_id"),
        "record_id": studies,
        **_machine(folder / MACHINE, studies),
        FILE_COLUMN: pc.binary_join_element_wise(f"{folder}/", paths, ""),
    }


def _machine(path: Path, studies: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Return what the machine said and measured, null for recordings it does not list."""
    there = column_names(path)
    reports = [name for name in REPORTS if name in there]
    measured = [name for name in MEASUREMENTS if name in there]
    require(["study_id", REPORTS[0]], there, path)
    table = read_table(path, ["study_id", *reports, *measured])
    row = pc.index_in(studies, value_set=identifiers(table, "study_id"))
    said = [pc.utf8_rtrim(table.column(name), ".") for name in reports]
    report = pc.binary_join_element_wise(*said, ". ", null_handling="skip")
    report = pc.if_else(pc.equal(report, ""), None, report)
    columns = {"report": report.take(row)}
    for name in measured:
        values = numbers(table, name)
        values[values == NOT_MEASURED] = np.nan
        columns[name] = pa.array(values, pa.float32(), from_pandas=True).take(row)
    return columns


def _people(path: Path, records: pa.Table) -> dict[str, pa.Array]:
    """Return age at the recording and sex, null for people that are not in the table."""
    table = read_table(path, ["subject_id", "gender", "anchor_age", "anchor_year"])
    genders = table.column("gender")
    unknown = pc.invert(pc.is_in(genders, value_set=pa.array([*SEXES, None]))).to_numpy()
    refuse_rows(unknown, "column 'gender' is neither F nor M", genders)
    sexes = pa.array([SEXES.get(gender) for gender in genders.to_pylist()], pa.string())
    age, year = (numbers(table, name) for name in ("anchor_age", "anchor_year"))
    born = pa.array(age - year, from_pandas=True)
    row = _row_of(path, records.column("subject_id"), identifiers(table, "subject_id"))
    times = records.column("ecg_time")
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(times, r"^\d{4}-")), False).to_numpy()
    refuse_rows(wrong, "column 'ecg_time' is not a time such as 2150-01-31 08:00:00", times)
    recorded = pc.utf8_slice_codeunits(times, 0, 4).cast(pa.float64())
    return {
        "age": pc.add(born.take(row), recorded).cast(pa.float32()),
        "sex": sexes.take(row),
    }


def _outcomes(path: Path, records: pa.Table) -> dict[str, pa.Array]:
    """Return time and event; null in both for recordings without follow-up."""
    by_study = "study_id" in column_names(path)
    key = "study_id" if by_study else "subject_id"
    table = read_table(path, [key, "time", "event"])
    row = _row_of(path, records.column(key), identifiers(table, key))
    if not by_study:
        row = pc.if_else(_first_of_person(records), row, None)
    return {name: column.take(row) for name, column in follow_up(table, "time", "event").items()}


def _row_of(path: Path, wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    """Return the row of each wanted key in a table, null where it has none.

    Raises:
        InputError: A key stands twice, or none is in both tables.
    """
    codes = keys.combine_chunks().dictionary_encode().indices.to_numpy()
    refuse_rows(np.bincount(codes)[codes] > 1, f"an id of {path.name} is not unique", keys)
    row = pc.index_in(wanted, value_set=keys)
    if row.null_count == len(row):
        raise InputError(f"{path} has no person or study of {RECORDS}")
    return row


def _first_of_person(records: pa.Table) -> pa.Array:
    """Return (rows,) bool, true for each person's earliest recording."""
    keys = [(name, "ascending") for name in ("subject_id", "ecg_time", "study_id")]
    order = pc.sort_indices(records, sort_keys=keys).to_numpy()
    people = records.column("subject_id").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(people), bool)
    changes = np.diff(people[order], prepend=-1) != 0
    first[order[changes]] = True
    return pa.array(first)
