"""Conventions of cameras and of the turntable, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat


def project(cameras, points):
    """Pixels [V, M, 2] and camera z [V, M] in float64 numpy."""
    w2c, k = np.asarray(cameras.world_to_camera, np.float64), np.asarray(cameras.intrinsics, np.float64)
    local = np.einsum("vij,mj->vmi", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
    pixels = np.einsum("vij,vmj->vmi", k, local)
    return pixels[..., :2] / pixels[..., 2:], local[..., 2]


def test_orbit_stands_where_the_rig_says():
    elevation = 0.4
    cameras = splat.orbit_cameras(elevation)
    azimuth = np.arange(16) * math.radians(22.5)
    eye = 3.44 * np.stack(
        [
            math.cos(elevation) * np.cos(azimuth),
            math.cos(elevation) * np.sin(azimuth),
            np.full(16, math.sin(elevation)),
        ],
        -1,
    )
    np.testing.assert_allclose(cameras.positions, eye, atol=2e-6)
    assert (len(cameras), cameras.width, cameras.height) == (16, 128, 128)


def test_an_orbit_has_cameras():
    for views in (0, -1):
        with pytest.raises(ValueError, match=f"views={views}: expected at least 1 camera"):
            splat.orbit_cameras(0.3, views=views)


def test_image_axes_of_the_first_camera():
    """Camera 0 stands on +x: world +z is up in the image, world +y to the right, the origin in the middle."""
    cameras = splat.orbit_cameras(0.0, views=1, width=100, height=60)
    pixels, z = project(cameras, np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]], float))
    np.testing.assert_allclose(pixels[0, 0], [50, 30], atol=1e-4)
    assert pixels[0, 1, 1] < 29 and abs(pixels[0, 1, 0] - 50) < 1e-4
    assert pixels[0, 2, 0] > 51 and abs(pixels[0, 2, 1] - 30) < 1e-4
    np.testing.assert_allclose(z[0], [3.44, 3.44, 3.44, 2.94], atol=1e-5)


def test_unit_sphere_just_fits():
    k = splat.orbit_cameras(0.3, views=1).intrinsics[0]
    silhouette = math.tan(math.asin(1 / 3.44))
    assert 0.98 < float(k[0, 0]) * silhouette / 64 < 1.01


def test_rotations_are_rigid_and_elevation_may_differ_and_be_traced():
    elevation = jnp.linspace(0.0, 0.7, 4)
    cameras = jax.jit(lambda e: splat.orbit_cameras(e, views=4, azimuth_offset=0.2))(elevation)
    rotation = np.asarray(cameras.world_to_camera[:, :3, :3])
    identity = np.broadcast_to(np.eye(3), (4, 3, 3))
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    np.testing.assert_allclose(cameras.positions[:, 2], 3.44 * np.sin(elevation), atol=1e-6)


def test_opengl_round_trip_and_axes():
    cameras = splat.orbit_cameras(0.3, views=5)
    c2w = splat.to_opengl(cameras.world_to_camera)
    np.testing.assert_allclose(splat.from_opengl(c2w), cameras.world_to_camera, atol=2e-6)
    np.testing.assert_allclose(c2w[:, :3, 3], cameras.positions, atol=2e-6)
    # OpenGL looks along -z with +y up.
    towards = -np.asarray(cameras.positions) / 3.44
    np.testing.assert_allclose(-c2w[:, :3, 2], towards, atol=2e-6)
    assert np.all(np.asarray(c2w)[:, 2, 1] > 0)


def test_indexing_keeps_the_views_axis():
    cameras = splat.orbit_cameras(0.1, views=6)
    assert len(cameras[2]) == 1 and len(cameras[1:3]) == 2 and len(cameras[jnp.array([0, 5, 1])]) == 3
    np.testing.assert_array_equal(cameras[2].world_to_camera[0], cameras.world_to_camera[2])


def test_look_at_any_target_and_up():
    eye = jnp.array([1.0, 2.0, 3.0])
    w2c = np.asarray(splat.look_at(eye, jnp.array([0.0, -1.0, 0.5]), jnp.array([0.0, 1.0, 0.0])))
    target = w2c @ np.array([0, -1, 0.5, 1])
    np.testing.assert_allclose(target[:2], 0, atol=1e-6)
    assert target[2] == pytest.approx(math.sqrt(1 + 9 + 6.25), rel=1e-6)
    assert (w2c[:3, :3] @ np.array([0, 1, 0]))[1] < 0
