"""Streamed pairs: each exactly once per epoch, as they are in the cohort, from here or the Hub."""

import shutil
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
import torch

from fm_med import streamed_pairs
from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.cohort.pieces import open_pieces
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.simulate import simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.errors import InputError
from fm_med.pairs import Pairs, read_pairs
from fm_med.streamed_pairs import StreamedPairs, open_source, read_split

ROWS = 23
COMMIT = "c0ffee"


class Letters:
    """Stands for a store: a text's embedding is how often it has some letters."""

    encoder = SimpleNamespace(dim=5)

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abcde"] for text in texts], np.float32)


def report(number):
    return [None, " \n"][number % 2] if number % 5 == 0 else "abcde"[number % 4] * (1 + number // 3)


def write(folder):
    """23 recordings of 12 persons in three shards, of which 18 have a report; two other splits."""
    fields = [pa.field(n, pa.string()) for n in ("subject_id", "record_id", "split", "report")]
    card = CohortCard(name="tiny", modality="ecg", units="mV", leads=list(LEADS))
    batch = simulate(ROWS + 2, seed=1)
    schema = pa.schema([*fields, *SIGNAL_SCHEMA])
    with CohortWriter(folder, card, schema, rows_per_shard=8) as writer:
        for row in range(ROWS + 2):
            split = "train" if row < ROWS else ("validation", "test")[row - ROWS]
            person = f"p{row % 12}" if split == "train" else f"{split} person"
            ids = {"subject_id": person, "record_id": f"r{row}"}
            ids["report"] = report(row) if split == "train" else "abc"
            writer.write(split, [ids | encode(batch.recording(row))])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("streamed") / "cohort")


@pytest.fixture(scope="module")
def expected(folder):
    return read_pairs(open_cohort(folder), "train", Letters(), "report")


def on_hub(folder, monkeypatch, place):
    """Make `someone/cohort` a data set of the Hub; return what was asked of it."""
    asked = []
    remote = place / "remote"
    shutil.copytree(folder / "data", remote / "data")  # without a card: read through `datasets`

    def download(name, *, repo_type, allow_patterns, ignore_patterns):
        asked.append((name, repo_type, allow_patterns))
        here = place / "snapshots" / COMMIT
        (here / "data").mkdir(parents=True, exist_ok=True)
        for path in [*folder.glob("data/*.arrow"), folder / "README.md"]:
            relative = path.relative_to(folder)
            if not any(relative.match(pattern) for pattern in ignore_patterns):
                assert any(relative.match(pattern) for pattern in allow_patterns)
                shutil.copy(path, here / relative)
        return str(here)

    def pieces(source, split, *, revision):
        asked.append((source, split, revision))
        return open_pieces(remote, split)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(streamed_pairs, "open_pieces", pieces)
    return asked


@pytest.fixture(params=["folder", "hub"])
def pairs(request, folder, monkeypatch, tmp_path):
    """The streamed training pairs, of a folder and of the Hub."""
    if request.param == "hub":
        asked = on_hub(folder, monkeypatch, tmp_path)
        cohort = open_source("someone/cohort", 1, streaming=True)
        assert asked[0][:2] == ("someone/cohort", "dataset")
        assert asked[1] == ("someone/cohort", "train", COMMIT)
        assert set(cohort.splits) == {"validation", "test"}
    else:
        cohort = open_source(str(folder), 1, streaming=True)
    assert isinstance(read_split(cohort, "test", Letters(), "report"), Pairs)
    return read_split(cohort, "train", Letters(), "report")


def flat(lists):
    return list(chain.from_iterable(lists))


def process(rank=0, world_size=1):
    return SimpleNamespace(process_index=rank, num_processes=world_size)


# ------------------------------------------------------------------------------------- Batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_pair_once_per_epoch_on_any_number_of_processes(pairs, expected, world_size):
    assert len(pairs) == len(expected) == 18
    ranks = [
        pairs.batches(6 // world_size, process(rank, world_size), seed=3)
        for rank in range(world_size)
    ]
    alone = pairs.batches(6, process(), seed=3)
    assert {each.steps_per_epoch for each in ranks} == {alone.steps_per_epoch} == {3}
    epochs = []
    for step in range(2 * 3):
        shares, whole = [each.at(step) for each in ranks], alone.at(step)
        assert {share.epoch for share in shares} == {step // 3}
        assert {share.size for share in shares} == {sum(len(share.rows) for share in shares)}
        assert flat(share.record_ids() for share in shares) == whole.record_ids()
        assert flat(share.row_id.tolist() for share in shares) == whole.row_id.tolist()
        epochs.append(whole.record_ids())
    first, second = flat(epochs[:3]), flat(epochs[3:])
    assert sorted(first) == sorted(second) == sorted(expected.record_ids(np.arange(18)))
    assert first != second


def test_the_pairs_are_those_of_the_cohort(pairs, expected):
    place = {name: row for row, name in enumerate(expected.record_ids(np.arange(18)))}
    cpu, processor = torch.device("cpu"), EcgProcessor()
    batches = pairs.batches(7, process(), seed=0)
    for step in range(batches.steps_per_epoch):
        batch = batches.at(step)
        rows = np.array([place[name] for name in batch.record_ids()])
        for ours, theirs in (
            (batch.pairs.inputs(batch.rows, processor, cpu), expected.inputs(rows, processor, cpu)),
            (batch.pairs.texts(batch.rows, cpu), expected.texts(rows, cpu)),
        ):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    np.testing.assert_allclose(pairs.report_mean, expected.report_mean, rtol=1e-6)
    assert pairs.at_hand.record_ids(np.arange(18)) == expected.record_ids(np.arange(18))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 18, 40])
