"""Fine and Gray's loss against R and its definition."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.objectives import cox_loss, fine_gray_loss

FILE = Path(__file__).parent.parent / "survival" / "reference_cox.json"
REFERENCE = json.loads(FILE.read_text())


def by_definition(f, time, cause, of):
    def uncensored(t):
        product = torch.tensor(1.0, dtype=torch.float64)
        for c in time[(cause == 0) & (time < t)].unique():
            at_risk = (time > c) | ((time == c) & (cause == 0))
            censored = ((time == c) & (cause == 0)).double().sum()
            product = product * (1 - censored / at_risk.sum())
        return product

    total, own = f.sum() * 0, (cause == of).nonzero().squeeze(1)
    for i in own:
        inside = []
        for j in range(len(f)):
            if time[j] >= time[i]:
                inside.append(f[j])
            elif cause[j] not in (0, of):
                share = uncensored(time[i]) / uncensored(time[j])
                inside.append(f[j] + share.log())
        total = total + torch.logsumexp(torch.stack(inside), 0) - f[i]
    return total / max(len(own), 1)


def case(seed, rows=25, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(rows, generator=generator, dtype=torch.float64) * spread
    time = torch.randint(1, 9, (rows,), generator=generator).double()
    cause = torch.randint(0, 3, (rows,), generator=generator)
    cause[0] = 1
    return f, time, cause


@given(seed=st.integers(0, 10**6), of=st.sampled_from([1, 2]), rows=st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_equal_the_definition(seed, of, rows):
    f, time, cause = case(seed, rows)
    leaf, other = f.clone().requires_grad_(), f.clone().requires_grad_()
    value, expected = (
        fine_gray_loss(leaf, time=time, cause=cause, of=of),
        by_definition(other, time, cause, of),
    )
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_equals_finegray_and_coxph_of_r():
    x = torch.tensor([REFERENCE[k] for k in ("x0", "x1", "x2")], dtype=torch.float64).T
    time, cause = (torch.tensor(REFERENCE[k]) for k in ("time", "cause"))
    expected, events = REFERENCE["fine_gray"], (cause == 1).sum()
    beta = torch.tensor(expected["beta"], dtype=torch.float64, requires_grad=True)
    value = -fine_gray_loss(x @ beta, time=time, cause=cause) * events
    assert value.item() == pytest.approx(expected["loglik"][0], abs=1e-9)
    (score,) = torch.autograd.grad(value, beta)
    assert score.tolist() == pytest.approx(expected["score"], rel=1e-8)
    best = torch.tensor(expected["coefficients"], dtype=torch.float64, requires_grad=True)
    value = -fine_gray_loss(x @ best, time=time, cause=cause) * events
    assert value.item() == pytest.approx(expected["best_loglik"][0], abs=1e-9)
    assert torch.autograd.grad(value, best)[0].abs().max() < 1e-4


def test_without_competing_events_it_is_coxs_loss():
    f, time, cause = case(3, 40)
    cause = cause.clamp(max=1)
    expected = cox_loss(f, time=time, event=cause == 1, ties="breslow")
    assert fine_gray_loss(f, time=time, cause=cause).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("spread", [1e2, 1e4])
def test_any_spread_is_finite_and_a_shift_changes_nothing(spread):
    f, time, cause = case(5, 60, spread)
    leaf = f.clone().requires_grad_()
    value = fine_gray_loss(leaf, time=time, cause=cause)
    assert value.item() == pytest.approx(by_definition(f, time, cause, 1).item(), rel=1e-11)
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    f = f / spread
    moved = fine_gray_loss(f + spread, time=time, cause=cause)
    assert moved.item() == pytest.approx(fine_gray_loss(f, time=time, cause=cause).item())


def test_gradcheck():
    f, time, cause = case(7, 15)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fine_gray_loss(x, time=time, cause=cause), f)


def test_no_event_keeps_the_graph():
    f = torch.randn(4, requires_grad=True)
    value = fine_gray_loss(f, time=torch.arange(4.0), cause=torch.tensor([0, 2, 2, 0]))
    value.backward()
    assert value.item() == 0 and not f.grad.any() and value.dtype == torch.float32


def test_bad_input():
    f, time, cause = case(1)
    with pytest.raises(InputError, match="must be"):
        fine_gray_loss(f, time=time[1:], cause=cause)
    with pytest.raises(InputError, match="finite"):
        fine_gray_loss(f, time=time * torch.nan, cause=cause)
    with pytest.raises(InputError, match="censored"):
        fine_gray_loss(f, time=time, cause=cause, of=0)
