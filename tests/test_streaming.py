"""Streams: every row once per epoch on real processes, one order for all, exact resume."""

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.cohort.pieces import Piece, open_pieces
from fm_med.errors import InputError
from fm_med.streaming import StreamedRows

SCHEMA = pa.schema(
    [
        ("subject_id", pa.string()),
        ("record_id", pa.string()),
        ("split", pa.string()),
        ("signal", pa.large_binary()),
        ("lead_mask", pa.list_(pa.bool_(), 2)),
        ("report", pa.string()),
    ]
)
CARD = CohortCard(name="Tiny", modality="ecg", units="mV", leads=["I", "II"])


def row(number, size=6):
    return {
        "subject_id": f"s{number}",
        "record_id": f"r{number}",
        "signal": bytes([number % 256]) * size,
        "lead_mask": [True, number % 2 == 0],
        "report": None if number % 3 == 0 else f"Zustand {number} ä",
    }


def write(folder, rows, rows_per_shard=8, size=6):
    with CohortWriter(folder, CARD, SCHEMA, rows_per_shard=rows_per_shard) as writer:
        for start in range(0, rows, 500):
            writer.write("train", [row(n, size) for n in range(start, min(rows, start + 500))])
        writer.write("test", [row(rows, size)])
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """23 rows in 3 shards."""
    return write(tmp_path_factory.mktemp("cohorts") / "cohort", 23)


@pytest.fixture(scope="module")
def plain(cohort, tmp_path_factory):
    """The same shards without a card: a folder that `datasets` reads."""
    folder = tmp_path_factory.mktemp("plain") / "shards"
    shutil.copytree(cohort / "data", folder / "data")
    return folder


class FakePieces:
    """Rows 0, 1, 2, ... in pieces of the given sizes; counts how often each is read."""

    name = "the split 'train' of memory"
    content = "memory"

    def __init__(self, sizes):
        self.rows = sum(sizes)
        self.reads = [0] * len(sizes)
        numbers = np.split(np.arange(self.rows), np.cumsum(sizes)[:-1])
        self.tables = [pa.table({"number": part}) for part in numbers]

    def walk(self, generator):
        count = len(self.tables)
        for index in range(count) if generator is None else generator.permutation(count):
            yield Piece(self.tables[index].num_rows, lambda index=index: self.read(index))

    def read(self, index):
        self.reads[index] += 1
        return self.tables[index]


def flat(lists):
    return list(chain.from_iterable(lists))


def numbers(batches, column="number"):
    return [batch.rows[column].to_pylist() for batch in batches]


WORKER = """
import json, sys
import torch.distributed as dist
from fm_med.cohort.pieces import open_pieces
from fm_med.streaming import StreamedRows

meeting, sources, rank = sys.argv[1], sys.argv[2:4], int(sys.argv[4])
dist.init_process_group("gloo", "file://" + meeting, rank=rank, world_size=3)

def read(source, group, world_size):
    options = {"batch_size": 6, "shuffle_buffer": 10, "rank": rank, "world_size": world_size}
    stream = StreamedRows(open_pieces(source, "train"), seed=3, **options)
    for epoch in range(2):
        for batch in stream:
            shares = [None] * world_size
            # waits for all processes: it would hang if one had fewer steps
            mine = [batch.rows["record_id"].to_pylist(), batch.position.tolist()]
            dist.all_gather_object(shares, mine, group)
            yield [source, world_size, epoch, shares]

seen = []
for world_size in (1, 2, 3):
    group = dist.new_group(range(world_size))
    for source in sources if rank < world_size else ():
        seen += read(source, group, world_size)
dist.destroy_process_group()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen_by_processes(cohort, plain, tmp_path_factory):
    """What three processes see that read alone, two together and all together."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script), str(folder / "meeting"), str(cohort), str(plain)]
    started = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE) for rank in range(3)]
    try:
        seen = [json.loads(process.communicate(timeout=100)[0]) for process in started]
    finally:
        for process in started:
            process.kill()
    assert seen[1] == [each for each in seen[0] if each[1] >= 2]
    assert seen[2] == [each for each in seen[0] if each[1] == 3]
    return seen[0]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["cohort", "plain"])
