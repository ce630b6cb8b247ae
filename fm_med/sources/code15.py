"""CODE-15% as a cohort, from a copy of its Zenodo record: exams.csv and 18 HDF5 files.

Source: Ribeiro et al., CODE-15%: a large scale annotated dataset of 12-lead ECGs (2021),
https://doi.org/10.5281/zenodo.4916206; follow-up as in Lima et al., Deep neural network-estimated
electrocardiographic age as a mortality predictor, Nature Communications 12:5117 (2021).
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.cohort import COLUMN_MEANINGS, CohortCard
from fm_med.cohort.writing import free_destination
from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Recording
from fm_med.ecg.tracings import MARK, SAMPLING_RATE, TracingReader, exam_ids
from fm_med.errors import InputError
from fm_med.sources.pieces import FILE_COLUMN
from fm_med.sources.public import Making, ages, follow_up
from fm_med.sources.table_file import (
    booleans,
    column_names,
    identifiers,
    read_table,
    refuse_rows,
    require,
)

ABNORMALITIES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
NORMAL = "normal_ecg"
COLUMNS = ("exam_id", "patient_id", "age", "is_male", *ABNORMALITIES, NORMAL, "death", "timey")
# Which file holds an exam: of Zenodo's copy, and of copies with one MATLAB file per exam.
TRACE_FILE, EXAM_FILE = "trace_file", "save_file"
MISSING = -1  # of a file or row
# Millivolt within one second, median over leads: PTB-XL's recordings have 0.4 to 3.5, median 1.05.
USUAL_RANGE = (0.4, 5.0)
LOOKED_AT = 64  # recordings, for their amplitude
UNIT = (
    "; a stored unit was read as {:g} mV: the data's page states none, its authors' programs say"
    " both 1e-4 V and volt x 1000, and read as mV the ECGs are 1.4 to 2 times those of PTB-XL"
)


def make_code15(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    millivolt_per_unit: float = 1.0,
    making: Making | None = None,
) -> Path:
    """Convert CODE-15%: 345,779 exams of 233,770 people at 400 Hz, 7.3 or 10.2 s long.

    The zeros around shorter exams are cut off. The follow-up (all-cause death, in years) is known
    for a person's first exam; time and event of all others are null. An exam whose tracing is not
    there or is damaged is listed in ``skipped.csv``.

    Args:
        source: Folder with exams.csv and exams_part*.hdf5 (as many as there are), or with a table
            exams*.csv whose column save_file names a recording per exam.
        destination: The new cohort's folder.
        millivolt_per_unit: What a stored unit is; refused if the amplitudes are no ECG's then.
        making: Splits, duplicates, processes.

    Returns:
        The cohort's folder, or that of the part.

    Raises:
        InputError: A file or column is missing, a value is not what CODE-15 holds, the amplitudes
            are not those of ECGs, or see `convert_recordings`.
    """
    free_destination(destination)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"no CODE-15 at {folder}: there is no such folder")
    if not 0 < millivolt_per_unit < np.inf:
        raise InputError(f"millivolt_per_unit is {millivolt_per_unit}; expected a number above 0")
    read = TracingReader(float(millivolt_per_unit))
    rows = _rows(folder)
    _check_amplitude(rows.column(FILE_COLUMN), read)
    card = CohortCard(
        name="CODE-15%",
        modality="ecg",
        units="mV",
        sampling_rate=SAMPLING_RATE,
        leads=list(LEADS),
        follow_up_unit="years",
        time="time",
        event="event",
        label_sets={"abnormalities": list(ABNORMALITIES), "normal": [NORMAL]},
        columns={
            "signal": COLUMN_MEANINGS["signal"] + UNIT.format(millivolt_per_unit),
            "time": "from the exam to death or to censoring; null but for a person's first exam",
            "event": "true: the person died, of any cause; null without follow-up",
        },
        source="CODE-15% (Ribeiro et al. 2021), https://doi.org/10.5281/zenodo.4916206",
        license="cc-by-4.0",
    )
    return (making or Making()).convert(
        rows, destination, card, options=f"code15 {millivolt_per_unit!r}", read=read
    )


def _rows(folder: Path) -> pa.Table:
    """Return one row per exam, without its signal, in the order of the files."""
    path = _table(folder)
    there = column_names(path)
    require(COLUMNS, there, path)
    named = [name for name in (TRACE_FILE, EXAM_FILE) if name in there]
    table = read_table(path, [*COLUMNS, *named])
    exams = identifiers(table, "exam_id")
    not_whole = pc.invert(pc.match_substring_regex(exams, r"^\d{1,18}$")).to_numpy()
    refuse_rows(not_whole, "column 'exam_id' is not a whole number", exams)
    numbers = exams.cast(pa.int64()).to_numpy()
    refuse_rows(_repeated(numbers), "column 'exam_id' is not unique", exams)
    rows = pa.table(
        {
            "subject_id": identifiers(table, "patient_id"),
            "record_id": exams,
            "age": ages(table, "age"),
            "sex": pc.if_else(booleans(table, "is_male"), "male", "female"),
            **{name: booleans(table, name) for name in (*ABNORMALITIES, NORMAL)},
            **follow_up(table, "timey", "death"),
        }
    )
    if EXAM_FILE in there and not any(folder.glob("*.hdf5")):
        files = table.column(EXAM_FILE)
        refuse_rows(files.is_null().to_numpy(), f"column {EXAM_FILE!r} is blank")
        return rows.append_column(FILE_COLUMN, _under(folder, files))
    places, order = _places(folder, numbers, table)
    return rows.append_column(FILE_COLUMN, places).take(pa.array(order))


def _table(folder: Path) -> Path:
    """Return exams.csv, or else the only table named like it."""
    usual = folder / "exams.csv"
    others = sorted(folder.glob("exams*.csv"))
    return others[0] if len(others) == 1 else usual


def _repeated(numbers: np.ndarray) -> np.ndarray:
    _, codes = np.unique(numbers, return_inverse=True)
    return np.bincount(codes)[codes] > 1


def _under(folder: Path, names: pa.ChunkedArray, after: str = "") -> pa.ChunkedArray:
    return pc.binary_join_element_wise(str(folder) + "/", names, after, "")


def _places(folder: Path, exams: np.ndarray, table: pa.Table) -> tuple[pa.Array, np.ndarray]:
    """Return where each exam's tracing is, and the order of the exams by that.

    What the files themselves say counts; the table's column is for exams that no file has.
    """
    paths = sorted(folder.rglob("*.hdf5"))
    if not paths:
        raise InputError(f"{folder} has neither a *.hdf5 file nor a table with {EXAM_FILE!r}")
    file, row = _found(paths, exams)
    if TRACE_FILE in table.column_names:
        claimed = pc.fill_null(table.column(TRACE_FILE), "").to_pylist()
    else:
        claimed = [""] * len(exams)
    where = {path.name: str(path) for path in paths}
    places = [
        f"{paths[f]}{MARK}{r}"
        if f != MISSING
        else f"{where.get(claimed[exam], folder / (claimed[exam] or '*.hdf5'))}{MARK}"
        for exam, (f, r) in enumerate(zip(file.tolist(), row.tolist()))
    ]
    return pa.array(places, pa.string()), np.lexsort((row, file))


def _found(paths: list[Path], exams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return file and row of each exam, `MISSING` where no readable file has it."""
    file, row = (np.full(len(exams), MISSING) for _ in range(2))
    order = np.argsort(exams)
    for number, path in enumerate(paths):
        try:
            held = exam_ids(path)
        except InputError:  # told again, exam by exam, when its recordings are read
            continue
        place = np.searchsorted(exams, held, sorter=order).clip(max=len(exams) - 1)
        exam = order[place]
        # Each file ends in rows of exam 0, which fill it up; no exam has that number.
        known = (exams[exam] == held) & (file[exam] == MISSING)
        file[exam[known]], row[exam[known]] = number, np.flatnonzero(known)
    return file, row


