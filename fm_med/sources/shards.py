"""Convert a large source on many machines, a part on each, and merge the parts into one cohort.

Every machine reads the whole table, so that all of them agree on the splits, and converts its share
of the recordings: consecutive rows, the same number for all but for one. The parts joined in
their order have the rows of the unsharded cohort in the same order, and the fingerprint depends on
nothing else, so that it is the same, too.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import pyarrow as pa

from fm_med.cohort import CohortCard
from fm_med.cohort.checking import first_of
from fm_med.cohort.copies import drop_copies, forget_copies
from fm_med.cohort.tables import DATA_FOLDER, content_hash, shard_files
from fm_med.cohort.writing import (
    begin_hidden_folder,
    finish_cohort,
    flush_to_disk,
    free_destination,
    shard_path,
)
from fm_med.errors import InputError

PART_FILE = "part.json"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "2/8".

        Raises:
            InputError: It is something else, or there is no such part.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise InputError(f"shard is {text!r}, expected a part and how many there are: 2/8")
        shard = cls(*map(int, match.groups()))
        if not 1 <= shard.index <= shard.count:
            raise InputError(f"there is no shard {text}; they are counted from 1 to {shard.count}")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def folder(self, destination: Path) -> Path:
        """Return where this part of the cohort `destination` is written: beside it."""
        return destination.with_name(f"{destination.name}.part-{self.index}-of-{self.count}")

    def share(self, splits: dict[str, pa.Table]) -> dict[str, pa.Table]:
        """Return this part's rows of each split: consecutive ones, split after split.

        Raises:
            InputError: There are fewer rows than parts.
        """
        total = sum(table.num_rows for table in splits.values())
        if total < self.count:
            raise InputError(f"{total} recordings cannot be cut into {self.count} shards")
        first, last = (total * k // self.count for k in (self.index - 1, self.index))
        mine, start = {}, 0
        for split, table in splits.items():
            end = start + table.num_rows
            begin, stop = max(first, start), min(last, end)
            if begin < stop:
                mine[split] = table.slice(begin - start, stop - begin)
            start = end
        return mine


@dataclass(frozen=True)
class ConversionNote:
    """What came of some recordings besides their rows.

    Attributes:
        skipped: (record id, reason) of those that are left out.
        sampling_rates: Those that were seen, in Hz.
    """

    skipped: list[tuple[str, str]]
    sampling_rates: list[float]


@dataclass(frozen=True)
class PartNote:
    """What a part says about itself.

    Attributes:
        shard: Which of the parts it is, as "2/8".
        source: Hash of the table and of all options; equal for parts of one conversion.
        card: The cohort's card, without counts and fingerprint.
        note: What came of its recordings besides the rows.
    """

    shard: str
    source: str
    card: CohortCard
    note: ConversionNote


@dataclass(frozen=True)
class Part(PartNote):
    """A converted part on disk."""

    folder: Path


def source_key(rows: pa.Table, card: CohortCard, options: str) -> str:
    """Return a hash of everything that decides a cohort, but for where the recordings lie.

    Whether duplicates are allowed is not part of it: that can be said when merging.
    """
    described = asdict(replace(card, allow_duplicates=False))
    key = hashlib.sha256(json.dumps([described, options], sort_keys=True).encode())
    key.update(content_hash({"rows": rows.to_batches()}).encode())
    return key.hexdigest()


def is_done(folder: Path, source: str) -> bool:
    """Tell whether a part is there already, made from the same source with the same options."""
    return (folder / PART_FILE).is_file() and read_part(folder).source == source


def finish_part(work: Path, folder: Path, part: PartNote) -> None:
    """Add the note to the shards in the hidden folder `work` and rename it to `folder`."""
    files = {path.name: path.stat().st_size for path in (work / DATA_FOLDER).iterdir()}
    note = json.dumps({**asdict(part), "files": files}, indent=1)
    (work / PART_FILE).write_text(note, encoding="utf-8")
    flush_to_disk(work)
    work.replace(folder)


def read_part(folder: Path) -> Part:
    """Read what a part says about itself and see whether its files are complete.

    Raises:
        InputError: It is not a part, or a file is missing or cut.
    """
    path = folder / PART_FILE
    if not path.is_file():
        raise InputError(f"{folder} is not a part of a cohort: it has no {PART_FILE}")
    note = json.loads(path.read_text(encoding="utf-8"))
    for name, size in note["files"].items():
        file = folder / DATA_FOLDER / name
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{file} is missing or not complete; convert this shard again")
    return Part(
        shard=note["shard"],
        source=note["source"],
        card=CohortCard(**note["card"]),
        note=ConversionNote(**note["note"]),
        folder=folder,
    )


def merge_parts(
    destination: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]] | None = None,
    *,
    allow_duplicates: bool = False,
    drop_duplicates: bool = False,
) -> Path:
    """Join all parts of a conversion into the cohort that it would have made unsharded.

    The files are linked, or copied where the file system has no links: the cohort appears whole
    or not at all, and the parts stay until they are removed by hand. Splits and equal
    recordings are checked over all parts.

    Args:
        destination: The cohort's folder.
        parts: The folders of all parts; None for those that lie beside the destination.
        allow_duplicates: Proceed although equal recordings are in two splits.
        drop_duplicates: Keep those of one split only; the parts stay as they are.

    Returns:
        The cohort's folder.

    Raises:
        InputError: A part is missing, incomplete, given twice or of another source, or the rows
            break the contract of a cohort.
    """
    target = free_destination(destination)
    folders = _parts_beside(target) if parts is None else [Path(part) for part in parts]
    found = sorted(map(read_part, folders), key=lambda part: Shard.parse(part.shard).index)
    _check_complete(found, target)
    card = replace(
        found[0].card,
        allow_duplicates=allow_duplicates or any(part.card.allow_duplicates for part in found),
    )
    work = begin_hidden_folder(target)
    try:
        _join_files(found, work)
        notes = [part.note for part in found]
        finish_conversion(work, target, card, notes, drop_duplicates)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def finish_conversion(
    work: Path,
    target: Path,
    card: CohortCard,
    notes: list[ConversionNote],
    drop_duplicates: bool = False,
) -> None:
    """Check the shards in `work` and make them the cohort `target`; see `finish_cohort`.

    Args:
        work: The hidden folder with the shards.
        target: The cohort's folder.
        card: The card; a sampling rate of 0 is replaced by the one that all recordings share.
        notes: Of all recordings, in their order.
        drop_duplicates: Of equal recordings in different splits, keep those of one split only.
    """
    rates = {rate for note in notes for rate in note.sampling_rates}
    if not card.sampling_rate and len(rates) == 1:
        card = replace(card, sampling_rate=rates.pop())
    skipped = [record for note in notes for record in note.skipped]
    if drop_duplicates:
        skipped += drop_copies(work)
    finish_cohort(work, target, card, skipped)
    forget_copies(target)


def _parts_beside(target: Path) -> list[Path]:
    name = re.compile(re.escape(target.name) + r"\.part-\d+-of-\d+")
    folders = target.parent.iterdir() if target.parent.is_dir() else []
    found = [folder for folder in folders if name.fullmatch(folder.name)]
    if not found:
        raise InputError(f"no part of {target}: there is no {target.name}.part-1-of-... beside it")
    return found


def _check_complete(parts: list[Part], target: Path) -> None:
    if not parts:
        raise InputError(f"no part of {target} is given")
    first = parts[0]
    count = Shard.parse(first.shard).count
    for part in parts[1:]:
        if Shard.parse(part.shard).count != count:
            raise InputError(
                f"{first.folder} is part {first.shard} and {part.folder} is part {part.shard};"
                " all parts must be of one cutting"
            )
        if part.source != first.source:
            raise InputError(
                f"{part.folder} was made from another source or with other options than"
                f" {first.folder}"
            )
    for part, following in pairwise(parts):
        if part.shard == following.shard:
            raise InputError(f"{part.folder} and {following.folder} are both part {part.shard}")
    there = {part.shard for part in parts}
    missing = [f"{k}/{count}" for k in range(1, count + 1) if f"{k}/{count}" not in there]
    if missing:
        raise InputError(f"of the parts of {target} these are missing: {first_of(missing)}")


def _join_files(parts: list[Part], work: Path) -> None:
    """Link the parts' shards under running numbers, in the order of the parts."""
    numbers: dict[str, int] = {}
    for part in parts:
        for split, paths in shard_files(part.folder).items():
            for path in paths:
                number = numbers.get(split, 0)
                _link(path, shard_path(work, split, number))
                numbers[split] = number + 1


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
