"""Alpha for views on white: plain backgrounds, and views whose background failed."""

import numpy as np

from im3d_jax.images import mattes


def test_alpha_is_cut_from_a_plain_background():
    columns, rows = np.meshgrid(np.arange(40), np.arange(40))
    disc = np.hypot(columns - 20, rows - 20) < 10
    plain = np.where(disc[..., None], np.array([0.8, 0.1, 0.1]), 1.0).astype(np.float32)
    cut, uneven = mattes.cut_out_views(plain[None])
    assert uneven == 0 and np.abs(cut[0, ..., 3] - disc).mean() < 0.03


def test_mattes():
    view = np.ones((48, 48, 3), np.float32)
    y, x = np.mgrid[:48, :48] - 23.5
    view[np.hypot(x, y) < 14] = 0.9, 0.3, 0.2
    view[22:24, 22:24] = 1.0  # a highlight
    uneven = view.copy()
    uneven[:, :9] = np.random.default_rng(0).uniform(0, 1, (48, 9, 3))
    uneven[0], uneven[-1], uneven[:, -1] = 0.4, 0.6, 0.2
    cut, count = mattes.cut_out_views(np.stack([view, uneven]))
    assert count == 1 and cut.shape == (2, 48, 48, 4)
    inside = np.hypot(x, y) < 11
    assert (cut[1, ..., 3][inside] > 0.99).all()
    inside &= np.hypot(x, y) > 4
    for one in cut:
        assert (one[..., 3][inside] > 0.99).all()
        np.testing.assert_allclose(one[inside][:, :3], np.tile([0.9, 0.3, 0.2], (inside.sum(), 1)), atol=1e-6)
    assert (cut[0, ..., 3][np.hypot(x, y) > 16] == 0).all()
    assert (cut[1, 2:6, 40:46, 3] == 0).all(), "white stays background where the border is uneven"
