"""Preparing users' pictures: refusals, cut-outs, and where and how large the object ends up."""

import numpy as np
import pytest

from im3d_jax.errors import ImageError
from im3d_jax.images.cutout import foreground_mask
from im3d_jax.images.prepare import prepare_image


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
    result = prepare_image(picture, 64, 0.75)
    assert result.shape == (64, 64, 4) and result.dtype == np.float32
    rows, columns = np.nonzero(result[..., 3] >= 0.5)
    assert abs((rows.min() + rows.max() + 1) / 2 - 32) <= 0.5
    assert abs((columns.min() + columns.max() + 1) / 2 - 32) <= 0.5
    assert abs(np.ptp(columns) + 1 - 48) <= 1
    solid = result[..., 3] > 0.5
    assert np.abs(result[solid][:, :3] - np.array([[0.8, 0.1, 0.1]])).max() < 0.06
    assert result[0, 0, 3] == 0.0


def test_disc_area_is_kept():
    result = prepare_image(disc(200, 70.0, (90.0, 110.0), (0.2, 0.3, 0.9)), 64, 0.7)
    radius = 0.7 * 64 / 2
    assert result[..., 3].sum() == pytest.approx(np.pi * radius**2, rel=0.03)


def test_large_picture_equals_small_one():
    large = prepare_image(disc(640, 200.0, (300.0, 340.0), (0.2, 0.3, 0.9)), 16, 0.75)
    small = prepare_image(disc(160, 50.0, (75.0, 85.0), (0.2, 0.3, 0.9)), 16, 0.75)
    assert np.abs(large - small)[..., 3].max() < 0.05


def test_mask_of_a_handle_is_open_and_specks_go():
    picture = np.ones((80, 80, 3), np.float32)
    picture[20:60, 20:60] = (0.7, 0.2, 0.1)
    picture[30:45, 30:45] = 1.0
    picture[2, 70] = 0.0
    mask = foreground_mask(picture)
    assert mask[25, 25] == 1.0 and mask[5, 5] == 0.0
    assert mask[37, 37] == 0.0, "the enclosed hole shows the background"
    assert mask[2, 70] == 0.0, "a speck is no object"


def test_mask_keeps_given_alpha():
    picture = disc(32, 10.0, (16.0, 16.0), (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(foreground_mask(picture), picture[..., 3])


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.ones((1, 1, 3), np.float32), "1x1 pixels"),
        (np.zeros((32, 32, 4), np.float32), "entirely transparent"),
        (np.ones((32, 32, 3), np.float32), "shows only its plain background"),
        (np.random.default_rng(0).random((32, 32, 3)).astype(np.float32), "not plain"),
        (disc(64, 2.0, (30.0, 30.0), (0.5, 0.5, 0.5)), "pixels large"),
        (np.pad(np.ones((4, 1800, 4), np.float32), ((8, 8), (100, 100), (0, 0))), "too thin"),
        (np.ones((32, 32), np.float32), "expected [height, width, 3 or 4]"),
    ],
)
def test_refusals(picture, words, unchecked):
    with pytest.raises(ImageError) as caught:
        prepare_image(picture, 32, 0.8)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("stray", [254 / 255, 0.5, 0.0])
@pytest.mark.parametrize("pixels", [(slice(3, 4), slice(5, 6)), (slice(0, 1), slice(0, 3))])
def test_a_stray_alpha_does_not_make_the_picture_an_object(stray, pixels):
    plain = disc(64, 16.0, (30.0, 34.0), (0.8, 0.1, 0.1), (1.0, 1.0, 1.0))
    picture = np.concatenate([plain, np.ones((64, 64, 1), np.float32)], -1)
    picture[(*pixels, 3)] = stray
    np.testing.assert_array_equal(foreground_mask(picture), foreground_mask(plain))
    np.testing.assert_array_equal(prepare_image(picture, 32, 0.8), prepare_image(plain, 32, 0.8))
    picture[..., 3] = max(stray, 0.5)
    np.testing.assert_array_equal(foreground_mask(picture), foreground_mask(plain))


def test_small_holes_of_a_cut_out_count():
    """An object that fills nearly all of the picture."""
    picture = np.ones((64, 64, 4), np.float32)
    picture[0, :8, 3] = 0.0
    np.testing.assert_array_equal(foreground_mask(picture), picture[..., 3])
