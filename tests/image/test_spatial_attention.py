import numpy as np
import pytest
import torch

from fm_med.errors import InputError
from fm_med.image.pixels import Pixels
from fm_med.image.processor import ImageProcessor
from fm_med.image.spatial_attention import (
    ResidualBlock,
    SpatialAttentionConfig,
    SpatialAttentionModel,
)

SIZES = {"widths": (8, 16), "depths": (1, 1), "norm_groups": 4}


def network(**settings):
    torch.manual_seed(0)
    return SpatialAttentionModel(SpatialAttentionConfig(**SIZES, **settings)).eval()


@pytest.mark.parametrize(("stride", "side"), [(1, 12), (2, 6)])
def test_a_wide_stem_sees_twice_the_resolution_on_as_many_places(stride, side):
    x = torch.randn(2, 3, 24, 24)
    states = network(stem_stride=stride)(x, output_hidden_states=True).hidden_states
    assert states[-1].shape == (2, 16, side, side)


def test_skip_pooling_holds_that_of_the_last_stage():
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        last, skip = (network(pooling=pooling)(x).pooler_output for pooling in ("last", "skip"))
    assert skip.shape[1] == 2 * (8 + 16) and torch.equal(skip[:, -32:], last)


def test_attention_weighs_places_and_can_be_left_out():
    x = torch.randn(2, 3, 16, 16)
    weighed = network()(x, output_attentions=True).attentions
    assert len(weighed) == 2 and weighed[0].shape == (2, 1, 256)
    assert weighed[0].std() > 0
    plain = network(attention=False)
    assert plain(x, output_attentions=True).attentions == ()
    assert not [name for name, _ in plain.named_parameters() if "place_conv" in name]


def test_images_too_small_are_refused():
    with pytest.raises(InputError, match="at least 4 pixels a side"):
        network(stem_stride=2)(torch.zeros(1, 3, 2, 8))


def test_only_the_middle_is_kept():
    values = np.zeros((40, 60, 3), np.uint8)
    values[10:30, 15:45] = 200
    processor = ImageProcessor(height=20, width=30, mean=(0, 0, 0), std=(1, 1, 1), middle=0.5)
    found = processor(Pixels(values))["pixel_values"]
    torch.testing.assert_close(found, torch.full((1, 3, 20, 30), 200 / 255))
    assert ImageProcessor.from_dict(processor.to_dict()).middle == 0.5
    with pytest.raises(InputError, match="middle is 0"):
        ImageProcessor(middle=0.0)


@pytest.mark.parametrize("size", [12, 13])
def test_the_shortcut_is_a_convolution_with_a_stride(size):
    """Written as that, few channels break oneDNN's memory where the channels come last."""
    config = SpatialAttentionConfig(widths=(8, 16), norm_groups=4, attention=False)
    block = ResidualBlock(8, 16, 2, config)
    x = torch.randn(3, 8, size, size)
    for parameter in (block.norm2.weight, block.norm2.bias):
        torch.nn.init.zeros_(parameter)  # what is left is the shortcut
    expected = torch.nn.functional.conv2d(x, block.shortcut.weight, stride=2).relu()
    torch.testing.assert_close(block(x)[0], expected)


def test_few_channels_can_be_trained():
    model = SpatialAttentionModel(SpatialAttentionConfig(widths=(8, 16))).train()
    for _ in range(3):
        model(torch.rand(43, 3, 64, 64)).pooler_output.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
