"""Targets after a refinement: former ones stay where the render confirms them."""

import numpy as np
import pytest

from im3d_jax.images.alpha import premultiply
from im3d_jax.reconstruction.refresh import Refresh, agreement, refreshed


SETTINGS = Refresh(tolerance=0.15, reach=0.05)


@pytest.fixture
def views():
    """Four views [40, 40] of a striped square."""
    images = np.zeros((4, 40, 40, 4), np.float32)
    images[:, 8:32, 8:32] = 0.5, 0.4, 0.3, 1.0
    images[:, 8:32:2, 8:32, :3] += 0.1
    return images


def test_what_renders_confirm_stays(views):
    drawn = np.clip(views * 0.97, 0, 1)
    new = refreshed(views, drawn, views, SETTINGS)
    np.testing.assert_allclose(new.images, views, atol=1e-6)
    assert new.rejected == () and new.kept.min() > 0.999


def test_what_all_renders_contradict_is_drawn_anew(views):
    """View 2 shows another object in its right half: the fit and the model do not follow it there."""
    damaged = views.copy()
    damaged[2, :, 20:, :3] = (0.0, 1.0, 1.0)
    damaged[2, :, 20:, 3] = 1.0
    new = refreshed(damaged, views, views, SETTINGS)
    np.testing.assert_allclose(premultiply(new.images)[2, :, 28:], premultiply(views)[2, :, 28:], atol=0.02)
    np.testing.assert_allclose(new.images[2, 10:30, 8:12], views[2, 10:30, 8:12], atol=0.02)
    np.testing.assert_allclose(new.images[[0, 1, 3]], views[[0, 1, 3]], atol=1e-6)
    assert new.rejected == () and new.kept[2] < 0.5 < new.kept[1]


def test_a_difference_of_the_tolerance_weighs_both_alike(views):
    other = np.clip(views + np.float32(SETTINGS.tolerance) * np.array([1, 1, 1, 0], np.float32), 0, 1)
    opaque = [np.concatenate([part[..., :3], np.ones_like(part[..., 3:])], -1) for part in (other, views)]
    # Alpha agrees, so that three of four channels differ.
    expected = 1 / (1 + 0.75**2)
    np.testing.assert_allclose(agreement(opaque[0], opaque[1], SETTINGS)[:, 16:24, 16:24], expected, atol=0.01)


def test_blur_is_refused_and_view_0_is_kept(views):
    blurred = views.copy()
    blurred[:, 8:32, 8:32] = 0.55, 0.45, 0.35, 1.0
    elsewhere = np.roll(views, 20, axis=2)
    sharp = blurred.copy()
    sharp[3] = views[3][::-1]
    new = refreshed(views, sharp, elsewhere, Refresh(tolerance=0.01, reach=0.5, least_sharpness=0.7))
    assert new.rejected == (1, 2)
    np.testing.assert_array_equal(new.images[:3], views[:3])
    np.testing.assert_allclose(new.images[3], sharp[3], atol=1e-3)
    assert new.facts() == {"rejected": [1, 2], "kept": [1.0, 1.0, 1.0, pytest.approx(0, abs=0.01)]}
