"""SigLIP's closed form; its equality to the definition is in test_contrastive.py."""

import math

import pytest
import torch

from fm_med.objectives import siglip_loss


@pytest.mark.parametrize("total", [1, 3, 50])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_uninformative_embeddings(total, chunk_size):
    """With logits of 0 each of the N pairs of a row costs log 2."""
    same = torch.ones(total, 4, dtype=torch.float64) / 2
    scale, bias = (torch.tensor(x, dtype=torch.float64) for x in (5.0, -5.0))
    value = siglip_loss(same, same, logit_scale=scale, logit_bias=bias, chunk_size=chunk_size)
    assert value.item() == pytest.approx(total * math.log(2), rel=1e-12)


def test_far_logits_stay_finite():
    signal = torch.eye(3, dtype=torch.float32)
    scale = torch.tensor(1e4, requires_grad=True)
    value = siglip_loss(signal, -signal, logit_scale=scale, logit_bias=torch.tensor(0.0))
    value.backward()
    assert value.item() == pytest.approx(1e4 + 2 * math.log(2), rel=1e-6)
    assert scale.grad.item() == pytest.approx(1.0)


def test_gradcheck():
    torch.manual_seed(0)
    signal, text = torch.randn(2, 5, 3, dtype=torch.float64).requires_grad_().unbind()
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, -1.0))
    ids = torch.tensor([0, 1, 1, 2, 3])

    def loss(*values):
        embedding, scalars = values[:2], {"logit_scale": values[2], "logit_bias": values[3]}
        return siglip_loss(*embedding, **scalars, report_id=ids, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (signal, text, scale, bias))
