"""Pose refinement: motions are rigid, and cameras that were put wrong find back."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.reconstruction import Targets, capture_config, fit, init_state, load_state, poses, save_state


SIZE, VIEWS, COUNT = 32, 4, 150
STILL = {"lr_means": (1e-9, 1e-9), "lr_quats": 1e-9, "lr_scales": 1e-9, "lr_opacities": 1e-9, "lr_sh": 1e-9}


@pytest.fixture(scope="module")
def scene():
    """A coloured, nearly opaque ball."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(COUNT, 3))
    means *= (0.6 / np.linalg.norm(means, axis=-1))[:, None]
    colours = 0.5 + 0.45 * np.sin(5 * means + np.array([0, 2, 4])[None])
    return splat.Gaussians(
        means=jnp.asarray(means, jnp.float32),
        quats=jnp.zeros((COUNT, 4)).at[:, 0].set(1.0),
        log_scales=jnp.full((COUNT, 3), math.log(0.08)),
        opacity_logits=jnp.full(COUNT, 2.0),
        sh=jnp.asarray((colours - 0.5) / 0.28209479, jnp.float32)[:, None],
    )


def pixels_off(cameras, true, points):
    """Largest distance [V] in pixels between where the points appear to the cameras and to the true ones.

    A small turn and a small shift look nearly alike: angles alone would say little.
    """

    def places(cameras):
        pose, lens = np.asarray(cameras.world_to_camera, np.float64), np.asarray(cameras.intrinsics, np.float64)
        local = np.einsum("vij,nj->vni", pose[:, :3, :3], points) + pose[:, None, :3, 3]
        image = np.einsum("vij,vnj->vni", lens, local)
        return image[..., :2] / image[..., 2:]

    return np.linalg.norm(places(cameras) - places(true), axis=-1).max(1)


def test_motions_are_rigid_and_follow_their_definition():
    cameras = splat.orbit_cameras(0.3, views=3)
    same = poses.moved(cameras, jnp.zeros((3, 6)), jnp.float32(2.0))
    np.testing.assert_allclose(same.world_to_camera, cameras.world_to_camera, atol=1e-6)
    motions = jnp.asarray([[0, 0, 0, 0.1, 0.2, 0.3], [0.02, 0, 0, 0, 0, 0], [0.01, 0.02, -0.03, 0, 0.1, 0]])
    got = np.asarray(poses.moved(cameras, motions, jnp.float32(2.0)).world_to_camera)
    np.testing.assert_allclose(got[0, :3, 3] - cameras.world_to_camera[0, :3, 3], [0.2, 0.4, 0.6], atol=1e-6)
    rotation = got[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.stack([np.eye(3)] * 3), atol=1e-5)
    turned = got[1, :3, :3] @ np.asarray(cameras.world_to_camera)[1, :3, :3].T
    expected = [[1, 0, 0], [0, math.cos(0.02), -math.sin(0.02)], [0, math.sin(0.02), math.cos(0.02)]]
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    np.testing.assert_array_equal(got[:, 3], [[0, 0, 0, 1]] * 3)


def test_cameras_find_back(scene, tmp_path):
    true = splat.orbit_cameras(0.3, views=VIEWS, width=SIZE, height=SIZE)
    image = splat.render(scene, true)
    alpha = image.alpha[..., None]
    targets = Targets(jnp.concatenate([jnp.clip(image.rgb / jnp.maximum(alpha, 1e-4), 0, 1), alpha], axis=-1))
    # The first camera is right, the others are off by up to two degrees and a twentieth.
    rng = np.random.default_rng(1)
    off = np.concatenate([rng.uniform(-0.02, 0.02, (VIEWS, 3)), rng.uniform(-0.01, 0.01, (VIEWS, 3))], axis=1)
    off[0] = 0
    wrong = poses.moved(true, jnp.asarray(off, jnp.float32), jnp.float32(3.0))
    config = dataclasses.replace(
        capture_config(160, sh_degree=0, capacity=COUNT, refine_poses=True), densify_until=0, **STILL
    )
    state = init_state(jax.random.key(0), dataclasses.replace(config, initial=COUNT), wrong, targets=targets)
    state = state.replace(gaussians=scene, active=jnp.ones(COUNT, bool))
    state, _ = fit(state, targets, wrong, config)
    np.testing.assert_allclose(state.gaussians.means, scene.means, atol=1e-5)
    points = np.asarray(scene.means, np.float64)
    before = pixels_off(wrong, true, points)
    after = pixels_off(poses.moved(wrong, state.poses.motions, state.extent), true, points)
    assert before[1:].min() > 0.5 and before[0] == after[0] == 0
    assert (after[1:] < 0.2 * before[1:]).all()

    save_state(tmp_path / "fit.npz", state)
    again = load_state(tmp_path / "fit.npz", config)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    with pytest.raises(ValueError, match="is not a saved fit"):
        save_state(tmp_path / "still.npz", state.replace(poses=None))
        load_state(tmp_path / "still.npz", config)