def _check_amplitude(places: pa.ChunkedArray, read: TracingReader) -> None:
    """Look at some recordings and refuse a unit that makes them no ECGs."""
    some = np.linspace(0, len(places) - 1, min(LOOKED_AT, len(places))).astype(int)
    found = read([places[int(place)].as_py() for place in some])
    ranges = [_range(recording) for recording in found if isinstance(recording, Recording)]
    if not ranges:
        return  # nothing can be read, which the conversion tells better
    typical = float(np.median(ranges))
    low, high = USUAL_RANGE
    if not low <= typical <= high:
        raise InputError(
            f"with {read.millivolt_per_unit:g} mV per stored unit the leads of {len(ranges)} "
            f"recordings span {typical:.3g} mV within one second (median), where ECGs span "
            f"{low:g} to {high:g} mV; give --millivolt_per_unit (CODE-15: 1)"
        )


def _range(recording: Recording) -> float:
    """Return what a lead spans within one second, in mV; the median over seconds and leads."""
    signal = recording.signal[recording.lead_mask]
    second = int(recording.sampling_rate)
    seconds = signal[:, : signal.shape[1] // second * second].reshape(len(signal), -1, second)
    if not seconds.size:
        return float(np.nanmax(signal) - np.nanmin(signal))
    span = np.fmax.reduce(seconds, axis=2) - np.fmin.reduce(seconds, axis=2)
    return float(np.nanmedian(span))
