import pytest
import torch

from fm_med.ecg.decoder import ReconstructionDecoder


@pytest.mark.parametrize("tokens", [19, 31, 62, 100])
@pytest.mark.parametrize("samples", [608, 1000])
def test_any_number_of_tokens_gives_the_signals_length(tokens, samples):
    decoder = ReconstructionDecoder(8, samples=samples, hidden=4)
    assert decoder(torch.randn(2, tokens, 8)).shape == (2, 12, samples)


def test_time_stays_in_place():
    """A feature at 30 % of the time shapes the signal there and nowhere else."""
    torch.manual_seed(0)
    decoder = ReconstructionDecoder(8, samples=1000, hidden=4)
    features = torch.randn(1, 50, 8)
    changed = features.clone()
    changed[:, 15] += 1.0
    moved = (decoder(changed) - decoder(features)).abs().amax(dim=(0, 1)) > 1e-6
    where = moved.nonzero()
    assert where.min() >= 300 - 10 and where.max() <= 320 + 10


def test_it_learns_to_rebuild_a_signal():
    torch.manual_seed(0)
    decoder = ReconstructionDecoder(16, samples=128, leads=2, samples_per_token=16)
    features = torch.randn(4, 8, 16)
    signal = torch.sin(torch.arange(128) / torch.linspace(3, 9, 8).view(4, 2, 1))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(150):
        loss = (decoder(features) - signal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * signal.square().mean()
