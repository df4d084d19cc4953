"""Gaussians in front of background go, those of the object stay, and so does everything without masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.pipelines import bundle
from im3d_jax.reconstruction import (
    FitConfig,
    Targets,
    capture_config,
    final_gaussians,
    fit,
    fitting,
    init_state,
    outside,
    poses,
)


SIZE, VIEWS, RADIUS, FLOATERS = 32, 8, 0.5, 12
CONFIG = FitConfig(steps=6, capacity=256, initial=200, initial_radius=RADIUS, outside_views=2, check_every=3)


@pytest.fixture(scope="module")
def cameras():
    return splat.orbit_cameras(0.3, views=VIEWS, width=SIZE, height=SIZE)


def disc_views(cameras, radius=RADIUS):
    """Masks of a ball at the origin, by the angle between each pixel's ray and the way to the ball's centre."""
    focal, distance = float(cameras.intrinsics[0, 0, 0]), float(np.linalg.norm(cameras.positions[0]))
    columns, rows = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    disc = np.hypot(columns - SIZE / 2, rows - SIZE / 2) < focal * np.tan(np.arcsin(radius / distance))
    return np.tile(np.concatenate([np.full((SIZE, SIZE, 3), 0.5), disc[..., None]], -1)[None], (VIEWS, 1, 1, 1))


@pytest.fixture(scope="module")
def rgba(cameras):
    return disc_views(cameras).astype(np.float32)


@pytest.fixture(scope="module")
def state(cameras):
    """A ball of 200 gaussians that fills the masks, and 12 gaussians round it in the air."""
    state = init_state(jax.random.key(0), CONFIG, cameras)
    angle = np.linspace(0.0, 2.0 * np.pi, FLOATERS, endpoint=False)
    ring = 0.8 * np.stack([np.cos(angle), np.sin(angle), np.zeros(FLOATERS)], -1)
    # Rows behind the 200 were free.
    rows = slice(200, 200 + FLOATERS)
    means = state.gaussians.means.at[rows].set(jnp.asarray(ring, jnp.float32))
    scales = state.gaussians.log_scales.at[rows].set(np.log(0.03))
    gaussians = state.gaussians.replace(means=means, log_scales=scales)
    return state.replace(gaussians=gaussians, active=state.active.at[rows].set(True))


def test_floaters_go_and_the_object_stays(state, cameras, rgba):
    after = outside.remove(state, Targets(jnp.asarray(rgba)), cameras, CONFIG)
    active = np.asarray(after.active)
    assert active[:200].all() and not active[200:].any()
    jax.tree.map(np.testing.assert_array_equal, after.gaussians, state.gaussians)
    again = outside.remove(after, Targets(jnp.asarray(rgba)), cameras, CONFIG)
    np.testing.assert_array_equal(again.active, active)


def test_views_are_counted_by_the_rays_that_pass_the_ball(state, cameras, rgba):
    """Independent of pixels: a centre is in front of background where its line of sight misses the ball."""
    means, eyes = np.asarray(state.gaussians.means[200:212]), np.asarray(cameras.positions)
    ray = means[:, None] - eyes[None]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    miss = np.linalg.norm(np.cross(np.broadcast_to(eyes[None], ray.shape), ray), axis=-1)
    # Two pixels of doubt at the rim: the margin of one, and one for the discs' steps.
    doubt = 2.5 * np.linalg.norm(eyes[0]) / float(cameras.intrinsics[0, 0, 0])
    count = outside.views_against(means, rgba, cameras)
    assert np.all(count >= (miss > RADIUS + doubt).sum(1)) and np.all(count <= (miss > RADIUS).sum(1))
    assert count.min() >= 2


def test_it_takes_as_many_views_as_the_settings_say(state, cameras, rgba, monkeypatch):
    """One view whose mask lacks half of the object takes nothing away while two are asked for."""
    faulty = rgba.copy()
    faulty[3, :, : SIZE // 2, 3] = 0.0
    targets = Targets(jnp.asarray(faulty))
    assert np.asarray(outside.remove(state, targets, cameras, CONFIG).active)[:200].all()
    one = dataclasses.replace(CONFIG, outside_views=1)
    # That would be half of the object: then the mask is wrong.
    np.testing.assert_array_equal(outside.remove(state, targets, cameras, one).active, state.active)
    monkeypatch.setattr(outside, "MOST_OPACITY", 1.0)
    assert 50 < np.asarray(outside.remove(state, targets, cameras, one).active)[:200].sum() < 150


@pytest.mark.parametrize("case", ["opaque", "empty", "off"])
def test_nothing_goes_without_masks(state, cameras, rgba, case):
    targets = {"opaque": np.ones_like(rgba), "empty": np.zeros_like(rgba), "off": rgba}[case]
    config = dataclasses.replace(CONFIG, outside_views=0) if case == "off" else CONFIG
    after = outside.remove(state, Targets(jnp.asarray(targets)), cameras, config)
    np.testing.assert_array_equal(after.active, state.active)


def test_masks_that_contradict_each_other_take_nothing(state, cameras):
    corner = np.zeros((VIEWS, SIZE, SIZE, 4), np.float32)
    corner[:, :2, :2, 3] = 1.0
    after = outside.remove(state, Targets(jnp.asarray(corner)), cameras, CONFIG)
    np.testing.assert_array_equal(after.active, state.active)


def test_background_keeps_a_pixel_from_the_object():
    alpha = np.zeros((7, 7), np.float32)
    alpha[3, 3] = 0.06
    expected = np.ones((7, 7), bool)
    expected[2:5, 2:5] = False
    np.testing.assert_array_equal(outside.background(alpha), expected)
    alpha[3, 3] = 0.04
    assert not outside.background(alpha).any()


def test_masks_that_failed_do_not_count(state, cameras, rgba):
    """Two views of which segmentation left a pixel; the others still say where the air is."""
    failed = rgba.copy()
    failed[2:4, ..., 3] = 0.0
    failed[2:4, 5, 5, 3] = 1.0
    active = np.asarray(outside.remove(state, Targets(jnp.asarray(failed)), cameras, CONFIG).active)
    assert active[:200].all() and not active[200:].any()


def test_cameras_are_those_that_the_fit_moved(state, cameras, rgba, monkeypatch):
    """Turned away by more than the ball, all but the first camera see it in front of background."""
    monkeypatch.setattr(outside, "MOST_OPACITY", 1.0)
    turned = jnp.zeros((VIEWS, 6)).at[1:, 1].set(0.3)
    away = state.replace(poses=poses.still(VIEWS).replace(motions=turned))
    lost = np.asarray(outside.remove(away, Targets(jnp.asarray(rgba)), cameras, CONFIG).active)[:200]
    assert lost.sum() < 150


def test_a_fit_removes_at_its_last_step_only_and_once(state, cameras, rgba, monkeypatch):
    """With steps that only count: whole, stopped and resumed fits end alike, and observers see what is returned."""

    def count(state, targets, cameras, network, kept, config, length, looped):
        return state.replace(step=state.step + length), {"loss": 0.0, "gaussians": int(state.active.sum())}

    monkeypatch.setattr(fitting, "_segment", count)
    targets, seen, notes = Targets(jnp.asarray(rgba)), [], []
    whole, info = fit(
        state, targets, cameras, CONFIG, observe=seen.append, progress=lambda *call: notes.append(call[2])
    )
    assert [int(each.active.sum()) for each in seen] == [200 + FLOATERS, 200]
    assert info["gaussians"] == 200 == len(final_gaussians(whole)) and "200 gaussians" in notes[-1]
    half, _ = fit(state, targets, cameras, CONFIG, stop_step=4)
    assert int(half.active.sum()) == 200 + FLOATERS
    for begin in (half, *seen):
        resumed, _ = fit(begin, targets, cameras, CONFIG)
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_generated_views_are_cleaned_and_captures_are_not():
    assert all(quality.fit.outside_views == 2 for quality in bundle.QUALITIES.values())
    assert capture_config().outside_views == capture_config(random_background=True).outside_views == 0
    with pytest.raises(ValueError, match="outside_views=-1"):
        FitConfig(outside_views=-1)
