"""The discrete-time loss against its definition and the life table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.objectives import discrete_time_loss, discrete_time_survival, interval_edges

EDGES = [1.0, 2.0, 4.0, 8.0]


def by_definition(logits, time, event):
    total = 0.0
    for row, (t, e) in enumerate(zip(time, event)):
        lower = 0.0
        for j, upper in enumerate(EDGES):
            h = 1 / (1 + math.exp(-logits[row, j]))
            if (e and lower < t <= upper) or (e and t == 0 and j == 0):
                total -= math.log(h)
            elif t >= upper or (not e and t >= (lower + upper) / 2):
                total -= math.log(1 - h)
            if t <= upper:
                break
            lower = upper
    return total / len(time)


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 12),
    halves=st.lists(st.integers(0, 20), min_size=12, max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_equals_the_definition(seed, rows, halves):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    time = torch.tensor(halves[:rows], dtype=torch.float64) / 2
    event = torch.rand(rows, generator=generator) < 0.5
    value = discrete_time_loss(logits, time=time, event=event, edges=EDGES)
    expected = by_definition(logits.numpy(), time.tolist(), event.tolist())
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_best_constant_hazards_are_the_life_table():
    generator = np.random.default_rng(0)
    # Censored at interval ends only, where a life table knows who was at risk.
    time = generator.choice([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0], 300)
    event = (generator.random(300) < 0.5) | ~np.isin(time, EDGES)
    lower = [0.0, *EDGES[:-1]]
    dead = [(event & (time > a) & (time <= b)).sum() for a, b in zip(lower, EDGES)]
    at_risk = [(time > a).sum() for a in lower]
    hazard = torch.tensor(np.array(dead) / at_risk)
    logits = hazard.logit().requires_grad_()
    outcome = {"time": torch.tensor(time), "event": torch.tensor(event)}
    loss = discrete_time_loss(logits.expand(300, 4), edges=EDGES, **outcome)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12
    survival = discrete_time_survival(logits.detach()[None])[0]
    assert survival.tolist() == pytest.approx((1 - hazard).cumprod(0).tolist())


def test_rows_do_not_couple_and_weights_are_repeats():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=generator)
    time, event = torch.rand(9, generator=generator) * 9, torch.arange(9) % 2 == 0
    weight = torch.tensor([1, 2, 0, 1, 3, 1, 0, 1, 1])
    weighted = discrete_time_loss(logits, time=time, event=event, edges=EDGES, weight=weight)
    rows = torch.arange(9).repeat_interleave(weight)
    repeated = discrete_time_loss(logits[rows], time=time[rows], event=event[rows], edges=EDGES)
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-6)


def test_extreme_logits_are_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    loss = discrete_time_loss(
        logits, time=torch.tensor([3.0]), event=torch.tensor([True]), edges=EDGES
    )
    loss.backward()
    assert loss.item() == pytest.approx(1e4) and torch.isfinite(logits.grad).all()


def test_an_empty_batch_keeps_the_graph():
    logits = torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0)
    loss = discrete_time_loss(logits, time=none, event=none.bool(), edges=EDGES)
    loss.backward()
    assert loss.item() == 0


def test_edges_share_the_events():
    time = np.arange(1.0, 101)
    event = time <= 80
    edges = interval_edges(time, event, 4)
    assert edges.tolist() == [21, 41, 61, 80] and edges[-1] == time[event].max()
    assert interval_edges(np.ones(5), np.ones(5, bool), 4).tolist() == [1.0]
    with pytest.raises(InputError, match="0 events"):
        interval_edges(time, event & False, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [1.0, 2.0]}, "like edges"),
        ({"edges": [1.0, 3.0, 2.0, 4.0]}, "rising"),
        ({"edges": [0.0, 1.0, 2.0, 4.0]}, "> 0"),
        ({"time": torch.tensor([-1.0, 1.0])}, "time must be"),
        ({"time": torch.tensor([torch.nan, 1.0])}, "time must be"),
        ({"event": torch.ones(3)}, "time and event"),
    ],
)
def test_bad_input(change, message):
    plain = {"time": torch.ones(2), "event": torch.ones(2, dtype=torch.bool), "edges": EDGES}
    with pytest.raises(InputError, match=message):
        discrete_time_loss(torch.zeros(2, 4), **(plain | change))
