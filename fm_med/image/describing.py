"""What can be told of images in aggregates: size, colour, brightness."""

from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.differences import Difference, RowFacts, judged
from fm_med.image.storage import decode


def row_facts(table: pa.Table) -> RowFacts:
    """Return size, depth, brightness and contrast of each row (shares of full brightness)."""
    images = decode(table)
    scaled = [(image.values.mean(), image.values.std(), image.largest) for image in images]
    return RowFacts(
        yes={
            "image: in colour": np.array([image.values.shape[2] > 1 for image in images], float),
            "image: 16 bits": np.array([image.values.itemsize == 2 for image in images], float),
        },
        numbers={
            "height (pixels)": np.array([image.values.shape[0] for image in images], float),
            "width (pixels)": np.array([image.values.shape[1] for image in images], float),
            "brightness (%)": np.array([100 * mean / top for mean, _, top in scaled], float),
            "contrast (%)": np.array([100 * std / top for _, std, top in scaled], float),
        },
    )


def fits(processor: Any, card: Any, table: pa.Table) -> list[Difference]:
    """Compare the size with the one that the encoder reads; smaller images are blown up."""
    height, width = (table.column(name).to_numpy() for name in ("height", "width"))
    small = float(
        np.mean(
            (height * processor.middle < processor.height)
            | (width * processor.middle < processor.width)
        )
    )
    advice = f"{small:.0%} are smaller and are blown up, which adds no detail" if small else ""
    return [
        Difference("units", "pixels", card.units),
        judged(
            "size the model reads",
            f"{processor.height} x {processor.width} pixels",
            f"{height.min()} x {width.min()} to {height.max()} x {width.max()}",
            advice if small > 0.05 else "",
        ),
    ]


def steps(processor: Any) -> list[str]:
    """Return what `ImageProcessor` does."""
    fit = {
        "stretch": "Stretch the image to the size",
        "crop": "Cut the largest centre of the wanted shape",
        "pad": "Pad the image with its mean brightness to the wanted shape",
    }[processor.fit]
    size = f"{processor.height} x {processor.width} pixels"
    return [
        "Divide by the largest value of the depth (255 or 65535), and repeat grey in 3 channels.",
        f"Keep the middle {processor.middle:.0%} of height and width.",
        f"{fit} and resize to {size} (bicubic, antialiased), clamped to 0 to 1.",
        f"Subtract {processor.mean} and divide by {processor.std}, red, green, blue.",
        f"pixel_values: float32 (batch, 3, {processor.height}, {processor.width}).",
    ]


def example(processor: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return noise of an image's size."""
    shape = (rows, 3, processor.height, processor.width)
    return {"pixel_values": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}
