"""Masks of views that have alpha and of views that do not."""

import numpy as np

from im3d_jax.reconstruction import masks


def test_alpha_is_kept_and_plain_backgrounds_are_cut():
    columns, rows = np.meshgrid(np.arange(40), np.arange(40))
    disc = np.hypot(columns - 20, rows - 20) < 10
    plain = np.where(disc[..., None], np.array([0.8, 0.1, 0.1]), 1.0).astype(np.float32)
    alpha = masks.with_alpha(plain[None])[0, ..., 3]
    assert np.abs(alpha - disc).mean() < 0.03
    given = np.concatenate([plain, 0.25 * np.ones_like(plain[..., :1])], -1)
    np.testing.assert_array_equal(masks.with_alpha(given[None])[0], given)
