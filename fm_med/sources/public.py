"""What the makers of cohorts from public data sets share: options, ages, follow-ups."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from fm_med.cohort import CohortCard
from fm_med.sources.conversion import convert_recordings
from fm_med.sources.ecg_table import OLDEST, drawn_splits
from fm_med.sources.pieces import Reader, read_files
from fm_med.sources.table_file import booleans, numbers, refuse_rows


@dataclass(frozen=True)
class Making:
    """How a cohort is made of a public data set that comes without splits.

    Attributes:
        seed: Of the draw of people to splits; see `fm_med.sources.ecg_table.drawn_splits`.
        fractions: Shares of people in train, validation and test.
        duplicates: What to do about equal recordings in different splits: "drop" keeps those of one
            split and lists the others in ``skipped.csv``, "refuse" stops, "allow" keeps all.
        workers: Processes; None for one per core.
        rows_per_shard: Recordings per file and per step of a resumed conversion; see
            `convert_recordings`.
        shard: "2/8" for one share of the recordings; see `convert_recordings`.
    """

    seed: int = 0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    duplicates: Literal["drop", "refuse", "allow"] = "drop"
    workers: int | None = None
    rows_per_shard: int | None = None
    shard: str | None = None

    def convert(
        self,
        rows: pa.Table,
        destination: str | os.PathLike[str],
        card: CohortCard,
        *,
        options: str,
        read: Reader = read_files,
    ) -> Path:
        """Draw the splits and convert the recordings; see `convert_recordings`.

        Args:
            rows: One row per recording, but for the column split.
            destination: The new cohort's folder.
            card: The card.
            options: Everything that decides the result besides the rows.
            read: Reads the recordings at places of `FILE_COLUMN`.
        """
        split = drawn_splits(rows.column("subject_id"), self.fractions, self.seed)
        return convert_recordings(
            rows.append_column("split", split),
            destination,
            replace(card, allow_duplicates=self.duplicates == "allow"),
            options=options,
            workers=self.workers,
            rows_per_shard=self.rows_per_shard,
            shard=self.shard,
            read=read,
            drop_duplicates=self.duplicates == "drop",
        )


def ages(table: pa.Table, name: str) -> pa.Array:
    """Return a column as ages in years, null where blank.

    Raises:
        InputError: A cell is no age.
    """
    age = numbers(table, name)
    refuse_rows((age < 0) | (age > OLDEST), f"column {name!r} is no age", table.column(name))
    return pa.array(age, pa.float32(), from_pandas=True)  # NaN becomes null


def follow_up(table: pa.Table, time: str, event: str) -> dict[str, pa.Array]:
    """Return the columns time and event; a row without follow-up is null in both.

    Raises:
        InputError: A time is negative, or a row has one without the other.
    """
    times, events = numbers(table, time), booleans(table, event)
    seen = table.column(time)
    refuse_rows(times < 0, f"follow-up time {time!r} is negative", seen)
    half = seen.is_null().to_numpy() != events.is_null().to_numpy()
    refuse_rows(half, f"only one of {time!r} and {event!r} is blank")
    return {"time": pa.array(times, pa.float64(), from_pandas=True), "event": events}
