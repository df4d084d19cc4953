"""Pictures of finished assets."""

import numpy as np
import pytest

from im3d_jax.output.renders import render_views, turntable_cameras
from splat import Gaussians, orbit_cameras, render


@pytest.fixture(scope="module")
def gaussians():
    rng = np.random.default_rng(0)
    return Gaussians(
        means=np.asarray(rng.normal(size=(40, 3)) * 0.3, np.float32),
        quats=np.asarray(rng.normal(size=(40, 4)), np.float32),
        log_scales=np.full((40, 3), -2.5, np.float32),
        opacity_logits=np.full((40,), 1.0, np.float32),
        sh=np.asarray(rng.normal(size=(40, 1, 3)) * 0.5, np.float32),
    )


def test_padding_and_batches_change_nothing(gaussians):
    cameras = orbit_cameras(0.3, views=10, width=20, height=24)
    rgba = render_views(gaussians, cameras)
    assert rgba.shape == (10, 24, 20, 4) and rgba.dtype == np.float32
    direct = render(gaussians, cameras, background=1.0)
    np.testing.assert_allclose(rgba[..., 3], direct.alpha, atol=1e-6)
    composited = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    clear = np.asarray(direct.rgb).max(-1) < 1.0  # colours above 1 are clipped in a picture
    assert clear.mean() > 0.2
    np.testing.assert_allclose(composited[clear], np.asarray(direct.rgb)[clear], atol=2e-2)


def test_turntable_of_the_rig_is_the_rig():
    cameras = orbit_cameras(0.4, views=16, width=32, height=32)
    again = turntable_cameras(cameras, 16)
    np.testing.assert_allclose(again.world_to_camera, cameras.world_to_camera, atol=1e-4)
    np.testing.assert_allclose(again.intrinsics, cameras.intrinsics, atol=1e-4)
    fine = turntable_cameras(cameras, 48, scale=2.0)
    assert len(fine) == 48 and (fine.width, fine.height) == (64, 64)
    np.testing.assert_allclose(fine.world_to_camera[::3], cameras.world_to_camera, atol=1e-4)
    np.testing.assert_allclose(fine.intrinsics[0, :2], 2 * cameras.intrinsics[0, :2], atol=1e-4)


def test_turntable_of_parallel_cameras_is_finite():
    cameras = orbit_cameras(0.0, views=1, width=16, height=16)[np.zeros(3, int)]
    assert np.isfinite(np.asarray(turntable_cameras(cameras, 4).world_to_camera)).all()
