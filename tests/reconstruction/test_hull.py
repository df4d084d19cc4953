"""The start on the visual hull: a painted ball comes back in place, colour and orientation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.reconstruction import FitConfig, Targets, control, init_state, load_state, save_state, surface
from im3d_jax.reconstruction.hull import carve, covered
from im3d_jax.reconstruction.presets import HullStart, with_start
from splat.math import quaternion_to_rotation
from splat.strategies import DefaultStrategy


SIDE, RADIUS = 48, 0.5
START = HullStart(count=600)


def paint(points):
    """Colours of places."""
    return 0.5 + 0.8 * points


@pytest.fixture(scope="module")
def cameras():
    return splat.orbit_cameras(0.3, views=8, width=SIDE, height=SIDE)


@pytest.fixture(scope="module")
def rgba(cameras):
    """Views of a painted ball around the origin, each pixel's ray intersected with it."""
    focal, views = float(cameras.intrinsics[0, 0, 0]), []
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    local = np.stack([(x - SIDE / 2) / focal, (y - SIDE / 2) / focal, np.ones_like(x)], -1)
    for pose, eye in zip(np.asarray(cameras.world_to_camera), np.asarray(cameras.positions), strict=True):
        ray = local @ pose[:3, :3]
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        along = -ray @ eye
        inside = along**2 - eye @ eye + RADIUS**2
        hit = eye + (along - np.sqrt(np.maximum(inside, 0)))[..., None] * ray
        views.append(np.concatenate([paint(hit) * (inside > 0)[..., None], (inside > 0)[..., None]], -1))
    return np.stack(views).astype(np.float32)


@pytest.fixture(scope="module")
def grid(rgba, cameras):
    return carve(rgba, cameras, np.zeros(3), 1.0)


@pytest.fixture(scope="module")
def ball(grid, rgba, cameras):
    return surface.surface_of(grid, rgba, cameras, START.count)


def test_the_fine_grid_is_the_hull(grid, rgba, cameras):
    distance = np.linalg.norm(grid.world(np.indices(grid.values.shape).transpose(1, 2, 3, 0)), axis=-1)
    inside = grid.values > 0.5
    # All of the ball is inside, and what is more lies above and below, where no mask excludes it.
    assert inside[distance < RADIUS - grid.cell].all() and not inside[distance > 1.25 * RADIUS].any()
    assert covered(grid, rgba, cameras) > 0.97
    exact = carve(rgba[:4], cameras[:4], np.zeros(3), 1.0, against=4).values > 0.5
    assert (exact >= (carve(rgba[:4], cameras[:4], np.zeros(3), 1.0).values > 0.5)).all()
    failed = np.concatenate([rgba[:7], np.zeros_like(rgba[:1])])
    assert covered(carve(failed, cameras, np.zeros(3), 1.0), rgba, cameras) > 0.97


def test_points_lie_on_the_ball_and_know_its_colours(ball):
    distance = np.linalg.norm(ball.points, axis=-1)
    middle = ball.seen & (np.abs(ball.points[:, 2]) < 0.25)
    assert len(ball.points) == START.count and middle.sum() > 200
    # Eight views leave an eight-sided column around the equator.
    assert distance[middle].min() > RADIUS - 0.02 and distance[middle].max() < RADIUS / math.cos(math.pi / 8) + 0.02
    outward = ball.points / distance[:, None]
    assert (ball.normals * outward).sum(-1)[middle].min() > 0.9
    np.testing.assert_allclose(ball.colours[middle], paint(RADIUS * outward[middle]), atol=0.1)
    # 600 points share the sphere's area.
    assert 0.5 < np.median(ball.spacing) / math.sqrt(4 * math.pi * RADIUS**2 / START.count) < 1.2


def test_below_it_is_closed_and_coloured_like_its_surroundings(ball):
    hidden = ~ball.seen
    assert hidden.sum() > 10 and ball.points[hidden][:, 2].max() < 0
    # No cone: the membrane ends where the views' knowledge ends.
    assert ball.points[hidden][:, 2].min() > ball.points[ball.seen][:, 2].min() - 0.05
    assert np.linalg.norm(ball.points[hidden][:, :2], axis=-1).min() < 0.1
    assert ball.normals[hidden][:, 2].mean() < -0.8
    border = ball.seen & (ball.points[:, 2] < ball.points[hidden][:, 2].max())
    low, high = ball.colours[border].min(0), ball.colours[border].max(0)
    assert ((ball.colours[hidden] > low - 0.02) & (ball.colours[hidden] < high + 0.02)).all()


def test_fits_start_there_unless_the_masks_contradict_each_other(rgba, cameras):
    config = FitConfig(capacity=700, initial=300, hull=START)
    state = init_state(jax.random.key(0), config, cameras, targets=Targets(jnp.asarray(rgba)))
    count = int(state.active.sum())
    assert count == START.count
    scales = np.asarray(state.gaussians.scales[:count])
    np.testing.assert_allclose(scales[:, 2] / scales[:, 0], START.thickness / START.width, rtol=1e-4)
    axes = np.asarray(quaternion_to_rotation(state.gaussians.quats[:count]))[..., 2]
    outward = np.asarray(state.gaussians.means[:count])
    middle = np.abs(outward[:, 2]) < 0.25
    assert ((axes * outward).sum(-1) / np.linalg.norm(outward, axis=-1))[middle].min() > 0.9
    shifted = np.stack([np.roll(view, 30 * (index % 2), axis=1) for index, view in enumerate(rgba)])
    for images in (shifted, np.zeros_like(rgba)):
        state = init_state(jax.random.key(0), config, cameras, targets=Targets(jnp.asarray(images)))
        assert int(state.active.sum()) == config.initial


def test_one_wrong_view_hardly_moves_the_mean():
    colours = np.full((5, 1, 3), 0.3)
    colours[4] = 0.9
    weights = np.ones((5, 1))
    assert np.abs(surface.robust_mean(colours, weights) - 0.3).max() < 0.02
    np.testing.assert_allclose(surface.robust_mean(colours[:2] + 0.1, weights[:2]), 0.4)


def test_the_fill_is_harmonic():
    chain = np.stack([np.maximum(np.arange(9) - 1, 0), np.minimum(np.arange(9) + 1, 8)], -1)
    known = np.isin(np.arange(9), (0, 8))
    values = np.where(known, np.arange(9.0), 0)[:, None]
    np.testing.assert_allclose(surface.fill(values, known, chain)[:, 0], np.arange(9), atol=1e-3)


def test_the_start_is_a_choice():
    config = FitConfig(capacity=500, initial=100)
    hull = with_start(config, "hull")
    assert with_start(config, "auto") is config and with_start(config, "ball") is config
    assert hull.hull is not None and hull.hull.count == 500 and with_start(hull, "ball") == config
    with pytest.raises(ValueError, match=r"hull\.count=501; expected 1 to capacity=500"):
        dataclasses.replace(config, hull=HullStart(count=501))


def test_the_density_control_leaves_such_fits_alone(rgba, cameras, tmp_path):
    config = FitConfig(
        capacity=700,
        initial=300,
        hull=START,
        densify_from=0,
        densify_every=1,
        strategy=DefaultStrategy(min_opacity=0.9),
    )
    for images, started in ((rgba, True), (np.zeros_like(rgba), False)):
        state = init_state(jax.random.key(0), config, cameras, targets=Targets(jnp.asarray(images)))
        save_state(tmp_path / "fit.npz", state)
        # Every gaussian is fainter than the strategy allows.
        after = control.act(load_state(tmp_path / "fit.npz", config), 5, config)
        assert bool(after.active.any()) is started
