"""PTB-XL as a cohort, from a copy of version 1.0.1 or 1.0.3 (both have the same layout).

Source: Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Scientific
Data 7:154 (2020), https://physionet.org/content/ptb-xl/.
"""

import ast
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import CohortCard
from fm_med.cohort.writing import free_destination
from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError
from fm_med.sources.conversion import FILE_COLUMN, convert_recordings
from fm_med.sources.table_file import booleans, identifiers, numbers, read_table, refuse_rows

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
STATEMENTS_TYPE = pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))
FILE_NAMES = {100: "filename_lr", 500: "filename_hr"}
OLDEST = 90.0  # stored for every age above 89, which the source hides behind the value 300


def make_ptbxl(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    sampling_rate: int = 100,
    min_likelihood: float = 0.0,
    workers: int | None = None,
    allow_duplicates: bool = False,
    rows_per_shard: int | None = None,
    shard: str | None = None,
) -> Path:
    """Convert PTB-XL: `strat_fold` 1-8 is train, 9 validation, 10 test, as its authors recommend.

    A superclass is true when one of the record's diagnostic statements belongs to it. All five are
    null for a record without any diagnostic statement, so that it counts neither for nor against.

    Args:
        source: Folder with ptbxl_database.csv, scp_statements.csv, records100/ or records500/.
        destination: The new cohort's folder.
        sampling_rate: 100 or 500 Hz.
        min_likelihood: Percent from which a diagnostic statement counts for its superclass. With
            0 all of them do, as in the authors' example code: there 0 means "not stated", not "no".
        workers: Processes; None for one per core.
        allow_duplicates: Proceed although equal recordings are in two splits.
        rows_per_shard: Recordings per file and per step of a resumed conversion; see
            `convert_recordings`.
        shard: "2/8" for one share of the recordings; see `convert_recordings`.

    Returns:
        The cohort's folder, or that of the part.

    Raises:
        InputError: A file or column is missing, a value is not what PTB-XL holds, or see
            `convert_recordings`.
    """
    free_destination(destination)
    folder = Path(source)
    if sampling_rate not in FILE_NAMES:
        raise InputError(f"PTB-XL has 100 and 500 Hz recordings, not {sampling_rate} Hz")
    if not folder.is_dir():
        raise InputError(f"no PTB-XL at {folder}: there is no such folder")
    rows = _rows(folder, FILE_NAMES[sampling_rate], min_likelihood)
    card = CohortCard(
        name=f"PTB-XL, {sampling_rate} Hz",
        modality="ecg",
        units="mV",
        sampling_rate=float(sampling_rate),
        leads=list(LEADS),
        label_sets={"superclass": list(SUPERCLASSES)},
        columns={"age": f"years; {OLDEST:g} stands for every age above 89 that the source hides"},
        language=["de", "en", "sv"],
        source="PTB-XL (Wagner et al., Scientific Data 7:154, 2020), https://physionet.org/content/ptb-xl/",
        license="cc-by-4.0",
        allow_duplicates=allow_duplicates,
    )
    return convert_recordings(
        rows,
        destination,
        card,
        options=f"ptbxl {sampling_rate}",
        workers=workers,
        rows_per_shard=rows_per_shard,
        shard=shard,
    )


def _rows(folder: Path, file_name: str, min_likelihood: float) -> pa.Table:
    """Return one row per recording, without its signal."""
    columns = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", file_name]
    table = read_table(folder / "ptbxl_database.csv", columns)
    refuse_rows(table.column(file_name).is_null().to_numpy(), f"column {file_name!r} is blank")
    codes = [
        _statements(text, record)
        for text, record in zip(
            table.column("scp_codes").to_pylist(), table.column("ecg_id").to_pylist()
        )
    ]
    age = numbers(table, "age")
    age[age > 120] = OLDEST
    female = booleans(table, "sex")  # 0 = male, 1 = female (table 2 of the paper)
    files = [str(folder / name) for name in table.column(file_name).to_pylist()]
    return pa.table(
        {
            "subject_id": identifiers(table, "patient_id"),
            "record_id": identifiers(table, "ecg_id"),
            "split": _splits(numbers(table, "strat_fold")),
            "report": table.column("report"),
            "age": pa.array(age, pa.float32(), from_pandas=True),  # NaN becomes null
            "sex": pc.if_else(female, "female", "male"),
            "scp_codes": pa.array([list(code.items()) for code in codes], STATEMENTS_TYPE),
            **_superclass_columns(codes, _diagnostic_classes(folder), min_likelihood),
            FILE_COLUMN: files,
        }
    )


def _splits(fold: np.ndarray) -> list[str]:
    refuse_rows(~np.isin(fold, range(1, 11)), "column 'strat_fold' is not one of 1 to 10")
    return np.select([fold == 9, fold == 10], ["validation", "test"], "train").tolist()


def _statements(text: str | None, record: str) -> dict[str, float]:
    """Parse ``{'NORM': 100.0, 'SR': 0.0}``."""
    try:
        codes: Any = ast.literal_eval(text or "{}")
    except (ValueError, SyntaxError):
        codes = None
    if not isinstance(codes, dict):
        raise InputError(f"'scp_codes' of ecg_id {record} is {text!r}, expected a dict of codes")
    return {str(code): float(likelihood) for code, likelihood in codes.items()}


def _diagnostic_classes(folder: Path) -> dict[str, str]:
    """Return the superclass of each diagnostic statement."""
    table = read_table(folder / "scp_statements.csv", ["", "diagnostic", "diagnostic_class"])
    rows = zip(*(column.to_pylist() for column in table.columns))
    return {code: kind for code, diagnostic, kind in rows if diagnostic in ("1", "1.0") and kind}


def _superclass_columns(
    codes: list[dict[str, float]], classes: dict[str, str], min_likelihood: float
) -> dict[str, pa.Array]:
    found = [
        {
            classes[c]
            for c, likelihood in row.items()
            if c in classes and likelihood >= min_likelihood
        }
        for row in codes
    ]
    known = [any(code in classes for code in row) for row in codes]
    return {
        name: pa.array([name in row if k else None for row, k in zip(found, known)], pa.bool_())
        for name in SUPERCLASSES
    }
