"""Parameter groups, schedule, early stopping and averaged weights."""

import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fm_med.optim import (
    Schedule,
    WeightAverage,
    clip_gradients,
    cosine_factor,
    parameter_groups,
    set_learning_rate,
)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Linear(5, 3))


def test_every_trainable_parameter_is_in_one_group():
    encoder, head = model(), nn.Linear(3, 1)
    encoder[0].weight.requires_grad_(False)
    rates = {"encoder": 1e-4, "head": 1e-3}
    groups = parameter_groups(
        {"encoder": encoder, "head": head}, learning_rates=rates, weight_decay=0.1
    )
    found = [parameter for group in groups for parameter in group["params"]]
    wanted = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    assert sorted(map(id, found)) == sorted(map(id, wanted))
    for group in groups:
        assert group["lr"] == group["peak"] == rates[group["name"]]
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)
    torch.optim.AdamW(groups)  # as an optimiser takes them


def test_a_module_without_vectors_has_one_group():
    only = nn.Linear(3, 1, bias=False)
    assert len(parameter_groups({"a": only}, learning_rates={"a": 1.0}, weight_decay=0.1)) == 1


def test_rates_follow_their_own_peak():
    groups = parameter_groups(
        {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)},
        learning_rates={"a": 1.0, "b": 0.1},
        weight_decay=0.0,
    )
    optimizer = torch.optim.SGD(groups)
    for factor in (0.5, 0.25, 1.0):  # of the peak each time, not of what came before
        set_learning_rate(optimizer, factor)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({"a": factor, "b": 0.1 * factor})


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_schedule_rises_then_falls_and_never_stops(total, share):
    factors = [cosine_factor(step, total, share) for step in range(total)]
    warmup = round(share * total)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup < total:
        assert factors[warmup] == 1


def test_values_of_the_schedule():
    factors = [cosine_factor(step, 10, 0.2) for step in range(11)]
    warm = [1 / 3, 2 / 3]
    cosine = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert factors == pytest.approx(warm + cosine)
    assert factors[10] == pytest.approx(0)


def test_a_run_lasts_its_epochs():
    schedule = Schedule(steps_per_epoch=5, num_epochs=3, warmup_share=0.1)
    assert schedule.total_steps == 15
    assert [schedule.ended(step, 0) for step in (0, 14, 15)] == [False, False, True]
    assert schedule.factor(7) == cosine_factor(7, 15, 0.1)


def test_patience_counts_epochs_from_the_best():
    schedule = Schedule(steps_per_epoch=5, num_epochs=30, warmup_share=0.1, patience=2)
    assert [schedule.ended(step, 10) for step in (10, 15, 19, 20)] == [False, False, False, True]
    assert not schedule.ended(20, 15)


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_clipping_returns_the_norm_there_was(largest):
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    linear = nn.Linear(4, 4)
    linear(torch.ones(2, 4)).sum().backward()
    before = torch.cat([parameter.grad.flatten() for parameter in linear.parameters()])
    norm = clip_gradients(accelerator, linear, largest)
    after = torch.cat([parameter.grad.flatten() for parameter in linear.parameters()])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert norm == pytest.approx(before.norm().item(), rel=1e-5)
    scale = min(1.0, largest / norm)
    torch.testing.assert_close(after, before * scale, rtol=1e-4, atol=1e-6)


def test_the_average_is_the_recursion_written_out():
    linear = nn.Linear(2, 2)
    average = WeightAverage(linear, 0.9)
    expected = linear.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            linear.weight.add_(torch.randn(2, 2))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * linear.weight.detach()
    own = linear.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(linear.weight.detach(), expected)
    assert torch.equal(linear.weight, own)


def test_own_weights_come_back_after_an_error():
    linear = nn.Linear(2, 2)
    average = WeightAverage(linear, 0.9)
    with torch.no_grad():
        linear.weight.zero_()
    with pytest.raises(ZeroDivisionError), average.in_place():
        assert linear.weight.abs().sum() > 0
        1 / 0  # noqa: B018
    assert linear.weight.abs().sum() == 0


def test_without_decay_there_is_no_average():
    linear = nn.Linear(2, 2)
    average = WeightAverage(linear, 0.0)
    with torch.no_grad():
        linear.weight.zero_()
    average.update(1)
    with average.in_place():
        assert linear.weight.abs().sum() == 0
