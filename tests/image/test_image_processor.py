import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.image.augment import ImageAugmentation, augment, eight_ways
from fm_med.image.pixels import Pixels
from fm_med.image.processor import ImageProcessor
from fm_med.image.storage import IMAGE_SCHEMA, decode, encode

CARD = CohortCard(name="some", modality="image", units="brightness")


def drawn(height, width, channels=3, bits=8, seed=0):
    high = 2**bits
    kind = np.uint8 if bits == 8 else np.uint16
    shape = (height, width, channels)
    return Pixels(np.random.default_rng(seed).integers(0, high, shape).astype(kind))


def rows(images):
    return pa.Table.from_pylist([encode(image) for image in images], pa.schema(IMAGE_SCHEMA))


MIXED = [drawn(9, 7), drawn(12, 12, 1), drawn(9, 7, seed=1), drawn(20, 5, 1, 16)]


def test_images_come_back_as_they_were_stored():
    for stored, image in zip(decode(rows(MIXED).slice(1)), MIXED[1:]):
        np.testing.assert_array_equal(stored.values, image.values)
        assert stored.values.dtype == image.values.dtype
    hashes = [encode(image)["input_hash"] for image in [*MIXED, MIXED[0]]]
    assert len(set(hashes)) == 4 and hashes[0] == hashes[-1]
    flat, tall = (Pixels(np.zeros(shape, np.uint8)) for shape in ((2, 8, 1), (8, 2, 1)))
    assert encode(flat)["input_hash"] != encode(tall)["input_hash"]


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_row_does_not_depend_on_the_batch(fit):
    processor = ImageProcessor(height=16, width=8, fit=fit)
    together = processor.from_rows(rows(MIXED))["pixel_values"]
    assert together.shape == (4, 3, 16, 8)
    for row, image in enumerate(MIXED):
        torch.testing.assert_close(together[row], processor(image)["pixel_values"][0])


def test_depth_does_not_change_brightness():
    eight = Pixels(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4)
    sixteen = Pixels(eight.values.astype(np.uint16) * 257)
    processor = ImageProcessor(height=8, width=8)
    one, other = (processor(image)["pixel_values"] for image in (eight, sixteen))
    torch.testing.assert_close(one, other)
    assert torch.equal(one[:, 0], one[:, 1])
    expected = (eight.values[..., 0] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(one[0, 0], expected, atol=1e-6)


def test_padding_keeps_proportions_and_cropping_the_middle():
    image = Pixels(np.zeros((8, 4, 1), np.uint8))
    image.values[2:6] = 255
    padded = ImageProcessor(height=8, width=8, fit="pad")(image)["pixel_values"][0, 0]
    torch.testing.assert_close(padded[2:6, 2:6], torch.full((4, 4), 2.0))
    assert padded[0, 0] == 0  # the mean of this image
    cropped = ImageProcessor(height=4, width=4, fit="crop")(image)["pixel_values"][0, 0]
    torch.testing.assert_close(cropped, torch.full((4, 4), 2.0))


def test_channels_are_fitted_on_training_rows():
    images = [drawn(16, 16, seed=seed) for seed in range(5)]
    processor = ImageProcessor.for_cohort(CARD, rows(images), height=16, width=16)
    found = processor.from_rows(rows(images))["pixel_values"]
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="holds ecg, expected image"):
        ImageProcessor.for_cohort(CohortCard(name="e", modality="ecg", units="mV"), rows(images))


def test_it_is_saved_and_loaded_and_settings_are_checked(tmp_path):
    processor = ImageProcessor(height=12, mean=(0.1, 0.2, 0.3))
    processor.save_pretrained(tmp_path)
    again = ImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(MIXED)["pixel_values"], processor(MIXED)["pixel_values"])
    for wrong in ({"height": 2}, {"std": (1, 1, 0)}, {"fit": "squeeze"}):
        with pytest.raises(InputError):
            ImageProcessor(**wrong)


@given(st.permutations(range(6)), st.integers(0, 9), st.integers(0, 9))
def test_a_row_is_augmented_alike_in_any_batch(order, seed, epoch):
    pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    ids = torch.arange(10, 16)
    options = {"settings": ImageAugmentation(), "seed": seed, "epoch": epoch}
    whole = augment({"pixel_values": pixels}, rows=ids, **options)["pixel_values"]
    chosen = torch.tensor(order[:4])
    some = augment({"pixel_values": pixels[chosen]}, rows=ids[chosen], **options)["pixel_values"]
    torch.testing.assert_close(some, whole[chosen], rtol=1e-5, atol=1e-5)
    other = augment({"pixel_values": pixels}, rows=ids, **options | {"epoch": epoch + 1})
    assert not torch.allclose(other["pixel_values"], whole, atol=1e-3)


def test_flips_and_turns_reach_all_eight_ways_and_nothing_else():
    pixels = torch.randn(1, 3, 6, 6)
    still = {"rotation": 0, "zoom": 0, "shift": 0, "stain": 0, "brightness": 0, "noise": 0}
    ways = eight_ways(pixels)
    seen = set()
    for row in range(60):
        found = augment(
            {"pixel_values": pixels},
            settings=ImageAugmentation(**still),
            seed=0,
            epoch=0,
            rows=torch.tensor([row]),
        )["pixel_values"]
        near = [torch.allclose(found, way, atol=1e-4) for way in ways]
        assert sum(near) == 1
        seen.add(near.index(True))
    assert seen == set(range(8))
    unchanged = augment(
        {"pixel_values": pixels},
        settings=ImageAugmentation(flips=False, **still),
        seed=0,
        epoch=0,
        rows=torch.tensor([1]),
    )["pixel_values"]
    torch.testing.assert_close(unchanged, pixels, atol=1e-5, rtol=1e-5)


def test_strengths_are_checked():
    with pytest.raises(InputError, match="zoom is 2"):
        ImageAugmentation(zoom=2)
