import pytest
import torch
from torch.nn import functional

from fm_med.ecg.lead_stem import Downsampling


@pytest.mark.parametrize("steps", [5, 20, 23])
@pytest.mark.parametrize("channels_last", [True, False])
def test_downsampling_is_the_convolution(steps, channels_last):
    """20 steps divide into pieces of 5, 23 do not."""
    torch.manual_seed(0)
    layer = Downsampling(3, 4, (1, 5), stride=(1, 5)).double()
    x = torch.randn(2, 3, 1, steps, dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    results = []
    for ours in (True, False):
        own = x.clone().requires_grad_()
        if ours:
            y = layer(own)
        else:
            y = functional.conv2d(own, layer.weight, layer.bias, stride=(1, 5))
        leaves = [own, layer.weight, layer.bias]
        results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)
