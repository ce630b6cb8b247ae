import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, get_peft_model

from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel

SMALL = {
    "strides": (8, 4),
    "widths": (8, 8),
    "hidden_size": 16,
    "time_heads": 2,
    "lead_heads": 2,
    "pooled_size": 24,
}
BEFORE_MIXING = (0, 1)  # entries of hidden_states


def build(**settings):
    torch.manual_seed(0)
    return DualAttentionModel(DualAttentionConfig(**SMALL | settings)).eval()


def lead_influence(encoder, stage):
    """(12, 12): how much the tokens of lead j (row) move with the samples of lead i (column)."""
    signal = torch.randn(1, 12, 320, requires_grad=True)
    tokens = encoder(signal, output_hidden_states=True).hidden_states[stage]
    torch.manual_seed(1)
    probe = torch.randn_like(tokens)
    rows = [
        torch.autograd.grad((tokens * probe)[:, lead].sum(), signal, retain_graph=True)[0]
        for lead in range(12)
    ]
    return torch.stack([row[0].abs().sum(-1) for row in rows])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stage", BEFORE_MIXING)
def test_a_lead_token_knows_its_own_lead_only(shared, stage):
    influence = lead_influence(build(shared_time_attention=shared, time_layers=2), stage)
    assert (influence.diagonal() > 0).all()
    assert torch.equal(influence, influence.diagonal().diag())  # exactly zero elsewhere


def test_the_cross_lead_block_mixes_all_leads():
    assert (lead_influence(build(), 2) > 0).all()


def test_the_lead_attention_is_what_each_lead_reads():
    """Row i, column j of the map times the values of lead j: cut one link and compare."""
    encoder = build()
    signal = torch.randn(2, 12, 320)
    lead_mask = torch.ones(2, 12, dtype=torch.bool)
    lead_mask[0, [2, 7]] = False
    output = encoder(signal, lead_mask, output_attentions=True)
    lead_attention, time_attention = output.attentions
    assert lead_attention.shape == (2, 2, 12, 12)
    assert time_attention.shape == (2, 12, 2, 10, 10)
    assert (lead_attention[0, :, :, [2, 7]] == 0).all()
    assert (lead_attention[1] > 0).all()
    torch.testing.assert_close(lead_attention.sum(-1), torch.ones(2, 2, 12))
    assert (output.last_hidden_state[0, [2, 7]] == 0).all()


def test_attention_maps_cost_nothing_in_the_result():
    encoder, signal = build(), torch.randn(2, 12, 320)
    with_maps = encoder(signal, output_attentions=True).pooler_output
    torch.testing.assert_close(with_maps, encoder(signal).pooler_output, rtol=1e-5, atol=1e-5)


def test_voltage_is_kept():
    """Twice the amplitude is another ECG (hypertrophy, low voltage), not the same one."""
    encoder, signal = build(), 0.5 * torch.randn(4, 12, 320)
    base, louder = encoder(signal).pooler_output, encoder(2 * signal).pooler_output
    assert ((louder - base).norm(dim=1) / base.norm(dim=1) > 0.1).all()


def test_leads_are_told_apart():
    signal = torch.randn(1, 1, 320).expand(1, 12, 320)
    tokens = build()(signal, output_hidden_states=True).hidden_states[0]
    for lead in range(1, 12):
        assert not torch.allclose(tokens[:, lead], tokens[:, 0], atol=1e-2)


def test_parameters_do_not_depend_on_the_length_and_maps_grow_with_it():
    encoder = build()
    for samples, tokens in ((320, 10), (1000, 31), (5000, 156)):
        output = encoder(torch.randn(1, 12, samples), output_attentions=True)
        assert output.attentions[1].shape[-1] == tokens


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_shared_time_attention_is_smaller_and_takes_adapters():
    shared, own = build(shared_time_attention=True), build()
    assert shared.num_parameters() < own.num_parameters()
    model = get_peft_model(shared, LoraConfig(r=2, target_modules=list(shared.lora_targets)))
    adapters = [path for path, p in model.named_parameters() if p.requires_grad]
    assert any("temporal.0.q_proj" in path for path in adapters)


def test_stages_must_fit_together():
    with pytest.raises(StrictDataclassError, match="3 strides but 2 widths"):
        DualAttentionConfig(strides=(4, 2, 2), widths=(8, 8))
    with pytest.raises(StrictDataclassError, match="patch_samples"):
        DualAttentionConfig(patch_samples=2)
