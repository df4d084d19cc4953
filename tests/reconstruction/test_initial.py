"""Where fits start: geometry of the cameras, hulls and given points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.reconstruction import FitConfig, Targets, init_state, initial
from splat.lenses import image_points


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


@pytest.mark.parametrize(
    ("model", "coefficients"), [("pinhole", [0.3, 0.1, 0.01, -0.01]), ("fisheye", [0.1, -0.05, 0.0, 0.0])]
)
def test_the_hull_follows_the_lens(model, coefficients):
    """Masks of a ball of radius 0.5 seen through a bent lens: its hull is that ball and little more."""
    cameras = splat.orbit_cameras(0.4, views=8, width=64, height=64)
    cameras = cameras.replace(model=model, distortion=jnp.tile(jnp.asarray(coefficients)[None], (8, 1)))
    rng = np.random.default_rng(0)
    surface = rng.normal(size=(20_000, 3))
    surface = jnp.asarray(0.5 * surface / np.linalg.norm(surface, axis=-1, keepdims=True), jnp.float32)
    local = jnp.einsum("vij,nj->vni", cameras.world_to_camera[:, :3, :3], surface)
    image = image_points(cameras, *jnp.moveaxis(local + cameras.world_to_camera[:, None, :3, 3], -1, 0))
    rgba = np.zeros((8, 64, 64, 4), np.float32)
    for view in range(8):
        rgba[view, np.floor(image.v[view]).astype(int), np.floor(image.u[view]).astype(int)] = 1.0
    points = initial.hull_points(jax.random.key(0), rgba, cameras, 400)
    distance = np.linalg.norm(points, axis=-1)
    assert len(points) > 100 and np.mean(distance < 0.58) > 0.9 and np.quantile(distance, 0.9) > 0.4


def test_points_bring_their_colours_and_surplus_ones_are_drawn_at_random():
    config = FitConfig(capacity=50, initial=50, sh_degree=1)
    points = np.stack([np.arange(200.0), np.zeros(200), np.zeros(200)], -1)
    colours = np.stack([points[:, 0] / 200, np.full(200, 0.5), np.zeros(200)], -1)
    gaussians, active = initial.initial_gaussians(jax.random.key(0), config, 100.0, points, colours)
    assert active.all() and len(np.unique(gaussians.means[:, 0])) == 50 and gaussians.means[:, 0].max() > 150
    shown = 0.5 + 0.28209479 * gaussians.sh[:, 0]
    np.testing.assert_allclose(shown[:, 0], gaussians.means[:, 0] / 200, atol=1e-5)
    np.testing.assert_allclose(shown[:, 1:], np.tile([[0.5, 0.0]], (50, 1)), atol=1e-6)
    assert not gaussians.sh[:, 1:].any()


def seen_everywhere(cameras, points):
    """Share of points that each view sees, by projection with the camera's matrix."""
    matrices = np.asarray(cameras.world_to_camera, np.float64)
    local = np.einsum("vij,nj->vni", matrices[:, :3, :3], points) + matrices[:, None, :3, 3]
    pixel = np.einsum("vij,vnj->vni", np.asarray(cameras.intrinsics, np.float64), local)
    pixel = pixel[..., :2] / pixel[..., 2:]
    inside = (pixel >= 0) & (pixel <= [cameras.width, cameras.height])
    return (inside.all(axis=-1) & (local[..., 2] > 0)).mean(axis=1)


@pytest.mark.parametrize(
    ("width", "height", "centre", "aside"),
    [
        (32, 18, None, 0.0),
        (18, 32, None, 0.0),
        (24, 24, (8.0, 15.0), 0.0),
        (32, 18, (10.0, 5.0), 0.0),
        (32, 18, None, 0.05),
        (24, 24, (14.0, 11.0), 0.05),
    ],
)
def test_the_ball_that_all_views_see(width, height, centre, aside):
    """Pictures that are not square, principal points off the middle, cameras that look a little past the centre."""
    cameras = splat.orbit_cameras(0.4, views=8, width=width, height=height)
    if centre is not None:
        moved = cameras.intrinsics.at[:, 0, 2].set(centre[0]).at[:, 1, 2].set(centre[1])
        cameras = cameras.replace(intrinsics=moved)
    # Turned about the vertical axis of each camera, alternately to the left and to the right.
    angles = aside * (-1.0) ** np.arange(8)
    turns = np.stack(
        [[[np.cos(a), 0, np.sin(a), 0], [0, 1, 0, 0], [-np.sin(a), 0, np.cos(a), 0], [0, 0, 0, 1]] for a in angles]
    )
    cameras = cameras.replace(world_to_camera=jnp.asarray(turns @ np.asarray(cameras.world_to_camera), jnp.float32))
    middle, radius = initial.look_centre(cameras), initial.seen_radius(cameras)
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    assert seen_everywhere(cameras, middle[None] + 0.999 * radius * directions).min() == 1.0
    # And no larger one.
    assert seen_everywhere(cameras, middle[None] + 1.05 * radius * directions).min() < 1.0


def test_cameras_that_look_outwards_leave_a_ball():
    cameras = splat.orbit_cameras(0.0, views=8, width=24, height=24)
    back = jnp.asarray(np.diag([-1.0, 1.0, -1.0, 1.0]), jnp.float32)
    turned = cameras.replace(world_to_camera=back[None] @ cameras.world_to_camera)
    assert 0.4 < initial.seen_radius(turned) < 0.6
    fisheye = splat.orbit_cameras(0.4, views=8, width=32, height=18).replace(
        model="fisheye", distortion=jnp.zeros((8, 4))
    )
    focal = float(fisheye.intrinsics[0, 1, 1])
    np.testing.assert_allclose(initial.seen_radius(fisheye), 3.44 * math.sin(9 / focal), rtol=1e-3)


def test_masked_pixels_say_nothing_of_the_hull(cameras):
    rgba = np.zeros((8, 24, 24, 4), np.float32)
    rgba[1:, ..., 3] = 1.0
    valid = np.ones((8, 24, 24), bool)
    valid[0] = False
    assert len(initial.hull_points(jax.random.key(0), rgba, cameras, 100)) < 100
    assert len(initial.hull_points(jax.random.key(0), rgba, cameras, 100, valid)) == 100
