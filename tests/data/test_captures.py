"""Captures: the fields that are understood, and one line for each that is wrong."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data import captures
from im3d_jax.errors import ImageError


def pose(azimuth, distance=4.0):
    """OpenGL camera-to-world at (azimuth, elevation 0), looking at the origin: +x right, +y up, +z back."""
    backward = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, [0.0, 0.0, 1.0], backward], 1)
    matrix[:3, 3] = distance * backward
    return matrix


@pytest.fixture
def folder(tmp_path):
    """Three 40x30 views: (folder, write, frames), where write(**changes) rewrites the camera file."""
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = np.full((30, 40, 4), 60 * index, np.uint8)
        pixels[..., 3] = 255
        Image.fromarray(pixels).save(tmp_path / f"images/r_{index}.png")
    fields = {
        "camera_angle_x": 0.8,
        "frames": [
            {"file_path": f"./images/r_{index}", "transform_matrix": pose(0.5 * index).tolist()} for index in range(3)
        ],
    }

    def write(**changes):
        merged = {name: value for name, value in {**fields, **changes}.items() if value is not None}
        (tmp_path / "transforms.json").write_text(json.dumps(merged))

    write()
    return tmp_path, write, fields["frames"]


def test_nerf_synthetic_fields(folder):
    capture = captures.load_capture(folder[0])
    assert capture.images.shape == (3, 30, 40, 4)
    assert (capture.cameras.width, capture.cameras.height) == (40, 30)
    assert capture.images[2, 0, 0, 0] == pytest.approx(120 / 255)
    intrinsics = np.asarray(capture.cameras.intrinsics)[0]
    assert intrinsics[0, 0] == pytest.approx(20 / math.tan(0.4), rel=1e-6)
    np.testing.assert_allclose(intrinsics[:2, 2], [20, 15])
    assert capture.test is None and not capture.generated


def test_opencv_world_to_camera(folder):
    """The origin lies on the axis at positive depth; world up is image up, i.e. negative y."""
    extrinsics = np.asarray(captures.load_capture(folder[0]).cameras.world_to_camera)
    np.testing.assert_allclose(extrinsics @ [0, 0, 0, 1], [[0, 0, 4, 1]] * 3, atol=1e-5)
    np.testing.assert_allclose(extrinsics @ [0, 0, 1, 1], [[0, -1, 4, 1]] * 3, atol=1e-5)
    # Seen from +x, world +y is to the right.
    np.testing.assert_allclose(extrinsics[0] @ [0, 1, 0, 1], [1, 0, 4, 1], atol=1e-5)


def test_nerfstudio_fields_and_parent_folders(folder):
    path, write, frames = folder
    (path / "cameras").mkdir()
    moved = [{**frame, "file_path": f"../images/r_{i}.png"} for i, frame in enumerate(frames)]
    fields = {"fl_x": 50.0, "fl_y": 52.0, "cx": 19.0, "cy": 14.0, "w": 40, "h": 30, "frames": moved}
    (path / "cameras/transforms.json").write_text(json.dumps(fields))
    intrinsics = np.asarray(captures.load_capture(path / "cameras").cameras.intrinsics)
    np.testing.assert_allclose(intrinsics[1], [[50, 0, 19], [0, 52, 14], [0, 0, 1]])


def test_uniform_scale_in_the_pose_is_taken_out(folder):
    path, write, frames = folder
    scaled = np.array(frames[0]["transform_matrix"])
    scaled[:3, :3] *= 2.5
    write(frames=[{**frames[0], "transform_matrix": scaled.tolist()}, *frames[1:]])
    rotation = np.asarray(captures.load_capture(path).cameras.world_to_camera)[0, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


def test_downscale_is_premultiplied_and_scales_the_intrinsics(folder):
    path, write, _ = folder
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[::2, ::2] = 255
    pixels[1::2, 1::2, 1] = 255  # colour of transparent pixels is to be ignored
    Image.fromarray(pixels).save(path / "images/r_0.png")
    capture = captures.load_capture(path, downscale=4)
    assert capture.images.shape == (3, 7, 10, 4)
    np.testing.assert_allclose(capture.images[0], [[[1, 1, 1, 0.25]] * 10] * 7, atol=1e-6)
    np.testing.assert_allclose(np.asarray(capture.cameras.intrinsics)[0, :2, 2], [5, 3.75])


def test_lens_distortion_goes_into_the_cameras(folder):
    path, write, frames = folder
    assert captures.load_capture(path).cameras.distortion is None
    write(k1=0.1, k2=0.2, p1=0.3, p2=0.4, k3=0.5, frames=[*frames[:2], {**frames[2], "k1": -0.1}])
    cameras = captures.load_capture(path, downscale=2).cameras
    assert cameras.model == "pinhole"
    expected = [[0.1, 0.2, 0.3, 0.4, 0.5]] * 2 + [[-0.1, 0.2, 0.3, 0.4, 0.5]]
    np.testing.assert_allclose(cameras.distortion, expected, rtol=1e-6)
    write(k1=0.1, k2=0.2, k3=0.3, k4=0.4, camera_model="OPENCV_FISHEYE")
    cameras = captures.load_capture(path).cameras
    assert cameras.model == "fisheye"
    np.testing.assert_allclose(cameras.distortion, [[0.1, 0.2, 0.3, 0.4]] * 3, rtol=1e-6)


def test_every_so_many_th_view_is_held_out(folder):
    path, write, _ = folder
    capture = captures.load_capture(path, hold_out=2)
    assert capture.names == ("./images/r_1",) and capture.test.names == ("./images/r_0", "./images/r_2")
    assert capture.images[0, 0, 0, 0] == pytest.approx(60 / 255)
    whole = captures.load_capture(path)
    np.testing.assert_array_equal(capture.test.cameras.world_to_camera, whole.cameras.world_to_camera[::2])
    assert capture.digest() != whole.digest()
    with pytest.raises(captures.CaptureError, match="leaves none"):
        captures.load_capture(path, hold_out=1)
    (path / "transforms_test.json").write_text((path / "transforms.json").read_text())
    with pytest.raises(captures.CaptureError, match="names the held-out views"):
        captures.load_capture(path, hold_out=2)


def without(frame, name):
    return {key: value for key, value in frame.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda f: {"frames": None}, "missing field 'frames'"),
        (lambda f: {"frames": []}, "missing field 'frames'"),
        (lambda f: {"camera_angle_x": None}, "missing field 'camera_angle_x'"),
        (lambda f: {"camera_angle_x": "wide"}, "expected a finite number"),
        (lambda f: {"camera_angle_x": 4.0}, "between 0 and pi"),
        (lambda f: {"frames": [without(f[0], "transform_matrix")]}, "missing the field 'transform_matrix'"),
        (lambda f: {"frames": [without(f[0], "file_path")]}, "missing the field 'file_path'"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": np.zeros((4, 4)).tolist()}]}, "singular"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": np.ones((4, 4)).tolist()}]}, "singular"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": np.diag([1, 1, -1, 1]).tolist()}]}, "mirrored"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": [[1, 2], [3]]}]}, "not a number"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": np.eye(3).tolist()}]}, "expected 4x4"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": np.diag([1, 2, 1, 1]).tolist()}]}, "sheared"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": (1e39 * np.eye(4)).tolist()}]}, "not finite"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": [[10**400] * 4] * 4}]}, "not a number"),
        (lambda f: {"frames": [{**f[0], "transform_matrix": [[math.nan] * 4] * 4}]}, "not finite"),
        (lambda f: {"fl_x": 10**400}, "expected a finite number"),
        (lambda f: {"cx": 1e39}, "expected a finite number"),
        (lambda f: {"cx": 1e15}, "centre at 1e+15, 15 pixels for 40x30; expected at most 1000 times the side"),
        (lambda f: {"cy": -1e10}, "centre at 20, -1e+10"),
        (lambda f: {"fl_x": 1e14}, "focal length 1e+14, 1e+14 pixels for 40x30; expected 0.01 to 10000 times the side"),
        (lambda f: {"fl_x": 50, "fl_y": 1e-14}, "focal length 50, 1e-14"),
        (lambda f: {"camera_angle_x": 1e-8}, "times the side"),
        (lambda f: {"k1": 1e12}, "distortion of 1e+12; expected coefficients of at most 1e+06"),
        (lambda f: {"frames": [f[0], {**f[1], "cx": 1e6}]}, "frame 1: centre at 1e+06"),
        (lambda f: {"camera_model": "OPENCV_FISHEYE", "k3": -1e14}, "distortion of 1e+14"),
        (lambda f: {"frames": [{**f[0], "file_path": "images/none"}]}, "missing image"),
        (lambda f: {"frames": [{**f[0], "file_path": 400 * "x"}]}, "missing image"),
        (lambda f: {"w": 80, "h": 60}, "mismatched image sizes"),
        (lambda f: {"k4": 0.1}, "undistort first"),
        (lambda f: {"k1": "some"}, "expected a finite number"),
        (lambda f: {"camera_model": "FISHEYE"}, "not supported"),
    ],
)
def test_wrong_fields(folder, changes, words):
    path, write, frames = folder
    write(**changes(frames))
    with pytest.raises(captures.CaptureError) as caught:
        captures.load_capture(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_lenses_within_the_bounds_are_taken_as_they_are(folder):
    path, write, _ = folder
    for fields in (
        {"fl_x": 0.41, "fl_y": 0.31, "cx": 39_999.0, "cy": -29_999.0},
        {"fl_x": 399_000.0, "fl_y": 299_000.0, "k1": -9e5},
    ):
        write(**fields)
        cameras = captures.load_capture(path).cameras
        expected = [fields["fl_x"], fields["fl_y"], fields.get("cx", 20.0), fields.get("cy", 15.0)]
        found = np.asarray(cameras.intrinsics)[2, [0, 1, 0, 1], [0, 1, 2, 2]]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_other_refusals(folder, tmp_path_factory):
    path, write, frames = folder
    with pytest.raises(captures.CaptureError, match="no such folder"):
        captures.load_capture(path / "none")
    with pytest.raises(captures.CaptureError, match="no camera file"):
        captures.load_capture(tmp_path_factory.mktemp("empty"))
    (path / "images/r_1.png").write_bytes((path / "images/r_0.png").read_bytes()[:60])
    with pytest.raises(ImageError, match="truncated"):
        captures.load_capture(path)
    for text in ('{"frames": [', 100_000 * "["):
        (path / "transforms.json").write_text(text)
        with pytest.raises(captures.CaptureError, match="not a readable JSON"):
            captures.load_capture(path)


def test_lego(shared_data):
    capture = captures.load_capture(shared_data / "lego400_16views", downscale=4)
    assert capture.images.shape == (16, 100, 100, 4) and capture.test.images.shape == (10, 100, 100, 4)
    assert float(capture.cameras.intrinsics[0, 0, 0]) == pytest.approx(555.5555 / 4, rel=1e-5)
    # The object stands at the origin: its outline's middle is near the projected origin in every view.
    for image, matrix in zip(capture.images, np.asarray(capture.cameras.world_to_camera), strict=True):
        rows, columns = np.nonzero(image[..., 3] > 0.5)
        point = matrix @ [0.0, 0.0, 0.0, 1.0]
        projected = 555.5555 / 4 * point[:2] / point[2] + 50
        assert np.hypot(projected[0] - columns.mean(), projected[1] - rows.mean()) < 15
