"""Cox's loss against its definition, R's survival package and its own numerical limits."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.objectives import RiskSetPlan, cox, cox_loss

REFERENCE = json.loads((Path(__file__).parent / "cox_reference.json").read_text())


def cox_by_definition(f, *, time, event, ties, weight=None, strata=None, entry=None):
    """Double loop over event times and rows, each sum by logsumexp."""
    rows = len(f)
    weight = torch.ones(rows, dtype=f.dtype) if weight is None else weight
    strata = torch.zeros(rows, dtype=torch.int64) if strata is None else strata
    entry = torch.full((rows,), -math.inf) if entry is None else entry
    x = f + weight.log()
    value = f.sum() * 0
    for stratum, t in {(int(s), float(u)) for s, u, e in zip(strata, time, event) if e}:
        here = strata == stratum
        risk = torch.logsumexp(x[here & (time >= t) & (entry < t)], 0)
        dead = here & (time == t) & event
        deaths = int(dead.sum())
        value = value + (weight * f)[dead].sum()
        for gone in range(deaths):
            share = gone / deaths if ties == "efron" else 0.0
            inside = risk
            if share:
                tied = torch.logsumexp(x[dead], 0) - risk
                inside = risk + torch.log1p(-share * tied.exp())
            value = value - weight[dead].sum() / deaths * inside
    return -value / weight[event].sum()


def case(rows, seed, times, spread, event_share, variant):
    generator = torch.Generator().manual_seed(seed)
    f = (torch.rand(rows, generator=generator, dtype=torch.float64) * 2 - 1) * spread
    time = torch.randint(1, times + 1, (rows,), generator=generator).double()
    event = torch.rand(rows, generator=generator) < event_share
    event[0] = True
    late = time - torch.randint(1, times + 1, (rows,), generator=generator)
    options = {
        "weight": torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1,
        "strata": torch.randint(3, (rows,), generator=generator),
        "entry": late,
    }
    return f, {"time": time, "event": event} | {name: options[name] for name in variant}


@given(
    rows=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    times=st.integers(1, 30),
    spread=st.floats(0, 50),
    event_share=st.floats(0, 1),
    variant=st.sets(st.sampled_from(["weight", "strata", "entry"])),
    ties=st.sampled_from(["efron", "breslow"]),
)
@settings(max_examples=150, deadline=None)
def test_value_and_gradient_equal_the_definition(
    rows, seed, times, spread, event_share, variant, ties
):
    f, follow_up = case(rows, seed, times, spread, event_share, variant)
    results = []
    for loss in (cox_loss, cox_by_definition):
        leaf = f.clone().requires_grad_()
        value = loss(leaf, ties=ties, **follow_up)
        results.append((value, *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(*[r[0] for r in results], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(*[r[1] for r in results], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("expected", REFERENCE["cases"])
def test_equals_r_survival(expected):
    names = ("x0", "x1", "beta", "time", "event", "weight", "strata", "entry")
    column = {name: torch.tensor(REFERENCE[name], dtype=torch.float64) for name in names}
    follow_up = {"time": column["time"], "event": column["event"].bool(), "ties": expected["ties"]}
    follow_up |= {k: column[k] for k in ("weight", "strata", "entry") if expected[k]}
    beta = column["beta"].clone().requires_grad_()
    f = beta[0] * column["x0"] + beta[1] * column["x1"]
    event = column["event"].bool()
    scale = column["weight"][event].sum() if expected["weight"] else event.sum()
    value = -cox_loss(f, **follow_up) * scale
    assert value.item() == pytest.approx(expected["loglik"], abs=1e-9)
    score = torch.autograd.grad(value, beta)[0]
    assert score.tolist() == pytest.approx(expected["score"], abs=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize(
    "variant", [[], ["weight"], ["strata"], ["entry"], ["weight", "strata", "entry"]]
)
@pytest.mark.parametrize("spread", [1.0, 800.0])
def test_gradcheck(ties, variant, spread):
    f, follow_up = case(14, 3, 5, spread, 0.7, variant)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cox_loss(x, ties=ties, **follow_up), f)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("variant", [[], ["strata"], ["entry"], ["weight", "strata", "entry"]])
@pytest.mark.parametrize("spread", [100.0, 1e3, 1e4])
def test_any_spread_equals_the_definition(ties, variant, spread):
    f, follow_up = case(60, 5, 8, spread, 0.5, variant)
    results = []
    for loss in (cox_loss, cox_by_definition):
        leaf = f.clone().requires_grad_()
        value = loss(leaf, ties=ties, **follow_up)
        results.append((value, *torch.autograd.grad(value, leaf)))
    assert torch.isfinite(results[0][1]).all()
    torch.testing.assert_close(*[r[0] for r in results], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(*[r[1] for r in results], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("shift", [-1e4, -1e3, 1e3, 1e4])
def test_a_shift_changes_nothing(ties, shift):
    f, follow_up = case(50, 1, 6, 2.0, 0.5, ["strata"])
    plain, moved = (x.clone().requires_grad_() for x in (f, f + shift))
    values = [cox_loss(x, ties=ties, **follow_up) for x in (plain, moved)]
    assert values[1].item() == pytest.approx(values[0].item(), abs=1e-10)
    gradients = [torch.autograd.grad(v, x)[0] for v, x in zip(values, (plain, moved))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_precision(dtype):
    """The value is exact for the log-hazards as given; the gradient has their precision."""
    f, follow_up = case(40, 2, 9, 3.0, 0.5, [])
    narrow = f.to(dtype).requires_grad_()
    value = cox_loss(narrow, **follow_up)
    exact = cox_loss(narrow.detach().double(), **follow_up)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    value.backward()
    assert narrow.grad.dtype == dtype and torch.isfinite(narrow.grad).all()


def test_a_batch_without_events_keeps_the_graph():
    f = torch.randn(5, requires_grad=True)
    value = cox_loss(2 * f, time=torch.arange(5.0), event=torch.zeros(5, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(f.grad, torch.zeros(5))


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_weight_zero_is_as_good_as_absent(ties):
    f, follow_up = case(20, 4, 4, 1.0, 0.8, ["weight"])
    follow_up["weight"][:8] = 0.0
    follow_up["time"][:2], follow_up["event"][:2] = 99.0, True
    whole = cox_loss(f.requires_grad_(), ties=ties, **follow_up)
    part = cox_loss(f[8:], ties=ties, **{name: v[8:] for name, v in follow_up.items()})
    if ties == "breslow":
        assert whole.item() == pytest.approx(part.item(), abs=1e-12)
    whole.backward()
    assert torch.isfinite(f.grad).all() and torch.isfinite(whole)


def test_a_plan_is_used_again():
    f, follow_up = case(30, 6, 7, 1.0, 0.5, ["strata", "entry"])
    plan = RiskSetPlan.build(**follow_up)
    for scale in (0.0, 1.0, 5.0):
        assert cox_loss(scale * f, plan=plan) == cox_loss(scale * f, **follow_up)


def value_and_gradient(f, **follow_up):
    leaf = f.clone().requires_grad_()
    value = cox_loss(leaf, **follow_up)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@given(
    rows=st.integers(2, 300),
    seed=st.integers(0, 10**6),
    times=st.integers(1, 200),
    spread=st.floats(0, 299),
    variant=st.sets(st.sampled_from(["weight", "strata", "entry"])),
    ties=st.sampled_from(["efron", "breslow"]),
)
@settings(max_examples=60, deadline=None)
def test_plain_sums_equal_sums_through_logarithms(rows, seed, times, spread, variant, ties):
    f, follow_up = case(rows, seed, times, spread, 0.3, variant)
    plain = value_and_gradient(f, ties=ties, **follow_up)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cox, "WIDE", -1.0)
        logarithms = value_and_gradient(f, ties=ties, **follow_up)
    torch.testing.assert_close(plain, logarithms, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("variant", [[], ["weight"], ["strata"], ["entry"]])
def test_a_cohort_of_many_rows_equals_the_matrix_of_who_is_at_risk(variant):
    f, follow_up = case(3000, 7, 2000, 3.0, 0.4, variant)
    time, event = follow_up["time"], follow_up["event"]
    weight = follow_up.get("weight", torch.ones(3000, dtype=torch.float64))
    strata = follow_up.get("strata", torch.zeros(3000))
    entry = follow_up.get("entry", torch.full((3000,), -math.inf))
    at = event.nonzero().squeeze(1)
    at_risk = (time >= time[at, None]) & (entry < time[at, None]) & (strata == strata[at, None])
    leaf = f.clone().requires_grad_()
    log_risk = (at_risk.double() @ (weight * leaf.exp())).log()
    expected = (weight[at] * (log_risk - leaf[at])).sum() / weight[at].sum()
    result = value_and_gradient(f, ties="breslow", **follow_up)
    expected = expected.detach(), torch.autograd.grad(expected, leaf)[0]
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("factor", [1e-290, 1e-150, 1e150, 1e290])
def test_a_scale_of_weights_moves_the_value_only(ties, factor):
    f, follow_up = case(40, 8, 6, 100.0, 0.5, ["weight", "entry"])
    value, gradient = value_and_gradient(f, ties=ties, **follow_up)
    follow_up["weight"] = follow_up["weight"] * factor
    moved, same = value_and_gradient(f, ties=ties, **follow_up)
    assert moved.item() == pytest.approx(value.item() + math.log(factor), rel=1e-12)
    torch.testing.assert_close(same, gradient, rtol=1e-10, atol=1e-13)


def test_weights_of_very_different_size_equal_the_definition():
    """The last event's weighted hazard is less than float64 can hold."""
    f = torch.tensor([-250.0, 250.0, 0.0], dtype=torch.float64)
    weight = torch.tensor([1e-200, 1.0, 0.5], dtype=torch.float64)
    follow_up = {"time": torch.tensor([3.0, 2.0, 1.0]), "event": torch.ones(3, dtype=torch.bool)}
    leaf = f.clone().requires_grad_()
    expected = cox_by_definition(leaf, ties="breslow", weight=weight, **follow_up)
    gradient = torch.autograd.grad(expected, leaf)[0]
    found = value_and_gradient(f, ties="breslow", weight=weight, **follow_up)
    torch.testing.assert_close(found, (expected.detach(), gradient), rtol=1e-12, atol=1e-14)


