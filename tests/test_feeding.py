"""Batches made ahead of time are the batches that would have been made when they are needed."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.feeding import ReadAhead, tensors_of, to_device


class Maker:
    """Makes batches of their step and remembers which, and in which thread."""

    def __init__(self, fails_at=None):
        self.made, self.threads, self.fails_at = [], set(), fails_at
        self.second = threading.Event()

    def __call__(self, step):
        self.made.append(step)
        self.threads.add(threading.get_ident())
        if len(self.made) == 2:
            self.second.set()
        if step == self.fails_at:
            raise InputError(f"step {step} has no batch")
        return step, {"signal": torch.full((2,), float(step))}


@given(first=st.integers(0, 5), steps=st.integers(1, 5))
def test_every_step_gets_its_own_batch_and_nothing_is_made_twice_or_beyond_the_end(first, steps):
    make = Maker()
    with ReadAhead(make, end=first + steps, device="cpu") as ahead:
        for step in range(first, first + steps):
            number, tensors = ahead.at(step)
            assert number == step
            assert tensors["signal"].tolist() == [step, step]
    assert make.made == list(range(first, first + steps))
    assert len(make.threads) == 1
    assert threading.get_ident() not in make.threads


def test_the_next_batch_is_made_while_the_caller_is_busy():
    make = Maker()
    with ReadAhead(make, end=9, device="cpu") as ahead:
        ahead.at(0)
        assert make.second.wait(10)
    assert make.made == [0, 1]


def test_another_step_than_the_next_one_is_made_when_asked_for():
    make = Maker()
    with ReadAhead(make, end=9, device="cpu") as ahead:
        assert [ahead.at(step)[0] for step in (4, 2, 7)] == [4, 2, 7]


def test_what_a_batch_raises_is_raised_at_its_own_step():
    with ReadAhead(Maker(fails_at=1), end=3, device="cpu") as ahead:
        ahead.at(0)
        with pytest.raises(InputError, match="step 1 has no batch"):
            ahead.at(1)


def test_leaving_ends_the_thread():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), ReadAhead(Maker(), end=9, device="cpu") as ahead:
        ahead.at(0)
        assert threading.active_count() == before + 1
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_an_array_is_not_copied_to_the_host():
    values = np.arange(3)
    tensor = to_device(values, "cpu")
    values[0] = 7
    assert tensor.tolist() == [7, 1, 2]


def test_tensors_of_finds_all_of_them_in_nested_batches():
    one, two, three = (torch.tensor(float(i)) for i in range(3))
    found = list(tensors_of(([one], {"a": two, "b": (three, "text", None)}, 5)))
    assert [f is t for f, t in zip(found, (one, two, three))] == [True] * 3
    assert len(found) == 3
