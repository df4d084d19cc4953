"""Preparing users' pictures: refusals, cut-outs, and where and how large the object ends up."""

import warnings

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data import prepare


def disc(size, radius, centre, colour, background=None):
    """An antialiased disc: RGBA, or RGB on a plain background."""
    fine = 8
    grid = (np.arange(size * fine) + 0.5) / fine
    inside = (grid[None] - centre[0]) ** 2 + (grid[:, None] - centre[1]) ** 2 < radius**2
    alpha = inside.reshape(size, fine, size, fine).mean((1, 3)).astype(np.float32)[..., None]
    rgb = np.broadcast_to(np.asarray(colour, np.float32), (size, size, 3))
    if background is None:
        return np.concatenate([rgb, alpha], -1)
    return rgb * alpha + np.asarray(background, np.float32) * (1 - alpha)


@pytest.mark.parametrize("background", [None, (1.0, 1.0, 1.0), (0.1, 0.6, 0.2)])
def test_centred_and_scaled(background):
    picture = disc(96, 20.0, (30.0, 60.0), (0.8, 0.1, 0.1), background)
    result = prepare.prepare_image(picture, 64, 0.75)
    assert result.shape == (64, 64, 4) and result.dtype == np.float32
    rows, columns = np.nonzero(result[..., 3] >= 0.5)
    assert abs((rows.min() + rows.max() + 1) / 2 - 32) <= 0.5
    assert abs((columns.min() + columns.max() + 1) / 2 - 32) <= 0.5
    assert abs(np.ptp(columns) + 1 - 48) <= 1
    solid = result[..., 3] > 0.5
    assert np.abs(result[solid][:, :3] - np.array([[0.8, 0.1, 0.1]])).max() < 0.06
    assert result[0, 0, 3] == 0.0


def test_disc_area_is_kept():
    result = prepare.prepare_image(disc(200, 70.0, (90.0, 110.0), (0.2, 0.3, 0.9)), 64, 0.7)
    radius = 0.7 * 64 / 2
    assert result[..., 3].sum() == pytest.approx(np.pi * radius**2, rel=0.03)


def test_large_picture_equals_small_one():
    large = prepare.prepare_image(disc(640, 200.0, (300.0, 340.0), (0.2, 0.3, 0.9)), 16, 0.75)
    small = prepare.prepare_image(disc(160, 50.0, (75.0, 85.0), (0.2, 0.3, 0.9)), 16, 0.75)
    assert np.abs(large - small)[..., 3].max() < 0.05


def test_mask_of_a_handle_is_open_and_specks_go():
    picture = np.ones((80, 80, 3), np.float32)
    picture[20:60, 20:60] = (0.7, 0.2, 0.1)
    picture[30:45, 30:45] = 1.0
    picture[2, 70] = 0.0
    mask = prepare.foreground_mask(picture)
    assert mask[25, 25] == 1.0 and mask[5, 5] == 0.0
    assert mask[37, 37] == 0.0, "the enclosed hole shows the background"
    assert mask[2, 70] == 0.0, "a speck is no object"


def test_mask_keeps_given_alpha():
    picture = disc(32, 10.0, (16.0, 16.0), (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(prepare.foreground_mask(picture), picture[..., 3])


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.ones((1, 1, 3), np.float32), "1x1 pixels"),
        (np.zeros((32, 32, 4), np.float32), "wholly transparent"),
        (np.ones((32, 32, 3), np.float32), "shows nothing"),
        (np.random.default_rng(0).random((32, 32, 3)).astype(np.float32), "not plain"),
        (disc(64, 2.0, (30.0, 30.0), (0.5, 0.5, 0.5)), "pixels large"),
        (np.pad(np.ones((4, 1800, 4), np.float32), ((8, 8), (100, 100), (0, 0))), "too thin"),
        (np.ones((32, 32), np.float32), "expected [height, width, 3 or 4]"),
    ],
)
def test_refusals(picture, words):
    with pytest.raises(prepare.ImageError) as caught:
        prepare.prepare_image(picture, 32, 0.8)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_read_round_trip_and_modes(tmp_path):
    picture = (disc(24, 8.0, (12.0, 12.0), (0.9, 0.5, 0.1)) * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal((prepare.read_image(tmp_path / "a.png") * 255).round(), picture)
    Image.fromarray(picture[..., :3]).convert("P").save(tmp_path / "p.png")
    assert prepare.read_image(tmp_path / "p.png").shape == (24, 24, 4)
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert prepare.read_image(tmp_path / "deep.png")[3, 3, 0] == pytest.approx(0.5, abs=1e-4)


def test_pictures_too_large_for_memory_are_refused_before_they_are_decoded(tmp_path):
    for side in (7_100, 9_600, 13_500):  # the last two are above the limits at which Pillow warns and refuses
        Image.new("1", (side, side)).save(tmp_path / "huge.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(prepare.ImageError, match="50 million pixels"):
                prepare.read_image(tmp_path / "huge.png")


def test_damaged_files(tmp_path):
    with pytest.raises(prepare.ImageError, match="missing"):
        prepare.read_image(tmp_path / "no.png")
    with pytest.raises(prepare.ImageError, match="missing"):
        prepare.read_image(tmp_path / (400 * "x"))
    with pytest.raises(prepare.ImageError, match="folder"):
        prepare.read_image(tmp_path)
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for length in (0, 4, 20, 40, 200, len(data) // 2, len(data) - 100):
        (tmp_path / "cut.png").write_bytes(data[:length])
        with pytest.raises(prepare.ImageError) as caught:
            prepare.read_image(tmp_path / "cut.png")
        assert "\n" not in str(caught.value)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(prepare.ImageError, match="not a readable picture"):
        prepare.read_image(tmp_path / "text.png")
