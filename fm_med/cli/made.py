"""What a command that makes a cohort says at its end: in words, or as JSON for programs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

MADE_JSON = "print what was made as JSON"


def tell_made(
    folder: str | Path, *, as_json: bool, shard: str | None = None, notes: Sequence[str] = ()
) -> None:
    """Say what was made: a cohort, or one part of it.

    Args:
        folder: Of the cohort or of the part.
        as_json: The cohort's card alone on stdout, and the notes on stderr.
        shard: Which part it is, as `2/8`; None for a whole cohort.
        notes: Further lines for people.
    """
    if as_json:
        found = card_of(folder) if shard is None else {"path": str(folder), "part": shard}
        print(json.dumps(found, indent=1))
    elif shard is not None:
        print(f"part {shard} is in {folder}; join all parts with fm-med cohort merge")
    else:
        describe_folder(folder)
    for note in notes:
        print(note, file=sys.stderr if as_json else sys.stdout)


def card_of(folder: str | Path) -> dict[str, Any]:
    """Return a cohort's card, where it lies and how many recordings were skipped."""
    from fm_med.cohort import open_cohort
    from fm_med.cohort.reading import read_skipped

    cohort = open_cohort(Path(folder))
    skipped = len(read_skipped(cohort.path))
    return {**asdict(cohort.card), "path": str(cohort.path), "skipped": skipped}


def describe_folder(folder: str | Path) -> None:
    """Print rows and persons per split, what was skipped, and warnings."""
    from fm_med.cohort import describe_cohort

    print(describe_cohort(folder))
