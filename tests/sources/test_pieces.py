"""Pieces of a conversion: what a process is given, and copies that are left out."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fm_med.cohort import CohortCard, check_cohort, copies, open_cohort
from fm_med.cohort.reading import read_skipped
from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError
from fm_med.sources import conversion
from fm_med.sources.conversion import FILE_COLUMN, convert_recordings
from fm_med.sources.pieces import Piece, read_files
from fm_med.sources.shards import merge_parts

CARD = CohortCard(name="copies", modality="ecg", units="mV", leads=list(LEADS))
SPLITS = ["train", "train", "train", "train", "validation", "validation", "test", "test"]


@pytest.fixture
def rows(tmp_path, write_record):
    """Eight recordings: 1 = 5 = 6 in three splits, 0 = 2 in one."""
    for number, seed in enumerate([0, 1, 0, 3, 4, 1, 1, 7]):
        write_record(tmp_path / "records", str(number), seed=seed)
    return pa.table(
        {
            "subject_id": [f"p{number}" for number in range(8)],
            "record_id": [str(number) for number in range(8)],
            "split": SPLITS,
            FILE_COLUMN: [str(tmp_path / "records" / str(number)) for number in range(8)],
        }
    )


def convert(rows, destination, **settings):
    settings = {"options": "test", "rows_per_shard": 2, "drop_duplicates": True} | settings
    return convert_recordings(rows, destination, CARD, **settings)


def check_dropped(folder):
    cohort = open_cohort(folder)
    records = [record for split in cohort.splits for record in cohort.column(split, "record_id")]
    assert records == ["0", "1", "2", "3", "4", "7"]
    assert read_skipped(folder) == [
        ("5", "the same recording as 1 (train)"),
        ("6", "the same recording as 1 (train)"),
    ]
    assert check_cohort(folder) == []
    assert not (folder / "copies.json").exists()


def test_a_process_is_given_its_rows_only():
    table = pa.table({"record_id": [f"record {number}" for number in range(10_000)]})
    piece = Piece(table.slice(5000, 3), table.schema, Path("shard"), Path("note"), read_files)
    sent = pickle.dumps(piece)
    assert len(sent) < 2000 < len(pickle.dumps(table.slice(5000, 3)))
    again = pickle.loads(sent)
    assert again.rows.equals(piece.rows)
    assert (again.schema, again.shard, again.note) == (piece.schema, piece.shard, piece.note)
    assert again.read is read_files


def test_copies_stay_in_one_split(rows, tmp_path):
    with pytest.raises(InputError, match=r"1 \(train\) = 5 \(validation\) = 6 \(test\)"):
        convert(rows, tmp_path / "cohort", drop_duplicates=False)
    check_dropped(convert(rows, tmp_path / "cohort"))


def test_copies_in_parts_are_dropped_when_merging(rows, tmp_path):
    for shard in ("1/3", "2/3", "3/3"):
        part = convert(rows, tmp_path / "cohort", shard=shard)
    files = {path: path.read_bytes() for path in part.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="more than one split"):
        merge_parts(tmp_path / "cohort")
    check_dropped(merge_parts(tmp_path / "cohort", drop_duplicates=True))
    assert {path: path.read_bytes() for path in files} == files


def test_a_split_of_nothing_but_copies_is_gone(rows, tmp_path):
    rows = rows.take(pa.array([0, 1, 3, 5, 6]))
    folder = convert(rows, tmp_path / "cohort")
    assert open_cohort(folder).card.recordings == {"train": 3}
    assert [record for record, _ in read_skipped(folder)] == ["5", "6"]


def test_an_interrupted_drop_goes_on_with_the_same_list(rows, tmp_path, monkeypatch):
    rewritten = []

    def stop(path, unwanted):
        if len(rewritten) == 3:
            raise KeyboardInterrupt
        rewritten.append(path)
        rewrite(path, unwanted)

    rewrite = copies._rewrite
    monkeypatch.setattr(copies, "_rewrite", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(rows, tmp_path / "cohort")
    monkeypatch.undo()
    assert any("validation" in path.name for path in rewritten)
    check_dropped(convert(rows, tmp_path / "cohort"))


def test_recordings_may_come_from_anywhere(rows, tmp_path):
    folder = convert(rows, tmp_path / "cohort", read=Upside(["4"]), drop_duplicates=True)
    assert ("4", "not wanted") in read_skipped(folder)
    usual = open_cohort(convert(rows, tmp_path / "usual"))
    turned = open_cohort(folder)
    first, second = (
        np.frombuffer(cohort.rows("train", np.array([0])).column("signal")[0].as_py(), "<i2")
        for cohort in (usual, turned)
    )
    np.testing.assert_array_equal(first, -second)


@pytest.mark.parametrize(
    ("recordings", "shards", "largest"),
    [(10, 1, 10), (600, 3, 256), (4096, 16, 256), (4097, 9, 512), (70_000, 18, 4096)],
)
def test_few_recordings_make_small_shards(recordings, shards, largest, tmp_path, monkeypatch):
    """So that every process has a shard; whatever the number of processes, which may change."""
    sizes = []

    def note(work, tasks, workers):
        sizes.extend(piece.rows.num_rows for piece in tasks)
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "each_done", note)
    numbers = pa.array(range(recordings)).cast(pa.string())
    table = pa.table({"subject_id": numbers, "record_id": numbers, FILE_COLUMN: numbers})
    table = table.append_column("split", pa.array(["train"] * recordings))
    for workers in (1, 8):
        with pytest.raises(KeyboardInterrupt):
            convert(table, tmp_path / "cohort", rows_per_shard=None, workers=workers)
    first, again = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    assert first == again
    assert (len(first), max(first), sum(first)) == (shards, largest, recordings)


@pytest.mark.parametrize(
    ("recordings", "workers", "processes"),
    [(900, None, 1), (2100, None, 3), (20_000, None, 6), (900, 4, 4), (20_000, 1, 1)],
)
def test_more_recordings_more_processes(recordings, workers, processes, monkeypatch, tmp_path):
    """Unless it is said how many."""
    seen = []
    monkeypatch.setattr(conversion, "cores", lambda: 6)
    monkeypatch.setattr(
        conversion, "each_done", lambda work, tasks, count: seen.append(count) or ()
    )
    rows = pa.table({"record_id": pa.array(range(recordings))})
    piece = Piece(rows, rows.schema, tmp_path / "shard", tmp_path / "note", read_files)
    conversion._convert_pieces([piece], workers)
    assert seen == [processes]


class Upside:
    """Reads recordings upside down, and not all of them."""

    def __init__(self, unwanted):
        self.unwanted = unwanted

    def __call__(self, places):
        for place, found in zip(places, read_files(places)):
            if Path(place).name in self.unwanted:
                yield InputError("not wanted")
            else:
                found.signal[:] *= -1
                yield found
