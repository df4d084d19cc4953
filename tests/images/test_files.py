"""Picture files: what is read, what is refused, and PNG files with the same bytes for the same pixels."""

import os
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from im3d_jax.errors import ImageError
from im3d_jax.images import files
from tests.images.test_prepare import disc


def test_png_keeps_colour_under_straight_alpha(tmp_path):
    image = np.zeros((3, 4, 4), np.float32)
    image[..., 0], image[..., 3] = 0.8, np.linspace(0, 1, 4)[None]
    (tmp_path / "a.png").write_bytes(files.encode_png(image))
    np.testing.assert_allclose(files.read_image(tmp_path / "a.png"), image, atol=0.5 / 255 + 1e-6)
    assert files.encode_png(image) == files.encode_png(image.copy())


def test_png_of_its_own_reading_is_unchanged():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(files.to_bytes(pixels[..., None] / np.float32(255.0))[..., 0], pixels)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        files.encode_png(np.full((2, 2, 4), np.nan))


def test_mismatched_sizes(tmp_path):
    for name, size in (("a", 8), ("b", 9)):
        (tmp_path / f"{name}.png").write_bytes(files.encode_png(np.ones((8, size, 3))))
    assert files.read_images([tmp_path / "a.png"] * 2).shape == (2, 8, 8, 4)
    with pytest.raises(ValueError, match="mismatched image sizes"):
        files.read_images([tmp_path / "a.png", tmp_path / "b.png"])


def test_as_stored_is_what_a_file_gives_back(tmp_path):
    images = np.random.default_rng(0).uniform(-0.1, 1.1, (2, 9, 7, 4)).astype(np.float32)
    for index, image in enumerate(images):
        (tmp_path / f"{index}.png").write_bytes(files.encode_png(image))
    stored = files.as_stored(images)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(files.read_images([tmp_path / "0.png", tmp_path / "1.png"]), stored)
    np.testing.assert_array_equal(files.as_stored(stored), stored)


def test_read_round_trip_and_modes(tmp_path):
    picture = (disc(24, 8.0, (12.0, 12.0), (0.9, 0.5, 0.1)) * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal((files.read_image(tmp_path / "a.png") * 255).round(), picture)
    Image.fromarray(picture[..., :3]).convert("P").save(tmp_path / "p.png")
    assert files.read_image(tmp_path / "p.png").shape == (24, 24, 4)
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert files.read_image(tmp_path / "deep.png")[3, 3, 0] == pytest.approx(0.5, abs=1e-4)


def test_pictures_too_large_for_memory_are_refused_before_they_are_decoded(tmp_path):
    for side in (7_100, 9_600, 13_500):  # the last two are above the limits at which Pillow warns and refuses
        Image.new("1", (side, side)).save(tmp_path / "huge.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ImageError, match="50 million pixels"):
                files.read_image(tmp_path / "huge.png")


def test_damaged_files(tmp_path):
    with pytest.raises(ImageError, match="missing"):
        files.read_image(tmp_path / "no.png")
    with pytest.raises(ImageError, match="missing"):
        files.read_image(tmp_path / (400 * "x"))
    with pytest.raises(ImageError, match="folder"):
        files.read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="pipe.png: the file is a pipe or a device, which cannot be read"):
        files.read_image(tmp_path / "pipe.png")
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for length in (0, 4, 20, 40, 200, len(data) // 2, len(data) - 100):
        (tmp_path / "cut.png").write_bytes(data[:length])
        with pytest.raises(ImageError) as caught:
            files.read_image(tmp_path / "cut.png")
        assert "\n" not in str(caught.value)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="not a readable picture"):
        files.read_image(tmp_path / "text.png")


def tiff(pixels, sample_format):
    """A TIFF file of one grey channel; the format is 1 for unsigned, 2 for signed, 3 for floating-point numbers."""
    height, width = pixels.shape
    shorts = {258: 8 * pixels.itemsize, 259: 1, 262: 1, 277: 1, 339: sample_format}
    longs = {256: width, 257: height, 273: 8, 278: height, 279: pixels.nbytes}
    entries = b"".join(
        struct.pack("<HHIHH", tag, 3, 1, shorts[tag], 0)
        if tag in shorts
        else struct.pack("<HHII", tag, 4, 1, longs[tag])
        for tag in sorted(shorts | longs)
    )
    count = struct.pack("<H", len(shorts) + len(longs))
    return b"II*\0" + struct.pack("<I", 8 + pixels.nbytes) + pixels.tobytes() + count + entries + bytes(4)


def test_greys_that_do_not_tell_white_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.full((4, 5), 32768, np.uint16), 1))
    assert files.read_image(path)[2, 3, 0] == pytest.approx(0.5, abs=1e-4)
    for pixels, sample_format, kind in (
        (np.full((4, 5), 3_000_000_000, np.uint32), 1, "32-bit or signed"),
        (np.full((4, 5), 200, np.int32), 2, "32-bit or signed"),
        (np.full((4, 5), 200, np.int16), 2, "32-bit or signed"),
        (np.full((4, 5), 0.5, np.float32), 3, "floating-point"),
    ):
        path.write_bytes(tiff(pixels, sample_format))
        with pytest.raises(ImageError, match=f"{kind} pixels; expected 8 or 16 bits"):
            files.read_image(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_tiff_files_are_turned_as_others(tmp_path, mode):
    """Pillow turns them by itself, and would scramble those that it maps into memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("a.tif", "a.png"):
            picture.save(tmp_path / name, exif=exif)
        expected = files.read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(files.read_image(tmp_path / "a.tif"), expected)
        assert files.picture_size(tmp_path / "a.tif") == expected.shape[1::-1]


def test_other_colours_are_refused(tmp_path):
    Image.new("LAB", (20, 20)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="a.tif: colours in LAB; expected RGB or grey"):
        files.read_image(tmp_path / "a.tif")


def test_one_grey_of_16_bits_may_be_transparent(tmp_path):
    grey = np.full((20, 20), 300, np.uint16)
    grey[5:, :] = 40_000
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=300)
    found = files.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(found[..., 3], grey == 40_000)
    np.testing.assert_allclose(found[5:, :, 0], 40_000 / 65535, rtol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "EPS"])
def test_other_formats_are_not_opened_whatever_their_names(kind, tmp_path):
    """Pillow would start Ghostscript for EPS."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png", kind)
    with pytest.raises(ImageError, match="not a readable picture; expected PNG, JPEG, WebP or TIFF"):
        files.read_image(tmp_path / "a.png")


def test_sizes_come_from_headers(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert files.picture_size(tmp_path / "a.jpg") == (20, 30)
    assert files.read_image(tmp_path / "a.jpg").shape == (30, 20, 4)
    # Pictures that are too large together are refused before any is decoded.
    Image.new("1", (7_000, 7_000)).save(tmp_path / "large.png")
    monkeypatch.setattr(files, "read_image", lambda path: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="5 images of 7000x7000 pixels: together more than 200 million"):
        files.read_images([tmp_path / "large.png"] * 5)
