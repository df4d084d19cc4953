"""Pixels and worlds of captures: raw pixels, poses far from the origin, points beside a camera file."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from im3d_jax.data.captures import load_capture
from im3d_jax.data.world import centre_of
from im3d_jax.generation.captures import refuse_one_place
from splat.lenses import image_points
from tests.data.posed import frames_of, pose, write_capture, write_json, write_picture


# A place in UTM coordinates, and one on the earth's surface in earth-centred ones.
UTM, ECEF = (500_123.4, 5_012_345.6, 312.5), (4_201_000.3, 780_123.7, 4_720_456.1)


def test_calibrated_pictures_are_not_turned_by_exif(tmp_path):
    """A picture whose EXIF says "turn by 90 degrees": its camera is that of the raw 24x16 pixels."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:4, :6] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    write_json(tmp_path, {"fl_x": 30.0, "w": 24, "h": 16, "frames": frames_of(["a.png"])})
    capture = load_capture(tmp_path)
    assert capture.images.shape == (1, 16, 24, 4)
    np.testing.assert_array_equal(capture.images[0, ..., 0], pixels[..., 0] / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_files_are_not_turned_either(tmp_path, orientation):
    """Pillow turns them as it decodes them; a mask is one too."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    mask = np.zeros((16, 24), np.uint8)
    mask[:4, :6] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(mask).save(tmp_path / "mask.tif", exif=exif)
    frames = frames_of(["a.tif"], mask_path="mask.tif")
    write_json(tmp_path, {"fl_x": 30.0, "w": 24, "h": 16, "frames": frames})
    capture = load_capture(tmp_path)
    np.testing.assert_array_equal(capture.valid[0], mask > 0)
    np.testing.assert_allclose(capture.images[0, :4, :6, :3], pixels[:4, :6] / 255, atol=1e-7)


def projected(capture, points):
    """Pixels [V, n, 2] of places of the file's world, by the capture's float32 cameras."""
    matrices = np.asarray(capture.cameras.world_to_camera, np.float64)
    near = points - np.asarray(capture.origin)[None]
    local = np.einsum("vij,nj->vni", matrices[:, :3, :3], near.astype(np.float32)) + matrices[:, None, :3, 3]
    image = image_points(capture.cameras, *jnp.asarray(np.moveaxis(local, -1, 0), jnp.float32))
    return np.stack([image.u, image.v], axis=-1)


@pytest.mark.parametrize("at", [UTM, ECEF, (0.0, 0.0, 9e4)])
def test_poses_far_from_the_origin_keep_their_pixels(tmp_path, at):
    write_capture(tmp_path, fl_x=1000.0, at=at)
    capture = load_capture(tmp_path)
    points = np.asarray(at)[None] + np.random.default_rng(0).uniform(-1, 1, (20, 3))
    for view, place in enumerate(projected(capture, points)):
        matrix = np.linalg.inv(pose(0.5 * view, at=at))
        local = points @ matrix[:3, :3].T + matrix[None, :3, 3]
        # OpenGL looks along -z, y up.
        expected = [12, 8] + 1000.0 * np.stack([local[:, 0], -local[:, 1]], -1) / -local[:, 2:]
        np.testing.assert_allclose(place, expected, atol=0.02)
    eyes = np.asarray(capture.cameras.positions, np.float64) + capture.centre[None]
    np.testing.assert_allclose(eyes, [pose(0.5 * view, at=at)[:3, 3] for view in range(4)], atol=1e-5)
    refuse_one_place(capture)


def test_near_captures_keep_their_own_origin(tmp_path):
    write_capture(tmp_path, at=(100.0, -50.0, 20.0))
    capture = load_capture(tmp_path)
    assert capture.centre is None and capture.origin == (0.0, 0.0, 0.0)
    assert centre_of(np.full((5, 3), 1e6)) is None and centre_of(np.zeros((5, 3))) is None


def test_held_out_views_have_the_same_centre(tmp_path):
    made = write_capture(tmp_path, count=6, at=UTM)
    write_json(tmp_path, made | {"frames": made["frames"][:4]}, "transforms_train.json")
    write_json(tmp_path, made | {"frames": made["frames"][5:]}, "transforms_test.json")
    capture = load_capture(tmp_path)
    np.testing.assert_array_equal(capture.test.centre, capture.centre)
    eyes = np.asarray(capture.test.cameras.positions, np.float64) + capture.centre[None]
    np.testing.assert_allclose(eyes, [pose(2.5, at=UTM)[:3, 3]], atol=1e-5)


def write_cloud(file, points, colours, kind="uchar", number="float"):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property {number} {axis}" for axis in "xyz"]
    lines += [f"property {kind} {name}" for name in ("red", "green", "blue")]
    rows = [" ".join(map(repr, [*map(float, p), *(c.item() for c in q)])) for p, q in zip(points, colours, strict=True)]
    file.write_text("\n".join([*lines, "end_header", *rows, ""]))


@pytest.mark.parametrize("at", [(0.0, 0.0, 0.0), UTM])
def test_the_point_cloud_of_ns_process_data(tmp_path, at):
    """`sparse_pc.ply` is in the world of the poses: `applied_transform` is applied to both already."""
    turned = {"applied_transform": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]], "ply_file_path": "sparse_pc.ply"}
    write_capture(tmp_path, at=at, **turned)
    points = np.asarray(at)[None] + np.random.default_rng(0).uniform(-1, 1, (9, 3))
    colours = np.random.default_rng(1).integers(0, 256, (9, 3))
    write_cloud(tmp_path / "sparse_pc.ply", points, colours, number="double")
    capture = load_capture(tmp_path)
    np.testing.assert_allclose(capture.points.astype(np.float64) + np.asarray(capture.origin), points, atol=1e-6)
    np.testing.assert_allclose(capture.colours, colours / 255, atol=1e-6)
    assert capture.points.dtype == capture.colours.dtype == np.float32 and capture.remarks == ()


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("uchar", (255, 51, 0)),
        ("ushort", (65535, 13107, 0)),
        ("int", (255, 51, 0)),
        ("uint", (2**32 - 1, 858993459, 0)),
        ("float", (1.0, 0.2, 0.0)),
        # By the largest of all channels: green and blue alone would be read as full.
        ("double", (255.0, 51.0, 0.0)),
        ("float", (255.0, 51.0, 0.0)),
    ],
)
def test_colours_of_point_clouds_count_by_their_type(tmp_path, kind, stored):
    write_capture(tmp_path, ply_file_path="a.ply")
    write_cloud(tmp_path / "a.ply", np.eye(4)[:, :3], np.array([stored] * 4), kind)
    np.testing.assert_allclose(load_capture(tmp_path).colours, [[1.0, 0.2, 0.0]] * 4, atol=1e-6)


def test_point_clouds_that_cannot_be_used_are_named(tmp_path):
    write_capture(tmp_path, ply_file_path="sparse_pc.ply")
    assert "ply_file_path 'sparse_pc.ply' is not used (no such file)" in load_capture(tmp_path).remarks[0]
    (tmp_path / "sparse_pc.ply").write_bytes(b"ply\nformat")
    capture = load_capture(tmp_path)
    assert capture.points is None and "is not used (no end_header" in capture.remarks[0]
    write_cloud(tmp_path / "sparse_pc.ply", np.zeros((3, 3)), np.zeros((3, 3), int))
    assert "it has 3 points" in load_capture(tmp_path).remarks[0]
    write_capture(tmp_path, ply_file_path=3)
    assert "ply_file_path is not used (3 is no text)" in load_capture(tmp_path).remarks[0]


def test_several_sizes_keep_the_cameras_of_each(tmp_path):
    """A point that lies in the middle of every picture stays there after padding."""
    names = ["a.png", "b.png"]
    write_picture(tmp_path / "a.png", 24, 16)
    write_picture(tmp_path / "b.png", 16, 20)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(names)})
    found = projected(load_capture(tmp_path), np.zeros((1, 3)))[:, 0]
    np.testing.assert_allclose(found, [[12, 8], [8, 10]], atol=1e-4)
