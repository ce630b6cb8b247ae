"""Leave equal recordings in one split only, where a source is known to hold copies.

Public data sets hold the same ECG under several ids, and even under several people. Of such a
group the recordings of its first split (train, validation, test) are kept.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fm_med.atomic import atomic_file
from fm_med.cohort.checking import equal_recordings
from fm_med.cohort.tables import open_shards, shard_files
from fm_med.cohort.writing import ShardWriter

COPIES_FILE = "copies.json"


def drop_copies(folder: Path) -> list[tuple[str, str]]:
    """Rewrite the shards without recordings that an earlier split has, too.

    What is left out is noted before the first shard is rewritten, so that a run which is killed in
    between goes on with the same list.

    Args:
        folder: An unfinished cohort with shards in ``data``.

    Returns:
        (record id, reason) of each recording that was left out.
    """
    note = folder / COPIES_FILE
    if not note.exists():
        found = _copies(open_shards(folder)) if shard_files(folder) else []
        with atomic_file(note) as path:
            path.write_text(json.dumps(found), encoding="utf-8")
    copies = [(record, reason) for record, reason in json.loads(note.read_text(encoding="utf-8"))]
    unwanted = pa.array([record for record, _ in copies], pa.string())
    for paths in shard_files(folder).values() if copies else ():
        for path in paths:
            _rewrite(path, unwanted)
    return copies


def forget_copies(folder: Path) -> None:
    """Remove the note of `drop_copies` from a finished cohort."""
    (folder / COPIES_FILE).unlink(missing_ok=True)


def _copies(tables: dict[str, pa.Table]) -> list[tuple[str, str]]:
    return [
        (row.record_id, f"the same recording as {group[0].record_id} ({group[0].split})")
        for group in equal_recordings(tables)
        for row in group
        if row.split != group[0].split
    ]


def _rewrite(path: Path, unwanted: pa.Array) -> None:
    """Write a shard again without some records; one that loses all its rows is removed."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as shard:
        batches = range(shard.num_record_batches)
        wanted = [
            pc.invert(pc.is_in(shard.get_batch(index).column("record_id"), unwanted))
            for index in batches
        ]
        if all(pc.all(mask).as_py() for mask in wanted):
            return
        with atomic_file(path) as new:
            writer = ShardWriter(new, shard.schema)
            for index in batches:
                writer.write(pa.table(shard.get_batch(index).filter(wanted[index])))
            writer.close()
    if not writer.rows:
        path.unlink()