def test_each_row_once_per_epoch_on_real_processes(request, seen_by_processes, kind, world_size):
    """23 rows in 3 shards, of a cohort and through `datasets`."""
    source = request.getfixturevalue(kind)
    orders = []
    stream = StreamedRows(open_pieces(source, "train"), batch_size=6, shuffle_buffer=10, seed=3)
    for epoch in range(2):
        here = [str(source), world_size, epoch]
        steps = [shares for *where, shares in seen_by_processes if where == here]
        assert len(steps) == 4
        for shares in steps:
            sizes = [len(records) for records, _ in shares]
            assert len(sizes) == world_size
            assert min(sizes) >= 1
            assert max(sizes) - min(sizes) <= 1
        joined = [flat(records for records, _ in shares) for shares in steps]
        positions = flat(share for shares in steps for _, share in shares)
        assert positions == list(range(23))
        orders.append(flat(joined))
        assert sorted(orders[-1]) == sorted(f"r{n}" for n in range(23))
        # the same global batches as one process has
        assert joined == numbers(stream, "record_id")
    assert orders[0] != orders[1]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    batch_size=st.integers(1, 9),
    buffer=st.integers(0, 40),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_every_row_once_whatever_the_cutting(sizes, batch_size, buffer, world_size, epoch, seed):
    options = {"batch_size": batch_size, "shuffle_buffer": buffer, "seed": seed}
    rows = sum(sizes)
    if batch_size < 2 * world_size - 1:
        with pytest.raises(InputError, match=f"too small for {world_size} processes"):
            StreamedRows(FakePieces(sizes), world_size=world_size, **options)
        return
    shares = []
    for rank in range(world_size):
        stream = StreamedRows(FakePieces(sizes), rank=rank, world_size=world_size, **options)
        stream.epoch = epoch
        if rows < world_size:
            with pytest.raises(InputError, match=f"a batch of {rows} rows cannot be shared"):
                next(iter(stream))
            return
        shares.append(numbers(stream))
        assert stream.epoch == epoch + 1
    assert {len(share) for share in shares} == {stream.steps_per_epoch}
    whole = StreamedRows(FakePieces(sizes), **options)
    whole.epoch = epoch
    batches = numbers(whole)
    assert batches == [flat(parts) for parts in zip(*shares)]
    assert sorted(flat(batches)) == list(range(rows))
    assert max(map(len, batches)) <= batch_size
    assert min(map(len, batches)) >= min(rows, math.ceil(batch_size / 2))
    assert all(len(share) for rank in shares for share in rank)
    for step in range(len(batches)):  # any batch can be sought
        whole.seek(epoch * len(batches) + step)
        sought = next(iter(whole))
        assert sought.rows["number"].to_pylist() == batches[step]
        assert sought.size == len(batches[step])
    if buffer == 0:
        assert flat(batches) == list(range(rows))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    buffer=st.integers(0, 40),
    stop=st.integers(0, 60),
    before=st.integers(1, 3),
    after=st.integers(1, 3),
)
def test_resume_continues_exactly(sizes, buffer, stop, before, after):
    """Stopped after any step of two epochs, resumed on any number of processes."""
    options = {"batch_size": 5, "shuffle_buffer": buffer, "seed": 1}
    if sum(sizes) < 3:
        sizes = [*sizes, 3]

    def global_batches(count, state=None, skip=0):
        ranks = []
        for rank in range(count):
            stream = StreamedRows(FakePieces(sizes), rank=rank, world_size=count, **options)
            if state is not None:
                stream.resume(json.loads(json.dumps(state)))
            ranks.append((stream, two_epochs(stream)))
        seen = []
        while not skip or len(seen) < skip:
            parts = [next(steps, None) for _, steps in ranks]
            if parts[0] is None:
                break
            seen.append(flat(parts))
        states = [stream.state() for stream, _ in ranks]
        assert all(each == states[0] for each in states)
        return seen, states[0]

    def two_epochs(stream):
        while stream.epoch < 2:
            for batch in stream:
                yield batch.rows["number"].to_pylist()

    expected, _ = global_batches(1)
    stop = min(stop, len(expected))
    begun, state = global_batches(before, skip=stop) if stop else ([], None)
    rest, end = global_batches(after, state)
    assert begun + rest == expected
    assert (end["epoch"], end["rows_seen"]) == (2, 0)


def test_windows_consumed_before_a_resume_are_not_read():
    pieces = FakePieces([8] * 6)
    stream = StreamedRows(pieces, batch_size=4, shuffle_buffer=8, seed=0)
    for _ in range(7):  # into the fourth window
        next(iter(stream))
    assert sum(count > 0 for count in pieces.reads) == 4
    again = FakePieces([8] * 6)
    resumed = StreamedRows(again, batch_size=4, shuffle_buffer=8, seed=0)
    resumed.resume(stream.state())
    next(iter(resumed))
    assert sum(count > 0 for count in again.reads) == 1
    list(resumed)
    assert sum(count > 0 for count in again.reads) == 3


