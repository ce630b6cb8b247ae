import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from fm_med.ecg.dual_attention_paper import (
    DualAttentionPaperConfig,
    DualAttentionPaperModel,
    fit_length,
)


@pytest.mark.parametrize("samples, parameters", [(608, 1_274_536), (1024, 3_313_976)])
def test_the_published_number_of_parameters(samples, parameters):
    model = DualAttentionPaperModel(DualAttentionPaperConfig(samples=samples))
    assert model.num_parameters() == parameters
    parts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert parts["input_conv"] == 12_048
    assert parts["stages"] == 11_368
    assert parts["temporal"] == 39_360
    if samples == 608:
        assert parts["cross_lead"] == 1_112_944
    assert parts["mean_proj"] + parts["max_proj"] == 98_816


def test_its_lead_tokens_are_not_of_one_lead():
    """The defect that `dual_attention` mends: all leads feed every "lead" before the attention."""
    torch.manual_seed(0)
    model = DualAttentionPaperModel(DualAttentionPaperConfig(samples=96)).eval()
    signal = torch.randn(1, 12, 96, requires_grad=True)
    tokens = model(signal, output_hidden_states=True).hidden_states[0]
    shares = []
    for lead in range(12):
        probe = torch.randn_like(tokens[:, lead])
        (gradient,) = torch.autograd.grad(
            (tokens[:, lead] * probe).sum(), signal, retain_graph=True
        )
        size = gradient[0].norm(dim=-1)
        assert (size > 0).all()
        shares.append(float(size[lead] / size.sum()))
    assert 0.05 < sum(shares) / 12 < 0.13  # uniform is .083


def test_another_length_is_cropped_or_padded_around_the_centre():
    ramp = torch.arange(10.0).expand(1, 12, 10)
    assert fit_length(ramp, 4)[0, 0].tolist() == [3, 4, 5, 6]
    assert fit_length(ramp[..., :3], 6)[0, 0].tolist() == [0, 0, 1, 2, 0, 0]
    assert torch.equal(fit_length(ramp, 10), ramp)


def test_dropout_uses_one_mask_for_all_records():
    torch.manual_seed(0)
    model = DualAttentionPaperModel(DualAttentionPaperConfig(samples=96)).train()
    block = model.temporal[0]
    x = torch.zeros(3, 3, 16)
    seen = []
    block.norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(x, need_weights=False)
    assert torch.equal(seen[0][0], seen[0][1]) and (seen[0][0] == 0).any()


@pytest.mark.parametrize("samples", [0, 600, 1000])
def test_a_length_that_does_not_halve_five_times_is_refused(samples):
    with pytest.raises(StrictDataclassError, match="multiple of 32"):
        DualAttentionPaperConfig(samples=samples)
