"""Aggregates of images, and whether they are as large as the encoder reads."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from fm_med.image.describing import fits, row_facts, steps
from fm_med.image.pixels import Pixels
from fm_med.image.processor import ImageProcessor
from fm_med.image.storage import IMAGE_SCHEMA, encode

GREY = Pixels(np.full((40, 30, 1), 51, np.uint8))
COLOUR = Pixels(np.full((80, 90, 3), 65535, np.uint16))
TABLE = pa.Table.from_pylist([encode(GREY), encode(COLOUR)], pa.schema(IMAGE_SCHEMA))


def test_size_depth_and_brightness_of_each_row():
    facts = row_facts(TABLE)
    assert facts.yes["image: in colour"].tolist() == [0, 1]
    assert facts.yes["image: 16 bits"].tolist() == [0, 1]
    assert facts.numbers["height (pixels)"].tolist() == [40, 80]
    assert facts.numbers["width (pixels)"].tolist() == [30, 90]
    np.testing.assert_allclose(facts.numbers["brightness (%)"], [20.0, 100.0])
    np.testing.assert_allclose(facts.numbers["contrast (%)"], 0.0)


def test_images_that_are_too_small_are_told():
    card = SimpleNamespace(units="grey values")
    assert fits(ImageProcessor(height=24, width=24), card, TABLE)[1].state == "ok"
    line = fits(ImageProcessor(height=64, width=64), card, TABLE)[1]
    assert line.state == "attention" and "50% are smaller" in line.advice
    assert line.cohort == "40 x 30 to 80 x 90"


def test_steps_state_size_and_fit():
    text = " ".join(steps(ImageProcessor(height=32, width=48, fit="crop")))
    assert "32 x 48" in text and "Cut the largest centre" in text
