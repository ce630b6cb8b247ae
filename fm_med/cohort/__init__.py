"""The cohort contract: a folder of Arrow shards and a card that says what the numbers mean.

A cohort folder holds ``README.md`` (a YAML header, the card, above a readable text),
``data/{split}-00000-of-00003.arrow`` and ``skipped.csv``. `open_cohort` reads it memory-mapped,
`check_cohort` lists every problem, `CohortWriter` writes one. ``datasets.load_dataset(folder)``
reads the same folder.
"""

from fm_med.cohort.card import COLUMN_MEANINGS, SCHEMA_VERSION, CohortCard
from fm_med.cohort.checking import check_cohort
from fm_med.cohort.reading import Cohort, describe_cohort, open_cohort
from fm_med.cohort.writing import ROWS_PER_SHARD, CohortWriter

__all__ = [
    "COLUMN_MEANINGS",
    "ROWS_PER_SHARD",
    "SCHEMA_VERSION",
    "Cohort",
    "CohortCard",
    "CohortWriter",
    "check_cohort",
    "describe_cohort",
    "open_cohort",
]
