"""Read an image file to pixels: PNG, JPEG, TIFF (8 and 16 bit, grey, colour, alpha) and DICOM."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fm_med.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom")
LARGEST_PIXELS = 64 * 2**20
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")


@dataclass(frozen=True)
class Pixels:
    """An image as it was stored.

    Attributes:
        values: (height, width, channels) uint8 or uint16; one channel for grey, three for colour.
    """

    values: np.ndarray

    @property
    def largest(self) -> int:
        """The value of full brightness."""
        return int(np.iinfo(self.values.dtype).max)


def read_pixels(path: str | Path) -> Pixels:
    """Read one image; transparency is laid over white, a palette is resolved.

    A DICOM file's values are rescaled, put through its window (or its range) and inverted for
    MONOCHROME1, so that bright is dense; they fill 16 bits.

    Args:
        path: The file. Only its first frame is read.

    Raises:
        InputError: No such file, not an image, damaged, or larger than 64 million pixels.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no image at {file}")
    if file.suffix.lower() in DICOM_SUFFIXES or _is_dicom(file):
        return Pixels(_read_dicom(file))
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST_PIXELS:
                size = f"{image.width} x {image.height}"
                raise InputError(f"{file} has {size} pixels, more than {LARGEST_PIXELS}")
            return Pixels(_values(image, file))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{file} is not a readable image: {reason}") from None


def _values(image: Image.Image, file: Path) -> np.ndarray:
    """Return (height, width, channels) of an opened image."""
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{file} has values {values.min()} to {values.max()}, beyond 16 bits")
        return values.astype(np.uint16)[..., None]
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        colour = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        grey = image.mode == "LA"
        return np.asarray(colour.convert("L"))[..., None] if grey else np.asarray(colour)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "F":
        raise InputError(f"{file} holds floating-point values; save it with 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _read_dicom(file: Path) -> np.ndarray:
    """Return (height, width, 1) uint16, or three channels of uint8."""
    if find_spec("pydicom") is None:
        raise InputError(f"{file} is DICOM; reading it needs pydicom: pip install 'fm-med[dicom]'")
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        data: Any = pydicom.dcmread(file)
        values = data.pixel_array
        if data.get("SamplesPerPixel", 1) == 3:
            colour = values if values.ndim == 3 else values[0]
            return colour.astype(np.uint8)
        if values.ndim == 3:
            values = values[0]
        shown = np.asarray(apply_voi_lut(apply_modality_lut(values, data), data), np.float64)
    except (InvalidDicomError, AttributeError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{file} is not a readable DICOM image: {reason}") from None
    span = shown.max() - shown.min()
    share = (shown - shown.min()) / span if span > 0 else np.zeros_like(shown)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        share = 1 - share
    return np.round(share * 65535).astype(np.uint16)[..., None]
