"""Placing in the rig's world, the rig itself, and pictures of meshes."""

import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image

import splat
from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.model import Limits, Material, Mesh, MeshError, Part, Texture, to_linear, to_srgb
from im3d_jax.data.meshes.placing import RADIUS, bounding_sphere, place, turned
from im3d_jax.data.meshes.textures import decode, fill_holes
from im3d_jax.data.toybox import LARGEST_RADIUS
from im3d_jax.data.toybox import render as toybox_render


TETRAHEDRON = np.array([[0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32)


def mesh_of(positions=TETRAHEDRON, triangles=FACES, **more):
    return Mesh((Part(np.asarray(positions, np.float32), np.asarray(triangles, np.uint32), **more),))


def test_axes():
    """glTF's front, +z, comes to +x, where the first camera is; up becomes +z; nothing is mirrored."""
    for up, front, top in (("y", 2, 1), ("z", 1, 2)):
        axes = np.zeros((4, 3), np.float32)
        axes[1, front] = 1.0 if up == "y" else -1.0
        axes[2, top] = 1.0
        axes[3] = np.cross(axes[2], axes[1])
        points = place(mesh_of(axes), up).parts[0].positions.astype(np.float64)
        frame = points[1:] - points[0]
        frame /= np.linalg.norm(frame, axis=-1, keepdims=True)
        np.testing.assert_allclose(frame, [[1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-6)


def test_size_and_centre():
    for shift, scale in ((0.0, 1.0), (1e3, 1e-3), (-7.0, 1e6)):
        points = place(mesh_of(TETRAHEDRON * scale + shift * scale), "y").parts[0].positions
        centre, radius = bounding_sphere(points.astype(np.float64))
        np.testing.assert_allclose(centre, 0, atol=2e-3)
        assert radius == pytest.approx(RADIUS, rel=2e-3)
        assert np.linalg.norm(points, axis=-1).max() == pytest.approx(RADIUS, rel=1e-5)
    assert RADIUS == LARGEST_RADIUS


def test_bounding_sphere_is_the_smallest():
    rng = np.random.default_rng(0)
    on_sphere = rng.normal(size=(500, 3))
    on_sphere /= np.linalg.norm(on_sphere, axis=-1, keepdims=True)
    centre, radius = bounding_sphere(np.concatenate([3 * on_sphere, rng.normal(size=(500, 3)) * 0.1]) + (5, 0, 0))
    np.testing.assert_allclose(centre, (5, 0, 0), atol=0.01)
    assert radius == pytest.approx(3, rel=2e-3)
    centre, radius = bounding_sphere(np.array([[0.0, 0, 0], [2.0, 0, 0], [1.0, 0.5, 0]]))
    assert radius == pytest.approx(1, rel=2e-3)


def test_turned():
    mesh = turned(mesh_of(np.eye(3), [[0, 1, 2]], normals=np.eye(3, dtype=np.float32)), math.pi / 2)
    np.testing.assert_allclose(mesh.parts[0].positions, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(mesh.parts[0].normals, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-6)


def test_cleaned():
    """Unused vertices, triangles without area and normals without direction go; the sphere ignores them."""
    far = np.concatenate([TETRAHEDRON, [[1e5, 0, 0]]])
    normals = np.zeros((5, 3), np.float32)
    normals[1] = (0, 0, 7)
    normals[2] = np.nan
    part = place(mesh_of(far, [*FACES, [0, 1, 1]], normals=normals), "y").parts[0]
    assert part.positions.shape == (4, 3) and part.triangles.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(part.normals, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(part.normals[1], (1, 0, 0), atol=1e-6)
    assert (part.normals[[0, 2, 3]] * part.positions[[0, 2, 3]]).sum(-1).min() > 0, "they point outward"


@pytest.mark.parametrize(
    ("positions", "triangles", "words"),
    [
        (TETRAHEDRON, np.zeros((0, 3)), "empty"),
        (TETRAHEDRON, FACES[:1], "fewer than two"),
        (TETRAHEDRON[:, :1] * [1, 1, 1], FACES, "fewer than two"),
        (TETRAHEDRON * 0, FACES, "radius 0"),
        (TETRAHEDRON * 1e12, FACES, "radius"),
        (np.where(TETRAHEDRON == 4, np.nan, TETRAHEDRON), FACES, "no numbers"),
        (np.where(TETRAHEDRON == 4, np.inf, TETRAHEDRON), FACES, "no numbers"),
    ],
)
def test_unusable(positions, triangles, words):
    with pytest.raises(MeshError, match=words):
        place(mesh_of(positions, triangles), "y")


def test_far_texture_coordinates():
    uv = np.array([[1000.25, -2000.5], [1000.75, -2000.5], [1000.5, -2000], [1000, -2001]], np.float32)
    texture = Texture(np.zeros((2, 2, 4), np.uint8))
    near = place(mesh_of(uv=uv, material=Material(texture=texture)), "y").parts[0].uv
    np.testing.assert_allclose((near - uv) % 2, 0, atol=1e-4)
    assert np.abs(near).max() < 3
    clamped = Material(texture=dataclasses.replace(texture, wrap=("clamp", "repeat")))
    np.testing.assert_array_equal(place(mesh_of(uv=uv, material=clamped), "y").parts[0].uv, uv)


def test_rig_is_that_of_splat():
    elevations = np.radians([0.0, 15.0, 40.0, -20.0])
    cameras = splat.orbit_cameras(elevations, views=4, width=256, height=256)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (50, 3))
    for i, azimuth in enumerate(rig.orbit_azimuths(4)):
        world_to_camera, intrinsics = np.asarray(cameras.world_to_camera[i]), np.asarray(cameras.intrinsics[i])
        seen = (points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]) @ intrinsics.T
        pixels = seen[:, :2] / seen[:, 2:]
        clip = np.c_[points, np.ones(50)] @ rig.world_to_clip(azimuth, elevations[i]).T
        np.testing.assert_allclose((clip[:, :2] / clip[:, 3:] + 1) * 128, pixels, atol=1e-3)
        np.testing.assert_allclose(rig.eye(azimuth, elevations[i]), np.asarray(cameras.positions[i]), atol=1e-5)


def test_light_is_toyboxs_and_clips_nothing():
    np.testing.assert_allclose(rig.KEY_LIGHT, toybox_render.KEY_LIGHT)
    np.testing.assert_allclose(rig.FILL_LIGHT, toybox_render.FILL_LIGHT)
    n = np.random.default_rng(0).normal(size=(20000, 3))
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    lit = rig.KEY * (n @ rig.KEY_LIGHT).clip(0) + rig.FILL * (n @ rig.FILL_LIGHT).clip(0)
    assert 0.97 < (rig.AMBIENT + rig.SKY * (0.5 + 0.5 * n[:, 2]) + lit).max() <= 1.0


def test_srgb():
    values = np.linspace(0, 1, 256)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)
    assert to_linear(0.5) == pytest.approx(0.21404, abs=1e-5)


def encoded(pixels, **save):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **save)
    return buffer.getvalue()


def test_pictures():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 8, 4), np.uint8)
    opaque = decode(encoded(rgba, format="PNG"), "a", Limits(), alpha=False)
    np.testing.assert_array_equal(opaque, np.concatenate([rgba[..., :3], np.full((8, 8, 1), 255)], -1))
    grey16 = decode(encoded(np.full((4, 4), 0x80FF, np.uint16), format="PNG"), "a", Limits(), alpha=False)
    assert (grey16[..., :3] == 0x80).all()
    large = np.tile(np.uint8([[[200, 100, 50]]]), (600, 900, 1))
    for kind in ("PNG", "JPEG", "WEBP"):
        small = decode(encoded(large, format=kind), "a", Limits(texture_side=100), alpha=False)
        assert small.shape == (67, 100, 4)
        np.testing.assert_allclose(small.mean((0, 1))[:3], (200, 100, 50), atol=3)
    for content, words in (
        (b"", "no readable"),
        (b"hello", "no readable"),
        (encoded(large, format="PNG")[:500], "damaged"),
    ):
        with pytest.raises(MeshError, match=words):
            decode(content, "a", Limits(), alpha=False)


def test_holes_take_the_colour_around_them():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :4] = (200, 0, 0, 255)
    pixels[:, 12:] = (0, 0, 200, 255)
    filled = fill_holes(pixels)
    np.testing.assert_array_equal(filled[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(filled[:, :4], pixels[:, :4])
    np.testing.assert_allclose(filled[8, 4, :3].astype(int), (200, 0, 0), atol=1)
    np.testing.assert_allclose(filled[8, 11, :3].astype(int), (0, 0, 200), atol=1)
    assert (filled[..., :3].sum(-1) > 0).all()
