import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.image.augment import eight_ways
from fm_med.image.explain import attention_map, deletion_curve, grad_cam, predict_eight_ways
from fm_med.image.hub_backbone import HubBackboneConfig, HubBackboneModel
from fm_med.image.spatial_attention import SpatialAttentionConfig, SpatialAttentionModel

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
CONFIGS = {
    "spatial": SpatialAttentionConfig(widths=(8, 16), depths=(1, 1), norm_groups=4),
    "vit": HubBackboneConfig(backbone=VIT),
    "resnet": HubBackboneConfig(backbone=RESNET, pooling="skip"),
}


def encoder_of(name):
    torch.manual_seed(0)
    kind = SpatialAttentionModel if name == "spatial" else HubBackboneModel
    return kind(CONFIGS[name]).eval()


def images(batch=2, side=32, seed=0):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_have_the_images_size_and_lie_between_0_and_1(name):
    encoder = encoder_of(name)
    head = torch.nn.Linear(encoder.config.pooled_size, 3)
    maps = [grad_cam(encoder, head, images(), torch.tensor([0, 2]))]
    if name != "resnet":
        maps.append(attention_map(encoder, images()))
    for found in maps:
        assert found.shape == (2, 32, 32) and not found.requires_grad
        assert found.min() >= 0 and found.max() <= 1 and found.std() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_an_encoder_without_attention_is_refused():
    with pytest.raises(InputError, match="has no attention"):
        attention_map(encoder_of("resnet"), images())


class Corner(torch.nn.Module):
    """An 'encoder' whose second class is the brightness of the left upper quarter."""

    config = None

    def forward(self, pixel_values, output_hidden_states=False):
        state = torch.nn.functional.avg_pool2d(pixel_values, 4)
        half = state.shape[-1] // 2
        bright = state[:, :, :half, :half].mean((1, 2, 3))
        pooled = torch.stack([torch.zeros_like(bright), bright], 1)
        return type("Output", (), {"hidden_states": (state,), "pooler_output": pooled})


def probabilities(pixels):
    return (8 * Corner()(pixels).pooler_output).softmax(1)


def test_grad_cam_finds_the_place_that_decides():
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) / 10
    pixels[:, :, 4:12, 4:12] += 2.0
    pixels[:, :, 20:28, 20:28] += 0.5
    target = torch.ones(3, dtype=torch.long)
    importance = grad_cam(Corner(), lambda pooled: pooled, pixels, target)
    assert importance[:, 8, 8].min() > 0.9 and importance[:, 30, 2].max() < 0.3
    curve = deletion_curve(probabilities, pixels, importance, target)
    assert (curve.faithfulness > 0.02).all()
    backwards = deletion_curve(probabilities, pixels, -importance, target)
    assert (backwards.faithfulness < curve.faithfulness).all()


@given(side=st.integers(8, 24), steps=st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_deletion_starts_at_the_image_and_ends_at_nothing(side, steps):
    pixels, target = images(side=side), torch.tensor([1, 0])
    first, second = (
        deletion_curve(probabilities, pixels, torch.rand(2, side, side), target, steps=steps)
        for _ in range(2)
    )
    assert first.probability.shape == (2, steps + 1) and first.removed[-1] == 1
    whole = probabilities(pixels).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(first.probability[:, 0], whole)
    # With everything gone the order no longer matters; the random reference is always the same.
    torch.testing.assert_close(first.probability[:, -1], first.random[:, -1])
    assert torch.equal(first.random, second.random)


def test_eight_ways_do_not_depend_on_the_orientation():
    encoder = encoder_of("spatial")

    def predict(pixels):
        return encoder(pixels).pooler_output.softmax(1)

    with torch.no_grad():
        plain = predict_eight_ways(predict, images())
        for turned in eight_ways(images()):
            found = predict_eight_ways(predict, turned)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(predict(images()), plain, atol=1e-6)
    with pytest.raises(InputError, match="cannot be turned"):
        predict_eight_ways(predict, torch.zeros(1, 3, 16, 24))