def test_strata_that_end_and_begin_at_the_same_time_are_kept_apart():
    f, event = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    value = cox_loss(f, time=torch.ones(4), event=event, strata=torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx(math.log(2) / 2)


def test_a_second_backward_gives_the_same_and_the_input_is_left_alone():
    f, follow_up = case(30, 6, 7, 1.0, 0.5, ["weight", "entry"])
    leaf = f.clone().requires_grad_()
    value = cox_loss(leaf, **follow_up)
    first, second = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(leaf.detach(), f)


def test_an_entry_is_not_rounded_to_the_precision_of_time():
    """In float32 this entry equals the time, and nobody would be at risk."""
    f, time = torch.zeros(2), torch.tensor([100.0, 200.0])
    entry = torch.tensor([100.0 - 1e-9, 0.0], dtype=torch.float64)
    value = cox_loss(f, time=time, event=torch.tensor([True, False]), entry=entry)
    assert value.item() == pytest.approx(math.log(2))


def test_no_rows_at_all():
    f = torch.zeros(0, requires_grad=True)
    value = cox_loss(f, time=torch.zeros(0), event=torch.zeros(0, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0 and f.grad.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16, torch.bfloat16])
def test_time_of_any_type(dtype):
    f, follow_up = case(40, 3, 30, 1.0, 0.5, ["strata"])
    expected = cox_loss(f, **follow_up)
    follow_up["time"] = follow_up["time"].to(dtype)
    assert cox_loss(f, **follow_up) == expected


def test_order_of_rows_is_irrelevant():
    """Also where censored rows share a time with an event."""
    f = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    time, event = torch.tensor([2.0, 2.0, 3.0]), torch.tensor([True, False, False])
    expected = math.log(math.exp(0.3) + math.exp(-0.2) + math.exp(0.5)) - 0.3
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        value = cox_loss(f[order], time=time[order], event=event[order])
        assert value.item() == pytest.approx(expected, abs=1e-14)


def test_what_is_refused():
    f, time, event = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, dtype=torch.bool)
    with pytest.raises(InputError, match="not finite"):
        cox_loss(f, time=time / 0 * 0, event=event)
    with pytest.raises(InputError, match="ties must be"):
        cox_loss(f, time=time, event=event, ties="exact")
    with pytest.raises(InputError, match="must be before time"):
        cox_loss(f, time=time, event=event, entry=time)
    with pytest.raises(InputError, match="weight must be"):
        cox_loss(f, time=time, event=event, weight=-f - 1)
    with pytest.raises(InputError, match=r"log_hazard must be \(3,\)"):
        cox_loss(torch.zeros(3, 1), time=time, event=event)
    with pytest.raises(InputError, match="time and event, or a plan"):
        cox_loss(f, time=time)
