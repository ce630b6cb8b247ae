"""Make a cohort of simulated people, streamed and from several processes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from fm_med.cohort import CohortCard, CohortWriter
from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate import FINDINGS, SimulatedBatch, simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.errors import InputError
from fm_med.sources.workers import cores, worker_pool

SIMULATION_VERSION = 2  # rises when the same settings give another cohort
PIECE = 250  # people that are simulated and written at a time
_FEW = 5000  # people below which starting processes takes longer than it saves

_ORACLES = {
    "log_hazard_all": "true log-hazard at an effect of 1: findings, trait, rate and age",
    "log_hazard_ecg": "log_hazard_all without age: what the ECG can show",
    "log_hazard_findings": "the part of log_hazard_all of the findings that a report names",
    "log_hazard_age": "the part of log_hazard_all of age",
}
_TRUTH = {
    **{f"severity_{name}": f"severity of {name} in (0, 1], 0 when absent" for name in FINDINGS},
    "trait": "standard normal; visible in the ECG, never in a report",
    "heart_rate": "mean ventricular rate, beats per minute",
    **_ORACLES,
}
_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        *SIGNAL_SCHEMA,
        pa.field("report", pa.string()),
        pa.field("language", pa.string()),
        pa.field("age", pa.float32()),
        pa.field("sex", pa.string()),
        *(pa.field(name, pa.bool_()) for name in FINDINGS),
        pa.field("time", pa.float64()),
        pa.field("event", pa.bool_()),
        *(pa.field(name, pa.float64()) for name in _TRUTH),
    ]
)
# Ten people in a row: seven for training, one for validation, two for the test.
_SPLITS = {"train": range(0, 7), "validation": range(7, 8), "test": range(8, 10)}


def make_simulated(
    destination: str | os.PathLike[str],
    *,
    subjects: int,
    seed: int = 0,
    sampling_rate: int = 100,
    seconds: float = 10.0,
    hospital: str = "a",
    effect: float = 1.0,
    event_share: float = 0.10,
    recordings_per_subject: float = 1.2,
    workers: int | None = None,
) -> Path:
    """Write a simulated cohort; the same settings give the same cohort with any `workers`.

    Memory is bounded: a few pieces of 250 people per process, whatever the number of people.
    Person by person, 70 % are for training, 10 % for validation, 20 % for the test.

    Args:
        destination: Folder of the new cohort; must not exist yet, or be empty.
        subjects: Number of people, at least 10 so that no split is empty.
        seed: Seed of everything.
        sampling_rate: 100 to 1000 Hz.
        seconds: Length of each recording.
        hospital: "a" or "b".
        effect: Strength of all effects on survival; 0 for a null cohort.
        event_share: Expected share of people with an event.
        recordings_per_subject: Mean number of recordings of a person, 1 to 2.5.
        workers: Processes; default: all cores when there are many people.

    Returns:
        The cohort's folder.

    Raises:
        InputError: A setting is out of range, or the destination is taken.
    """
    if subjects < 10:
        raise InputError(f"subjects is {subjects}; a simulated cohort needs at least 10")
    make = partial(
        simulate,
        seed=seed,
        sampling_rate=sampling_rate,
        seconds=seconds,
        hospital=hospital,
        effect=effect,
        event_share=event_share,
        recordings_per_subject=recordings_per_subject,
    )
    make(0)  # refuses wrong settings before anything is written
    card = _card(hospital, sampling_rate, f"seed {seed}, effect {effect:g}")
    pieces = [
        (make, start, min(PIECE, subjects - start), hospital) for start in range(0, subjects, PIECE)
    ]
    if workers is None:
        workers = cores() if subjects >= _FEW else 1
    with CohortWriter(destination, card, _SCHEMA) as writer:
        # disable=None: silent when standard error is not a terminal
        bar = tqdm(_in_order(pieces, workers), total=len(pieces), unit="piece", disable=None)
        for tables in bar:
            for split, table in tables.items():
                writer.write(split, table)
    return writer.destination


def _card(hospital: str, sampling_rate: int, what: str) -> CohortCard:
    return CohortCard(
        name=f"simulated hospital {hospital}",
        modality="ecg",
        units="mV",
        sampling_rate=float(sampling_rate),
        leads=list(LEADS),
        follow_up_unit="months",
        time="time",
        event="event",
        label_sets={"findings": list(FINDINGS)},
        columns={**_TRUTH, "language": "language of the report"},
        language=["en", "de"],
        source=f"simulated by fm_med.ecg.simulate ({what}); no real person",
        license="apache-2.0",
    )


Piece = tuple[Any, int, int, str]


def _in_order(pieces: list[Piece], workers: int) -> Iterator[dict[str, pa.Table]]:
    """Yield the tables of each piece in order; at most two pieces per process wait."""
    if workers <= 1:
        yield from map(_simulate_piece, pieces)
        return
    with worker_pool(min(workers, len(pieces))) as pool:
        try:
            yield from _windowed(pool, pieces, 2 * workers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _windowed(
    pool: ProcessPoolExecutor, pieces: Iterable[Piece], size: int
) -> Iterator[dict[str, pa.Table]]:
    waiting: deque[Any] = deque()
    for piece in pieces:
        waiting.append(pool.submit(_simulate_piece, piece))
        if len(waiting) >= size:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _simulate_piece(piece: Piece) -> dict[str, pa.Table]:
    """Simulate the people of a piece and return the rows of each split."""
    make, first, count, hospital = piece
    batch = make(count, first_subject=first)
    table = _table(batch, hospital)
    place = batch.subject % 10
    rows = {split: np.flatnonzero(np.isin(place, part)) for split, part in _SPLITS.items()}
    return {split: table.take(found) for split, found in rows.items() if len(found)}


def _table(batch: SimulatedBatch, hospital: str) -> pa.Table:
    """Return the rows of a batch in the columns of the schema, but `split`."""
    persons = [f"{hospital}{number:07d}" for number in batch.subject.tolist()]
    columns: dict[str, Any] = {
        "subject_id": persons,
        "record_id": [f"{p}-{r}" for p, r in zip(persons, batch.repeat.tolist())],
        "report": batch.report,
        "language": batch.language,
        "age": batch.age,
        "sex": np.where(batch.female, "female", "male"),
        "time": batch.time,
        "event": batch.event,
        "trait": batch.trait,
        "heart_rate": batch.heart_rate,
    }
    encoded = [encode(batch.recording(row)) for row in range(len(batch))]
    columns |= {field.name: [row[field.name] for row in encoded] for field in SIGNAL_SCHEMA}
    for column, name in enumerate(FINDINGS):
        columns[name] = batch.severity[:, column] > 0
        columns[f"severity_{name}"] = batch.severity[:, column]
    columns |= {name: getattr(batch, name) for name in _ORACLES}
    fields = [field for field in _SCHEMA if field.name != "split"]
    return pa.table([pa.array(columns[f.name], f.type) for f in fields], pa.schema(fields))
