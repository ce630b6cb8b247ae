"""Sampling: every row once per epoch, the same on any number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.sampling import EpochSampler, StratifiedSampler, balanced_weights, in_order, share


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


def epoch_of(sampler, epoch):
    first = epoch * sampler.steps_per_epoch
    batches = [sampler.batch(first + i) for i in range(sampler.steps_per_epoch)]
    assert {e for e, _ in batches} == {epoch}
    return [rows for _, rows in batches]


@given(
    kinds=st.lists(st.integers(0, 2), min_size=1, max_size=80),
    batch_size=st.integers(1, 90),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 3),
)
def test_every_batch_holds_the_strata_in_their_proportion(kinds, batch_size, seed, epoch):
    strata = np.array(kinds)
    sampler = StratifiedSampler(strata, batch_size, seed)
    batches = epoch_of(sampler, epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(strata)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size
    assert len(batches) == -(-len(strata) // batch_size)
    for kind in np.unique(strata):
        counts = [int((strata[batch] == kind).sum()) for batch in batches]
        assert max(counts) - min(counts) <= 1


@given(rows=st.integers(2, 200), events=st.integers(2, 9), batch_size=st.integers(1, 40))
def test_every_batch_has_two_events_and_no_event_comes_twice(rows, events, batch_size):
    strata = (np.arange(rows) < events).astype(np.int64)
    sampler = StratifiedSampler(strata, batch_size, seed=1, scarce=1)
    batches = epoch_of(sampler, 1)
    assert min((strata[batch] == 1).sum() for batch in batches) >= 2
    assert len(np.unique(np.concatenate(batches))) == rows


def test_balanced_batches_repeat_the_rare_class_evenly():
    strata = np.array([0] * 90 + [1] * 10)
    batches = epoch_of(StratifiedSampler(strata, 20, seed=0, balanced=True), 0)
    assert [int((strata[batch] == 1).sum()) for batch in batches] == [10] * 5
    drawn = np.bincount(np.concatenate(batches), minlength=100)
    assert (drawn[90:] == 5).all() and drawn[:90].max() == 1


def test_a_stratified_batch_depends_only_on_seed_and_step():
    strata = np.arange(50) % 3
    sampler = StratifiedSampler(strata, 8, seed=3)
    forward = [sampler.batch(step) for step in range(20)]
    for step in reversed(range(20)):
        epoch, rows = StratifiedSampler(strata, 8, seed=3).batch(step)
        assert epoch == forward[step][0]
        np.testing.assert_array_equal(rows, forward[step][1])
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    assert not np.array_equal(sampler.order(0), StratifiedSampler(strata, 8, seed=4).order(0))


@pytest.mark.parametrize(("rows", "batch_size"), [(0, 4), (4, 0)])
def test_no_strata_to_sample_are_refused(rows, batch_size):
    with pytest.raises(InputError):
        StratifiedSampler(np.zeros(rows, np.int64), batch_size, seed=0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_give_each_stratum_the_same_sum(strata):
    strata = np.array(strata)
    weight = balanced_weights(strata)
    assert weight.mean() == pytest.approx(1, rel=1e-5)
    sums = [weight[strata == kind].sum() for kind in np.unique(strata)]
    assert sums == pytest.approx([len(strata) / len(sums)] * len(sums), rel=1e-5)
