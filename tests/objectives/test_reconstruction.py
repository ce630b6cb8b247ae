"""What counts in the reconstruction, and what does not."""

import pytest
import torch

from fm_med.objectives import masked_mse_loss


def test_only_masked_in_places_count():
    signal = torch.zeros(3, 2, 4)
    guess = torch.arange(24.0).view(3, 2, 4)
    everything = masked_mse_loss(guess, signal)
    assert everything.tolist() == [(guess[i] ** 2).mean().item() for i in range(3)]
    leads = torch.tensor([[True, False], [False, True], [False, False]])
    signal[0, 1] = torch.nan
    by_lead = masked_mse_loss(guess, signal, leads)
    expected = [(guess[0, 0] ** 2).mean().item(), (guess[1, 1] ** 2).mean().item(), 0.0]
    assert by_lead.tolist() == pytest.approx(expected)
    samples = leads[..., None].expand_as(signal)
    assert torch.equal(masked_mse_loss(guess, signal, samples), by_lead)