def test_any_step_can_be_sought(pairs, batch_size):
    """What a resumed run does: it begins with a step of its own."""
    in_order = pairs.batches(batch_size, process(), seed=1)
    steps = 2 * in_order.steps_per_epoch
    expected = [in_order.at(step) for step in range(steps)]
    assert in_order.batch_size == min(batch_size, 18)
    for first in {0, 1, steps // 2, steps - 2, steps - 1}:
        sought = pairs.batches(batch_size, process(), seed=1)
        for step in range(first, steps):
            batch = sought.at(step)
            assert batch.epoch == expected[step].epoch
            assert batch.record_ids() == expected[step].record_ids()
            np.testing.assert_array_equal(batch.row_id, expected[step].row_id)


# ------------------------------------------------------------------------------------- Refusals


def test_too_many_processes_are_refused_before_anything_is_read(pairs):
    with pytest.raises(InputError, match="a batch of 18 rows cannot be shared by 19 processes"):
        pairs.batches(2, process(0, 19), seed=0)
    with pytest.raises(InputError, match="a batch of 2 rows is too small for 2 processes"):
        pairs.batches(1, process(0, 2), seed=0)


def test_the_training_texts_of_a_remote_cohort_are_read_from_the_stream(
    folder, monkeypatch, tmp_path
):
    on_hub(folder, monkeypatch, tmp_path)
    cohort = open_source("someone/cohort", 1, streaming=True)
    local = open_cohort(folder)
    assert cohort.column("train", "report") == local.column("train", "report")
    assert cohort.column("test", "report") == local.column("test", "report")
    assert cohort.fingerprint == local.fingerprint
    with pytest.raises(InputError, match="has no column 'rythm'; it has subject_id"):
        cohort.column("train", "rythm")


def test_a_person_of_another_split_in_the_stream_is_refused(folder, monkeypatch, tmp_path):
    on_hub(folder, monkeypatch, tmp_path)
    cohort = open_source("someone/cohort", 1, streaming=True)
    table = cohort.splits["test"]
    place = table.schema.get_field_index("subject_id")
    leaking = table.set_column(place, "subject_id", pa.array(["p3"]))
    cohort.splits["test"] = leaking
    cohort = streamed_pairs.StreamedCohort(cohort.path, cohort.card, cohort.splits, cohort.pieces)
    with pytest.raises(InputError, match=r"1 subject\(s\) are in train and in another split: p3"):
        StreamedPairs(cohort, Letters(), "report")


def test_what_is_not_there_is_named(folder, tmp_path):
    cohort = open_source(str(folder), 1, streaming=True)
    with pytest.raises(InputError, match="has no column 'scp_codes'; it has subject_id"):
        StreamedPairs(cohort, Letters(), "statements")
    fields = [pa.field(n, pa.string()) for n in ("subject_id", "record_id", "split", "report")]
    card = CohortCard(name="silent", modality="ecg", units="mV", leads=list(LEADS))
    with CohortWriter(tmp_path / "silent", card, pa.schema(fields)) as writer:
        writer.write("train", [{"subject_id": "a", "record_id": "r", "report": " \n"}])
    silent = open_source(str(tmp_path / "silent"), 1, streaming=True)
    with pytest.raises(InputError, match="no recording of the split 'train' of .* has a report"):
        StreamedPairs(silent, Letters(), "report")


@pytest.mark.parametrize("name", ["nobody/absent", "no such/thing at/all", "./absent"])
def test_what_neither_disk_nor_hub_have_is_refused_in_one_line(name):
    """Offline, as all tests are."""
    with pytest.raises(InputError, match="no cohort at .* there is no such folder, and") as caught:
        open_source(name, 1, streaming=True)
    assert "\n" not in str(caught.value)


def test_without_streaming_a_cohort_is_opened_as_ever(folder):
    cohort = open_source(str(folder), 1, streaming=False)
    assert isinstance(read_split(cohort, "train", Letters(), "report"), Pairs)
    with pytest.raises(InputError, match="no cohort at absent"):
        open_source(str(Path("absent")), 1, streaming=False)
