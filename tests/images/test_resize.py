"""Smaller pictures: block means and antialiased resampling that lets no background bleed in."""

import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.images.resize import block_mean, resample_window, resize, shrink


def test_block_means():
    images = np.arange(2 * 5 * 7 * 3, dtype=np.float32).reshape(2, 5, 7, 3)
    made = block_mean(images, 2)
    assert made.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(made[1, 1, 2], images[1, 2:4, 4:6].mean((0, 1)))
    np.testing.assert_allclose(block_mean(jnp.asarray(images), 2), made)
    assert block_mean(images, 1) is images


def square(side=32):
    """A red square on transparent green."""
    rgba = np.zeros((side, side, 4), np.float32)
    rgba[..., 1] = 1.0
    rgba[side // 4 : -side // 4, side // 4 : -side // 4] = 1.0, 0.0, 0.0, 1.0
    return rgba


@pytest.mark.parametrize("scale", [lambda rgba: shrink(rgba, 3), lambda rgba: resize(rgba, 11, 9)])
def test_no_colour_bleeds_from_where_nothing_is(scale):
    made = scale(square())
    assert made.dtype == np.float32 and made[..., 1].max() < 1e-3
    seen = made[..., 3] > 0.01
    np.testing.assert_allclose(made[seen][:, 0], 1.0, atol=1e-3)


def test_sizes():
    assert resize(square(), 20, 12).shape == (12, 20, 4)
    assert shrink(np.stack([square()] * 2), 4).shape == (2, 8, 8, 4)
    assert shrink(square(), 1).shape == (32, 32, 4)


def test_a_window_beyond_the_picture_is_empty_there():
    image = np.ones((8, 8, 4), np.float32)
    made = resample_window(image, 16, left=-8.0, top=-8.0, window=16.0)
    assert made.shape == (16, 16, 4)
    np.testing.assert_allclose(made[9:, 9:], 1.0, atol=1e-3)
    np.testing.assert_allclose(made[:7, :7], 0.0, atol=1e-3)
