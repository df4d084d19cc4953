"""Images, sheets, videos and progress lines."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from im3d_jax.output import images, sheets, videos
from im3d_jax.output.progress import ProgressPrinter


def moving_square(count=5, height=36, width=50):
    frames = np.ones((count, height, width, 3), np.float32)
    for index in range(count):
        frames[index, 8:24, 4 * index : 4 * index + 16] = (0.8, 0.1, 0.2)
    return frames


def test_png_keeps_colour_under_straight_alpha(tmp_path):
    image = np.zeros((3, 4, 4), np.float32)
    image[..., 0], image[..., 3] = 0.8, np.linspace(0, 1, 4)[None]
    (tmp_path / "a.png").write_bytes(images.encode_png(image))
    np.testing.assert_allclose(images.read_image(tmp_path / "a.png"), image, atol=0.5 / 255 + 1e-6)
    assert images.encode_png(image) == images.encode_png(image.copy())


def test_png_of_its_own_reading_is_unchanged():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(images.to_bytes(pixels[..., None] / np.float32(255.0))[..., 0], pixels)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        images.encode_png(np.full((2, 2, 4), np.nan))


def test_mismatched_sizes(tmp_path):
    for name, size in (("a", 8), ("b", 9)):
        (tmp_path / f"{name}.png").write_bytes(images.encode_png(np.ones((8, size, 3))))
    assert images.read_images([tmp_path / "a.png"] * 2).shape == (2, 8, 8, 4)
    with pytest.raises(ValueError, match="mismatched image sizes"):
        images.read_images([tmp_path / "a.png", tmp_path / "b.png"])


def test_sheet_reads_row_by_row_on_white():
    views = np.zeros((5, 3, 3, 4), np.float32)
    views[..., 3] = 1.0
    views[1, ..., 0] = 1.0
    views[4, ..., 3] = 0.0
    sheet = sheets.contact_sheet(views, columns=4, gap=1)
    assert sheet.shape == (7, 15, 3)
    np.testing.assert_array_equal(sheet[1, 5], [1, 0, 0])
    np.testing.assert_array_equal(sheet[5, 1], [1, 1, 1])
    np.testing.assert_array_equal(sheet[1, 9], [0, 0, 0])


def test_video_decodes_to_its_frames_and_is_reproducible():
    frames = moving_square(height=35)
    encoded = videos.encode_mp4(frames)
    with av.open(io.BytesIO(encoded)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and float(stream.average_rate) == 16
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert decoded.shape == (5, 36, 50, 3)
    assert np.abs(decoded[:, :35] / 255.0 - frames).mean() < 0.02
    with pytest.raises(ValueError, match="expected"):
        videos.encode_mp4(frames[0])


@pytest.mark.parametrize("size", [24, 32, 50])
def test_video_bytes_do_not_depend_on_what_was_in_memory(size):
    rng = np.random.default_rng(0)
    frames = rng.random((8, size, size, 3), np.float32)
    first = videos.encode_mp4(frames)
    for _ in range(20):
        rubbish = [rng.bytes(int(rng.integers(1, 200_000))) for _ in range(5)]
        assert videos.encode_mp4(frames) == first
        del rubbish


def test_sheet_is_a_png_of_the_same_pixels():
    sheet = sheets.contact_sheet(moving_square())
    reread = np.asarray(Image.open(io.BytesIO(images.encode_png(sheet))), np.float32) / 255
    np.testing.assert_allclose(reread, sheet, atol=0.5 / 255 + 1e-6)


def test_plain_progress_is_a_few_lines():
    stream = io.StringIO()
    with ProgressPrinter(stream).stage("fit") as report:
        for step in range(1000):
            report(step + 1, 1000, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and lines[0] == "fit: 250/1000 loss 249" and lines[-1].startswith("fit: done in")


def test_terminal_progress_draws_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with ProgressPrinter(stream).stage("fit") as report:
        report(5, 10, "half")
    assert "fit: done in" in stream.getvalue()
