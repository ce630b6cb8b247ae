"""The gradient of a step depends on the batch, not on how it was cut up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fm_med.coupled import Gathered, coupled_backward, cut
from fm_med.distributed import accelerator
from fm_med.errors import InputError

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "evidence_coupled_gradient.py"


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Every case of the README's table, in really started processes."""
    output = tmp_path_factory.mktemp("coupled") / "errors.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("loss", ["InfoNCE", "SigLIP", "Cox Breslow", "Cox Efron"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-5)])
def test_gradient_equals_one_process_and_one_full_batch(errors, world_size, loss, dtype, bound):
    chosen = [
        r for r in errors if (r["world_size"], r["loss"], r["dtype"]) == (world_size, loss, dtype)
    ]
    cases = {(r["batch"], r["micro_batch"]) for r in chosen}
    assert cases == {(b, m) for b in ("even", "ragged") for m in ("full", "1/2", "1/8")}
    assert max(r["error"] for r in chosen) <= bound
    assert max(r["value_error"] for r in chosen) <= bound


class Noisy(nn.Module):
    """An encoder with dropout that remembers what it returned."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, signal):
        out = self.dropout(self.linear(signal))
        self.seen.append(out.detach().clone())
        return {"out": out}


def coupling(outputs, targets):
    total = outputs["out"].sum(0)
    return total.square().sum() + (outputs["out"] * targets["shift"]).sum()


def data(rows=10):
    generator = torch.Generator().manual_seed(3)
    return {"signal": torch.randn(rows, 4, generator=generator)}, {"shift": torch.ones(rows, 1)}


def test_second_pass_repeats_the_first_bit_for_bit():
    torch.manual_seed(0)
    model = Noisy()
    made = accelerator(mixed_precision="no")
    inputs, targets = data()
    value = coupled_backward(made, model, inputs, targets, loss=coupling, micro_batch_size=3)
    first, second = model.seen[:4], model.seen[4:]
    assert len(second) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first[0], first[1])
    # The masks of both passes are known, so the whole step can be written down.
    mask = torch.cat(first) != 0
    weight, bias = (p.detach().clone().requires_grad_() for p in model.linear.parameters())
    out = nn.functional.linear(inputs["signal"], weight, bias) * mask / 0.5
    expected = coupling({"out": out}, targets)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(model.linear.weight.grad, weight.grad)


def test_random_numbers_after_the_step_go_on():
    """The second pass leaves the generator where the first one did."""
    made = accelerator(mixed_precision="no")
    states = []
    for micro_batch_size in (3, None):
        torch.manual_seed(0)
        model = Noisy()
        inputs, targets = data()
        coupled_backward(
            made, model, inputs, targets, loss=coupling, micro_batch_size=micro_batch_size
        )
        states.append((torch.get_rng_state(), len(model.seen)))
    assert not torch.equal(states[0][0], torch.random.manual_seed(0).get_state())
    assert [seen for _, seen in states] == [8, 1]


@pytest.mark.parametrize("outer", [False, True])
def test_autocast_carries_gradients_into_the_second_pass(outer):
    """Also when an autocast surrounds the step, whose cached casts have no graph."""
    made = accelerator(mixed_precision="no")
    gradients = []
    for micro_batch_size in (None, 3):
        torch.manual_seed(0)
        model = Noisy().eval()
        inputs, targets = data()
        forward = model.forward

        def inner(signal, forward=forward):
            with torch.autocast("cpu", torch.bfloat16):
                return forward(signal)

        model.forward = inner
        with torch.autocast("cpu", torch.bfloat16, enabled=outer):
            coupled_backward(
                made, model, inputs, targets, loss=coupling, micro_batch_size=micro_batch_size
            )
        gradients.append(model.linear.weight.grad)
    assert gradients[1] is not None
    torch.testing.assert_close(*gradients, rtol=2e-2, atol=2e-2 * gradients[0].abs().max().item())


def test_loss_gets_half_precision_widened():
    seen = []

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, signal):
            return {"out": self.linear(signal).bfloat16()}

    def loss(outputs, targets):
        seen.append(outputs["out"].dtype)
        return outputs["out"].square().sum() * targets["shift"].mean()

    inputs, targets = data()
    for micro_batch_size in (None, 4):
        coupled_backward(
            accelerator(mixed_precision="no"),
            Half(),
            inputs,
            targets,
            loss=loss,
            micro_batch_size=micro_batch_size,
        )
    assert seen == [torch.float32, torch.float32]


def test_batch_norm_is_refused_when_the_batch_is_cut():
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(4)})
    model.forward = lambda signal: {"out": model["norm"](signal)}
    inputs, targets = data()
    step = {"loss": coupling, "micro_batch_size": 3}
    made = accelerator(mixed_precision="no")
    with pytest.raises(InputError, match=r"'norm' is a BatchNorm in training mode.*eval mode"):
        coupled_backward(made, model, inputs, targets, **step)
    model.eval()
    coupled_backward(made, model, inputs, targets, **step)


def test_a_process_without_rows_is_refused():
    inputs, targets = data(0)
    with pytest.raises(InputError, match=r"hold \[0\] rows"):
        coupled_backward(accelerator(mixed_precision="no"), Noisy(), inputs, targets, loss=coupling)


def test_what_is_not_looked_up_is_not_sent():
    gathered = Gathered({"a": torch.ones(2), "b": torch.zeros(2)})
    assert torch.equal(gathered["a"], torch.ones(2))
    assert list(gathered._all) == ["a"]
    assert sorted(gathered) == ["a", "b"]


def test_pieces():
    assert cut(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert cut(2, 5) == [slice(0, 2)]
    assert cut(4, None) == [slice(0, 4)]
    with pytest.raises(InputError, match="at least 1"):
        cut(4, 0)
