"""Images in a cohort: raw pixels of 8 or 16 bits, with their shape."""

import hashlib

import numpy as np
import pyarrow as pa

from fm_med.image.pixels import Pixels

IMAGE_SCHEMA = [
    pa.field("image", pa.large_binary()),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("channels", pa.int32()),
    pa.field("bits", pa.int32()),
    pa.field("input_hash", pa.string()),
]


def encode(pixels: Pixels) -> dict[str, object]:
    """Return one row of `IMAGE_SCHEMA`."""
    values = np.ascontiguousarray(pixels.values)
    height, width, channels = values.shape
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    shape = f"{height} {width} {channels} ".encode()
    return {
        "image": raw,
        "height": height,
        "width": width,
        "channels": channels,
        "bits": 8 * values.dtype.itemsize,
        "input_hash": hashlib.blake2b(shape + raw, digest_size=16).hexdigest(),
    }


def decode(table: pa.Table) -> list[Pixels]:
    """Return the images of some rows of a cohort, as they were stored."""
    shapes = zip(*(table[name].to_pylist() for name in ("height", "width", "channels", "bits")))
    images = []
    for raw, (height, width, channels, bits) in zip(table["image"], shapes):
        values = np.frombuffer(raw.as_buffer(), "<u2" if bits == 16 else np.uint8)
        images.append(Pixels(values.reshape(height, width, channels)))
    return images
