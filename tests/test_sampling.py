"""Sampling: every row once per epoch, the same on any number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.sampling import EpochSampler, in_order, share


@given(
    rows=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
)
def test_every_row_once_per_epoch(rows, batch_size, seed, epoch):
    sampler = EpochSampler(rows, batch_size, seed, drop_last=False)
    first = epoch * sampler.steps_per_epoch
    batches = [sampler.batch(first + i) for i in range(sampler.steps_per_epoch)]
    assert {e for e, _ in batches} == {epoch}
    assert sorted(np.concatenate([b for _, b in batches])) == list(range(rows))
    assert all(len(b) == min(batch_size, rows) for _, b in batches[:-1])


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_drop_last_keeps_only_whole_batches(rows, batch_size, seed):
    sampler = EpochSampler(rows, batch_size, seed)
    sizes = [len(sampler.batch(step)[1]) for step in range(sampler.steps_per_epoch)]
    assert sizes == [min(batch_size, rows)] * max(1, rows // batch_size)


def test_a_batch_depends_only_on_seed_and_step():
    """Asking for steps in any order, or from a fresh sampler, gives the same rows."""
    sampler = EpochSampler(50, 8, seed=3)
    forward = [sampler.batch(step) for step in range(20)]
    for step in reversed(range(20)):
        epoch, rows = EpochSampler(50, 8, seed=3).batch(step)
        assert epoch == forward[step][0]
        np.testing.assert_array_equal(rows, forward[step][1])
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    assert not np.array_equal(sampler.order(0), EpochSampler(50, 8, seed=4).order(0))


@given(rows=st.integers(1, 40), world_size=st.integers(1, 5), batch_size=st.integers(1, 9))
def test_processes_share_a_batch_and_an_evaluation_exactly(rows, world_size, batch_size):
    batch = np.random.default_rng(rows).permutation(1000)[:rows]
    if rows < world_size:
        with pytest.raises(InputError, match=f"{rows} rows cannot be shared by {world_size}"):
            share(batch, rank=0, world_size=world_size)
    else:
        parts = [share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    seen = [
        part
        for rank in range(world_size)
        for part in in_order(rows, batch_size, rank=rank, world_size=world_size)
    ]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(rows))


@pytest.mark.parametrize(("rows", "batch_size"), [(0, 4), (4, 0)])
def test_nothing_to_sample_is_refused(rows, batch_size):
    with pytest.raises(InputError):
        EpochSampler(rows, batch_size, seed=0)
