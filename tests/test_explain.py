import math

import pytest
import torch
from torch import nn

from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.leads import LEADS
from fm_med.errors import InputError
from fm_med.explain import integrated_gradients, lead_and_time_attention, occlusion

V1 = LEADS.index("V1")


def batch(rows=2, samples=400, absent=()):
    generator = torch.Generator().manual_seed(0)
    lead_mask = torch.ones(rows, 12, dtype=torch.bool)
    lead_mask[:, list(absent)] = False
    signal = torch.randn(rows, 12, samples, generator=generator) * lead_mask[..., None]
    return {"signal": signal, "lead_mask": lead_mask}


def mean_of_v1(inputs):
    """The known truth: only V1 between 1.0 and 1.4 s counts."""
    return inputs["signal"][:, V1, 100:140].mean(-1)


def encoder(**change):
    torch.manual_seed(0)
    return DualAttentionModel(DualAttentionConfig(**change)).eval()


def token_seconds(model):
    """Samples between two tokens of the attention, at 100 Hz."""
    return math.prod(model.config.strides) / 100


def test_occlusion_finds_only_the_window_that_counts():
    inputs = batch()
    found = occlusion(mean_of_v1, inputs, window_seconds=0.2)
    assert found["drop"].shape == (2, 12, 20)
    hit = torch.zeros(2, 12, 20, dtype=torch.bool)
    hit[:, V1, 5:7] = True
    assert (found["drop"][hit].abs() > 1e-4).all()
    assert not found["drop"][~hit].any()
    assert found["start"][5].item() == 1.0
    torch.testing.assert_close(found["stop"][6].item(), 1.4)
    signal = inputs["signal"][0, V1]
    line = torch.linspace(signal[99], signal[120], 22)[1:-1]
    expected = (signal[100:120] - line).sum() / 40
    torch.testing.assert_close(found["drop"][0, V1, 5], expected)


@pytest.mark.parametrize("samples, windows", [(400, 14), (390, 13), (20, 1)])
def test_occlusion_of_any_length(samples, windows):
    inputs = batch(3, samples)
    found = occlusion(lambda one: one["signal"].sum((1, 2)), inputs, window_seconds=0.3)
    assert found["drop"].shape == (3, 12, windows)
    assert found["stop"][-1].item() == pytest.approx(samples / 100)
    assert found["drop"].isfinite().all()


def test_a_straight_signal_has_nothing_to_occlude():
    inputs = batch(1)
    inputs["signal"] = torch.arange(400.0).expand(1, 12, 400) / 100
    drop = occlusion(mean_of_v1, inputs, window_seconds=0.2)["drop"]
    assert drop.abs().max() < 1e-5


def test_gradients_of_a_linear_score_are_its_terms():
    inputs = batch()
    found = integrated_gradients(mean_of_v1, inputs, steps=3)
    expected = torch.zeros_like(inputs["signal"])
    expected[:, V1, 100:140] = inputs["signal"][:, V1, 100:140] / 40
    torch.testing.assert_close(found["attribution"], expected)


def test_completeness_and_its_convergence():
    inputs = batch()
    network = nn.Sequential(nn.Flatten(), nn.Linear(4800, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    inputs["signal"] = inputs["signal"].double()

    def score(one):
        return network(one["signal"])[:, 0]

    gaps = []
    for steps in (4, 64):
        found = integrated_gradients(score, inputs, steps=steps)
        total = found["attribution"].sum((1, 2))
        gaps.append((total - (found["score"] - found["baseline_score"])).abs().max().item())
    assert gaps[1] < 1e-4 and gaps[1] < gaps[0] / 50
    assert all(parameter.grad is None for parameter in network.parameters())


def test_gradients_from_another_baseline():
    inputs = batch()
    baseline = torch.full((1, 12, 1), 0.3)
    found = integrated_gradients(mean_of_v1, inputs, steps=2, baseline=baseline)
    torch.testing.assert_close(found["baseline_score"], torch.full((2,), 0.3))
    total = found["attribution"].sum((1, 2))
    torch.testing.assert_close(total, found["score"] - 0.3)


def test_an_encoder_can_be_explained_by_all_three():
    model, inputs = encoder(), batch(2, 400, absent=[3])

    def score(one):
        return model(**one).pooler_output[:, 7]

    found = integrated_gradients(score, inputs, steps=8)
    assert not found["attribution"][:, 3].any() and found["attribution"].any()
    drop = occlusion(score, inputs, window_seconds=1.0)["drop"]
    assert drop[:, 3].abs().max() < 1e-3 * drop[:, 4].abs().max()


@pytest.mark.parametrize("shared", [False, True])
def test_attention_belongs_to_leads_and_seconds(shared):
    model, inputs = (
        encoder(time_layers=2, shared_time_attention=shared),
        batch(2, 1000, absent=[3, 8]),
    )
    model.train()
    found = lead_and_time_attention(model, inputs)
    assert model.training
    present = inputs["lead_mask"].float()
    tokens = len(found["start"])
    assert found["time"].shape == (2, 12, tokens)
    torch.testing.assert_close(found["lead"].sum(-1), present)
    torch.testing.assert_close(found["time"].sum(-1), present)
    assert not found["lead"][:, :, 3].any() and not found["lead"][:, 8].any()
    assert found["stop"][0].item() == pytest.approx(token_seconds(model))
    assert 10.0 - token_seconds(model) < found["stop"][-1].item() <= 10.0
    torch.testing.assert_close(found["start"][1:], found["stop"][:-1])


def test_attention_is_higher_where_the_queries_point():
    """Keys that favour one stretch of one lead show up at that lead and those seconds."""
    model, inputs = encoder(shared_time_attention=True), batch(1, 800)
    inputs["signal"] = inputs["signal"] * 0.01
    inputs["signal"][:, 1, 320:352] += 5.0
    block = model.temporal[0]
    token = int(3.3 / token_seconds(model))
    with torch.no_grad():
        block.q_proj.weight.zero_()
        # Every query asks for what the token at 3.3 s of lead II holds and no other does.
        states = model(**inputs, output_hidden_states=True).hidden_states[0]
        normed = block.norm1(states)[0]
        block.q_proj.bias.copy_(4 * block.k_proj(normed[1, token] - normed[1].mean(0)))
    found = lead_and_time_attention(model, inputs)
    peak = found["time"][0, 1].argmax()
    assert found["start"][peak] <= 3.3 < found["stop"][peak]
    assert found["time"][0, 1].max() > 1.5 * found["time"][0, 0].max()


def test_refusals():
    class Silent(nn.Module):
        def forward(self, signal, lead_mask, output_attentions):
            return type("Output", (), {"attentions": None})

    with pytest.raises(InputError, match="Silent has no lead and time attention"):
        lead_and_time_attention(Silent(), batch())
    with pytest.raises(InputError, match="window_seconds is 0.001"):
        occlusion(mean_of_v1, batch(), window_seconds=0.001)
    with pytest.raises(InputError, match="steps is 0"):
        integrated_gradients(mean_of_v1, batch(), steps=0)
