"""Where fits start: geometry of the cameras, hulls and given points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.reconstruction import FitConfig, Targets, init_state, initial


@pytest.fixture(scope="module")
def cameras():
    """A turntable around (1, 2, 3)."""
    orbit = splat.orbit_cameras(0.4, views=8, width=24, height=24)
    shift = jnp.einsum("vij,j->vi", orbit.world_to_camera[:, :3, :3], jnp.array([1.0, 2.0, 3.0]))
    return orbit.replace(world_to_camera=orbit.world_to_camera.at[:, :3, 3].add(-shift))


def test_cameras_tell_centre_extent_and_seen_radius(cameras):
    np.testing.assert_allclose(initial.look_centre(cameras), [1, 2, 3], atol=1e-3)
    np.testing.assert_allclose(initial.camera_extent(cameras), 1.1 * 3.44 * math.cos(0.4), rtol=1e-4)
    # The rig is made so that the unit sphere just fits.
    np.testing.assert_allclose(initial.seen_radius(cameras), 1.0, atol=2e-3)


def test_hull_of_a_ball_is_about_that_ball(cameras):
    columns, rows = np.meshgrid(np.arange(24) + 0.5, np.arange(24) + 0.5)
    focal = float(cameras.intrinsics[0, 0, 0])
    disc = np.hypot(columns - 12, rows - 12) < focal * math.tan(math.asin(0.5 / 3.44))
    rgba = np.repeat(np.concatenate([np.zeros((24, 24, 3)), disc[..., None]], -1)[None], 8, 0)
    points = initial.hull_points(jax.random.key(0), rgba, cameras, 500)
    distance = np.linalg.norm(points - np.array([1.0, 2, 3])[None], axis=-1)
    assert len(points) == 500 and distance.max() < 0.8 and np.mean(distance < 0.6) > 0.9


def test_captures_start_where_all_cameras_look(cameras):
    config = FitConfig(capacity=300, initial=200, extent=None)
    opaque = Targets(jnp.ones((8, 24, 24, 4)))
    nothing = Targets(jnp.zeros((8, 24, 24, 4)))
    for targets in (None, opaque, nothing):
        state = init_state(jax.random.key(0), config, cameras, targets=targets)
        offset = np.asarray(state.gaussians.means[:200]) - np.array([1.0, 2, 3])[None]
        assert int(state.active.sum()) == 200 and np.linalg.norm(offset, axis=-1).max() < 1.01
        np.testing.assert_allclose(state.extent, 1.1 * 3.44 * math.cos(0.4), rtol=1e-4)


def test_given_points_get_the_scale_of_their_spacing():
    grid = np.stack(np.meshgrid(*[np.arange(4) * 0.1] * 3), -1).reshape(-1, 3)
    gaussians, active = initial.initial_gaussians(
        jax.random.key(0), FitConfig(capacity=100, initial=10, sh_degree=1), 1.0, grid
    )
    assert int(active.sum()) == 64 and gaussians.sh.shape == (100, 4, 3)
    np.testing.assert_allclose(gaussians.scales[:64], 0.1, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\[n, 3\]"):
        initial.initial_gaussians(jax.random.key(0), FitConfig(), 1.0, np.zeros((5, 2)))
