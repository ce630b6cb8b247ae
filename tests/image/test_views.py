"""Features averaged over views of an image: a naive definition, and what they are good for."""

import pytest
import torch

from fm_med.image.hub_backbone import HubBackboneConfig, HubBackboneModel
from fm_med.image.spatial_attention import SpatialAttentionConfig, SpatialAttentionModel
from fm_med.image.views import other_views

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def encoders(views):
    """Return one encoder of each kind, always with the same weights."""
    torch.manual_seed(0)
    yield SpatialAttentionModel(
        SpatialAttentionConfig(widths=[8, 16], depths=[1, 1], test_time_views=views)
    )
    yield HubBackboneModel(HubBackboneConfig(backbone=RESNET, test_time_views=views))


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("count", [2, 4, 8])
@torch.inference_mode()
def test_features_are_the_mean_over_views(images, kind, count):
    single, averaged = list(encoders(1))[kind].eval(), list(encoders(count))[kind].eval()
    mirrored = [images, images.flip(3), images.flip(2), images.flip(2, 3)][:count]
    turned = [view.transpose(2, 3) for view in mirrored] if count == 8 else []
    naive = torch.stack([single(view).pooler_output for view in mirrored + turned]).mean(0)
    torch.testing.assert_close(averaged(images).pooler_output, naive)


@pytest.mark.parametrize("kind", [0, 1])
@torch.inference_mode()
def test_eight_views_make_features_blind_to_turns_and_mirrors(images, kind):
    encoder = list(encoders(8))[kind].eval()
    expected = encoder(images).pooler_output
    for turned in (torch.rot90(images, 1, (2, 3)), torch.rot90(images, 2, (2, 3)), images.flip(3)):
        torch.testing.assert_close(encoder(turned).pooler_output, expected)
    single = list(encoders(1))[kind].eval()
    assert not torch.allclose(single(images.flip(3)).pooler_output, single(images).pooler_output)


@pytest.mark.parametrize("kind", [0, 1])
def test_training_sees_the_image_as_it_is(images, kind):
    single, averaged = list(encoders(1))[kind], list(encoders(8))[kind]
    outputs = []
    for encoder in (single, averaged):
        torch.manual_seed(3)
        outputs.append(encoder.train()(images).pooler_output)
    assert torch.equal(*outputs)


def test_all_views_differ(images):
    seen = [images, *other_views(images, 8)]
    assert len(seen) == 8
    assert len({view.numpy().tobytes() for view in seen}) == 8