def test_order_is_that_of_seed_and_epoch():
    def two_epochs(sizes, shuffle_buffer, seed=0):
        options = {"batch_size": 10, "shuffle_buffer": shuffle_buffer, "seed": seed}
        stream = StreamedRows(FakePieces(sizes), **options)
        return [np.array(flat(numbers(stream))) for _ in range(2)]

    # one piece in two windows: only the rows within a window change places
    first, second = two_epochs([200], 100)
    assert sorted(first[:100]) == list(range(100))
    assert (first[:100] != second[:100]).any()
    assert (first[:100] != first[100:] - 100).any()
    # one window per piece: the pieces change places
    first, second = two_epochs([10] * 20, 10)
    assert (np.diff(first.reshape(20, 10) // 10) == 0).all()
    assert (first[::10] // 10 != second[::10] // 10).any()
    # two pieces to a window: their rows are mixed
    first, second = two_epochs([50] * 4, 100)
    pieces = first[:100] // 50
    assert len(set(pieces.tolist())) == 2
    assert 10 < np.sum(pieces[:50] == pieces[0]) < 40
    np.testing.assert_array_equal(first, two_epochs([50] * 4, 100)[0])
    assert (first != two_epochs([50] * 4, 100, seed=1)[0]).any()


def test_a_cohort_and_datasets_give_the_same_rows(cohort, plain):
    expected = open_cohort(cohort).splits["train"].to_pylist()
    for source in (cohort, plain):
        stream = StreamedRows(open_pieces(source, "train"), batch_size=5, seed=0, shuffle_buffer=0)
        tables = [batch.rows for batch in stream]
        assert pa.concat_tables(tables).to_pylist() == expected
        assert {table.schema.field("signal").type for table in tables} == {pa.large_binary()}
    assert StreamedRows(open_pieces(cohort, "train"), batch_size=5, seed=0).steps_per_epoch == 5
    assert StreamedRows(open_pieces(plain, "train"), batch_size=5, seed=0).steps_per_epoch is None


def test_only_the_columns_asked_for(cohort):
    stream = StreamedRows(
        open_pieces(cohort, "test"), batch_size=1, seed=0, columns=["signal", "record_id"]
    )
    (batch,) = stream
    assert batch.rows.to_pylist() == [{"signal": bytes([23]) * 6, "record_id": "r23"}]


def test_bad_input_is_refused(cohort, plain, tmp_path):
    with pytest.raises(InputError, match="has no split 'dev'; it has train, test"):
        open_pieces(cohort, "dev")
    with pytest.raises(InputError, match="cannot be streamed: Bad split: dev"):
        open_pieces(plain, "dev")
    with pytest.raises(InputError, match=r"none cannot be streamed: Couldn't find"):
        open_pieces(tmp_path / "none", "train")
    for source in (cohort, plain):
        stream = StreamedRows(open_pieces(source, "train"), batch_size=4, seed=0, columns=["rythm"])
        with pytest.raises(InputError, match="no column 'rythm'; it has subject_id, .*report"):
            next(iter(stream))
    stream = StreamedRows(FakePieces([9]), batch_size=4, seed=0)
    state = StreamedRows(FakePieces([9]), batch_size=3, seed=0).state()
    with pytest.raises(InputError, match="batch_size of the stream was 3 and is 4 now"):
        stream.resume(state)
    state = StreamedRows(open_pieces(cohort, "train"), batch_size=4, seed=0).state()
    with pytest.raises(InputError, match="content of the stream was .* and is 'memory' now"):
        stream.resume(state)


MEMORY = """
import re, sys
from fm_med.cohort.pieces import open_pieces
from fm_med.streaming import StreamedRows

def peak():  # in kB; ru_maxrss would begin at the peak of the process that started this one
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])

stream = StreamedRows(
    open_pieces(sys.argv[1], "train"), batch_size=64, shuffle_buffer=512, seed=0
)
first = next(iter(stream))
before = peak()
rows = sum(batch.rows["signal"].nbytes > 0 and batch.rows.num_rows for batch in stream)
print(rows, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_flat(tmp_path):
    """80 MB of signals are read with a few MB of memory, pages of mapped files included."""
    folder = write(tmp_path / "large", 4000, rows_per_shard=1000, size=20000)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    rows, growth = map(int, done.stdout.split())
    assert rows == 4000 - 64
    assert growth < 30_000  # kB
