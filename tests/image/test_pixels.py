import numpy as np
import pytest
from PIL import Image

from fm_med.errors import InputError
from fm_med.image.pixels import read_pixels

GREY = (np.arange(48, dtype=np.uint8) * 5).reshape(6, 8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], -1)
DEEP = (np.arange(48, dtype=np.uint16) * 1300).reshape(6, 8)


def saved(tmp_path, values, name, **options):
    path = tmp_path / name
    Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bit_grey_and_colour(tmp_path, suffix):
    grey = read_pixels(saved(tmp_path, GREY, f"g.{suffix}"))
    np.testing.assert_array_equal(grey.values, GREY[..., None])
    assert grey.largest == 255
    colour = read_pixels(saved(tmp_path, COLOUR, f"c.{suffix}"))
    np.testing.assert_array_equal(colour.values, COLOUR)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_depth(tmp_path, suffix):
    pixels = read_pixels(saved(tmp_path, DEEP, f"d.{suffix}"))
    np.testing.assert_array_equal(pixels.values, DEEP[..., None])
    assert pixels.largest == 65535


def test_transparency_lies_over_white(tmp_path):
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[0] = 0
    pixels = read_pixels(saved(tmp_path, np.dstack([COLOUR, alpha]), "a.png")).values
    np.testing.assert_array_equal(pixels[0], 255)
    np.testing.assert_array_equal(pixels[1:], COLOUR[1:])


def test_a_palette_is_resolved(tmp_path):
    Image.fromarray(COLOUR).quantize(16).save(tmp_path / "p.png")
    expected = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    np.testing.assert_array_equal(read_pixels(tmp_path / "p.png").values, expected)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png is not a readable image"):
        read_pixels(tmp_path / "text.png")
    path = saved(tmp_path, COLOUR, "torn.png")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"torn\.png is not a readable image"):
        read_pixels(path)
    with pytest.raises(InputError, match="no image at"):
        read_pixels(tmp_path / "absent.png")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="floating-point"):
        read_pixels(tmp_path / "float.tif")


def dicom(path, values, *, photometric="MONOCHROME2", slope=1.0, intercept=0.0, window=None):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    if window:
        data.WindowCenter, data.WindowWidth = window
    data.PixelData = values.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_dicom_is_rescaled_windowed_and_inverted(tmp_path):
    values = DEEP // 20
    plain = read_pixels(dicom(tmp_path / "p.dcm", values)).values[..., 0]
    expected = np.round(values / values.max() * 65535)
    np.testing.assert_array_equal(plain, expected)
    inverse = read_pixels(dicom(tmp_path / "i.dcm", values, photometric="MONOCHROME1"))
    np.testing.assert_allclose(inverse.values[..., 0], 65535 - expected, atol=1)
    shown = dicom(tmp_path / "w.dcm", values, slope=2.0, intercept=-1000, window=(1000, 800))
    windowed = read_pixels(shown).values[..., 0]
    rescaled = values * 2.0 - 1000
    assert windowed[rescaled <= 599].max() == 0 and windowed[rescaled >= 1401].min() == 65535
    inside = (rescaled > 620) & (rescaled < 1380)
    np.testing.assert_allclose(windowed[inside] / 65535, (rescaled[inside] - 600) / 800, atol=2e-3)


def test_dicom_is_known_by_its_content(tmp_path):
    path = dicom(tmp_path / "a.dcm", DEEP)
    plain = path.rename(tmp_path / "IM000001")
    assert read_pixels(plain).values.shape == (6, 8, 1)
    (tmp_path / "b.dcm").write_bytes(plain.read_bytes()[:200])
    with pytest.raises(InputError, match=r"b\.dcm is not a readable DICOM"):
        read_pixels(tmp_path / "b.dcm")


def test_real_micrographs(real_data):
    folder = real_data("img_em_cellemnet18")
    files = [p for p in folder.rglob("*") if p.suffix in (".png", ".tif", ".tiff")]
    assert len(files) >= 18
    for file in files:
        assert read_pixels(file).values.shape[2] in (1, 3)
