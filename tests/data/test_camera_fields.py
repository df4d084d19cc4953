"""Fields of camera files that change the picture: used with their right value, or refused; the rest is named once."""

import math

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data.captures import load_capture
from im3d_jax.errors import CaptureError
from tests.data.posed import frames_of, write_capture, write_json, write_picture


def changed_frames(made, **more):
    return [{**made["frames"][0], **more}, *made["frames"][1:]]


def focal(folder):
    return np.asarray(load_capture(folder).cameras.intrinsics)[:, [0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"camera_angle_x": 0.7}, (32.87415, 32.87415)),
        ({"camera_angle_x": 0.7, "camera_angle_y": 0.7}, (32.87415, 21.91610)),
        ({"camera_angle_y": 0.7}, (21.91610, 21.91610)),
        ({"camera_angle_x": 0.7, "camera_angle_y": 0.7, "fl_x": 30.0}, (30.0, 21.91610)),
        ({"camera_angle_x": 0.7, "camera_angle_y": 0.7, "fl_x": 30.0, "fl_y": 31.0}, (30.0, 31.0)),
        ({"x_fov": math.degrees(0.7), "y_fov": math.degrees(0.7)}, (32.87415, 21.91610)),
    ],
)
def test_focal_lengths(tmp_path, fields, expected):
    """camera_angle_y = 0.7 at a height of 16 is 8 / tan 0.35 = 21.92 pixels, not that of the width."""
    made = write_capture(tmp_path)
    del made["camera_angle_x"]
    write_json(tmp_path, made | fields)
    np.testing.assert_allclose(focal(tmp_path), [expected] * 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "frame", "expected"),
    [
        # 12 / tan 0.35 = 32.87 and 8 / tan 0.35 = 21.92 pixels.
        ({"fl_x": 100.0, "fl_y": 100.0}, {"camera_angle_x": 0.7}, (32.874, 32.874)),
        ({"fl_x": 100.0}, {"camera_angle_y": 0.7}, (21.916, 21.916)),
        ({"camera_angle_x": 1.0, "camera_angle_y": 1.0}, {"fl_x": 30.0}, (30.0, 30.0)),
        ({"camera_angle_x": 1.0}, {"y_fov": 90.0}, (8.0, 8.0)),
        # One way: each axis for itself.
        ({"fl_x": 100.0, "fl_y": 90.0}, {"fl_x": 30.0}, (30.0, 90.0)),
        ({"fl_x": 100.0}, {"camera_model": "PINHOLE"}, (100.0, 100.0)),
    ],
)
def test_a_frame_that_tells_its_focal_length_in_another_way(tmp_path, file, frame, expected):
    """Fields of a frame come before those of the file."""
    made = write_capture(tmp_path)
    del made["camera_angle_x"]
    write_json(tmp_path, made | file | {"frames": [each | frame for each in made["frames"]]})
    matrices = load_capture(tmp_path).cameras.intrinsics
    np.testing.assert_allclose(matrices[:, [0, 1], [0, 1]], [expected] * 4, rtol=1e-4)


@pytest.mark.parametrize("place", ["file", "frame"])
@pytest.mark.parametrize("field", [{"is_fisheye": True}, {"camera_model": "OPENCV_FISHEYE"}])
def test_fisheye_lenses(tmp_path, place, field):
    made = write_capture(tmp_path, k1=0.1, k2=0.2, k3=0.3, k4=0.4)
    if place == "file":
        write_json(tmp_path, made | field)
    else:
        write_json(tmp_path, made | {"frames": [frame | field for frame in made["frames"]]})
    cameras = load_capture(tmp_path).cameras
    assert cameras.model == "fisheye"
    np.testing.assert_allclose(cameras.distortion, [[0.1, 0.2, 0.3, 0.4]] * 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "frame", "expected"),
    [
        # nerfstudio's order is k1, k2, k3, k4, p1, p2, ours k1, k2, p1, p2, k3.
        ({"distortion_params": [0.1, 0.2, 0.3, 0.0, 0.01, 0.02]}, {}, (0.1, 0.2, 0.01, 0.02, 0.3)),
        ({}, {"distortion_params": [0.1, 0.2, 0.3, 0.0, 0.01, 0.02]}, (0.1, 0.2, 0.01, 0.02, 0.3)),
        ({"distortion_params": [0.1, 0, 0, 0, 0, 0], "k1": 0.4, "p1": 0.5}, {}, (0.1, 0.0, 0.0, 0.0, 0.0)),
        ({"distortion_params": [0.1, 0, 0, 0, 0, 0]}, {"k1": 0.4}, (0.4, 0.0, 0.0, 0.0, 0.0)),
        ({"k1": 0.4, "k2": 0.5}, {"distortion_params": [0.1, 0, 0, 0, 0, 0]}, (0.1, 0.0, 0.0, 0.0, 0.0)),
        ({"distortion_params": None, "k1": 0.4}, {}, (0.4, 0.0, 0.0, 0.0, 0.0)),
        ({"distortion_params": [0, 0, 0, 0, 0, 0]}, {}, None),
        (
            {"camera_model": "OPENCV_FISHEYE", "distortion_params": [0.1, 0.2, 0.3, 0.4, 0.0, 0.0], "k2": 9.0}, {},
            (0.1, 0.2, 0.3, 0.4),
        ),
        ({"is_fisheye": True}, {"distortion_params": [0.1, 0.2, 0.3, 0.4]}, (0.1, 0.2, 0.3, 0.4)),
    ],
)  # fmt: skip
def test_lists_of_distortion(tmp_path, file, frame, expected):
    made = write_capture(tmp_path, **file)
    write_json(tmp_path, made | {"frames": [each | frame for each in made["frames"]]})
    capture = load_capture(tmp_path)
    if expected is None:
        assert capture.cameras.distortion is None
    else:
        np.testing.assert_allclose(capture.cameras.distortion, [expected] * 4, rtol=1e-6)
        assert capture.cameras.model == ("fisheye" if len(expected) == 4 else "pinhole")
    assert capture.remarks == ()


def test_fisheye_pictures_are_cropped_around_their_centre(tmp_path):
    made = write_capture(tmp_path, camera_model="OPENCV_FISHEYE", fisheye_crop_radius=6.0, cx=10.0, cy=9.0)
    made["frames"][1] |= {"fisheye_crop_radius": 3.0}
    write_json(tmp_path, made)
    write_picture(tmp_path / "images/0001.png", grey=90)
    mask = np.full((16, 24), 255, np.uint8)
    mask[:, :10] = 0
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/0002.png")
    capture = load_capture(tmp_path)
    y, x = np.mgrid[:16, :24] + 0.5
    distance = np.hypot(x - 10.0, y - 9.0)
    assert capture.valid is not None
    np.testing.assert_array_equal(capture.valid[0], distance <= 6.0)
    np.testing.assert_array_equal(capture.valid[1], distance <= 3.0)
    np.testing.assert_array_equal(capture.valid[2], (distance <= 6.0) & (mask > 0))
    assert (capture.images[~capture.valid] == 0).all() and (capture.images[1][capture.valid[1]][:, 3] == 1).all()
    assert capture.remarks[-1] == "transforms.json: pixels beyond fisheye_crop_radius (3 to 6 pixels) do not count"
    # A pixel of the smaller picture counts if all of its block do.
    blocks = (distance <= 6.0)[:15].reshape(5, 3, 8, 3).all(axis=(1, 3))
    small = load_capture(tmp_path, downscale=3)
    assert small.valid is not None
    np.testing.assert_array_equal(small.valid[0], blocks)
    # On other lenses it has no effect, as in nerfstudio.
    write_json(tmp_path, made | {"camera_model": "OPENCV"})
    whole = load_capture(tmp_path).valid
    assert whole is not None and whole[0].all()
    for radius, words in (
        (0.01, "leaves no pixel of any view"),
        (0.0, "expected pixels above 0"),
        ("6", "finite number"),
    ):
        frames = [{**frame, "fisheye_crop_radius": radius} for frame in made["frames"]]
        write_json(tmp_path, made | {"frames": frames})
        with pytest.raises(CaptureError, match=words):
            load_capture(tmp_path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model 'EQUIRECTANGULAR' is not supported"),
        ({"camera_model": "FISHEYE624"}, "not supported"),
        ({"camera_model": "ORTHOPHOTO"}, "not supported"),
        ({"camera_model": ["OPENCV"]}, "not supported"),
        ({"camera_model": "OPENCV_FISHEYE"}, "fisheye and pinhole cameras are mixed"),
        ({"camera_model": "PINHOLE", "is_fisheye": True}, "contradicts is_fisheye true"),
        ({"is_fisheye": "yes"}, "expected true or false"),
        ({"w": 48, "h": 32}, "mismatched image sizes"),
        ({"k6": 0.1}, "k6 of a lens OPENCV is not supported"),
        ({"skew": 0.5}, "skew of a lens OPENCV is not supported"),
        ({"rolling_shutter": [0.0, 0.1, 0.0]}, "cameras that move"),
        ({"transform_matrix_start": np.eye(4).tolist()}, "cameras that move"),
        ({"camera_angle_y": 4.0}, "between 0 and pi"),
        ({"x_fov": 200.0}, "degrees between 0 and 180"),
        ({"mask_path": "masks/none.png"}, "missing mask 'masks/none.png'"),
        ({"distortion_params": [0.1, 0.2]}, "distortion_params has 2 numbers; expected 6: k1, k2, k3, k4, p1, p2"),
        ({"distortion_params": [0.1, 0.2, 0.3, 0.4]}, "distortion_params has 4 numbers; expected 6"),
        ({"distortion_params": 0.1}, "distortion_params is 0.1; expected 6"),
        ({"distortion_params": [0.1, 0.2, None, 0.0, 0.0, 0.0]}, "field 'k3' is None; expected a finite number"),
    ],
)
def test_frames_that_would_be_read_wrongly_are_refused(tmp_path, more, words):
    made = write_capture(tmp_path)
    del made["camera_angle_x"]
    made["frames"] = [{"camera_angle_x": 0.7, **frame} for frame in made["frames"]]
    if "x_fov" in more:
        del made["frames"][0]["camera_angle_x"]
    write_json(tmp_path, made | {"frames": changed_frames(made, **more)})
    with pytest.raises(CaptureError) as caught:
        load_capture(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"latlong": True}, {"equirectangular": True}, {"white_transparent": True}, {"black_transparent": True},
        {"mask_color": [1.0, 0.0, 1.0]}, {"ftheta_p1": 0.001}, {"orthographic": True}, {"fix_premult": True},
        {"is_fisheye": True, "p1": 0.01}, {"distortion_params": [0.1, 0.0, 0.0, 0.01, 0.0, 0.0]},
        {"is_fisheye": True, "distortion_params": [0.1, 0.0, 0.0, 0.0, 0.01, 0.0]}, {"from_mitsuba": True},
        {"normal_mts_args": {}}, {"mask_path": "mask.png"},
    ],
)  # fmt: skip
def test_files_that_would_be_read_wrongly_are_refused(tmp_path, fields):
    write_capture(tmp_path, **fields)
    with pytest.raises(CaptureError, match="not supported"):
        load_capture(tmp_path)


def test_switches_that_are_off_are_no_obstacle(tmp_path):
    off = {
        "from_mitsuba": False,
        "latlong": False,
        "rolling_shutter": [0, 0, 0, 0],
        "mask_color": None,
        "k6": 0,
        "is_fisheye": False,
    }
    ngp = {"aabb_scale": 16, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "from_na": False, "sharpness": 12.5}
    write_capture(tmp_path, **off, **ngp)
    assert load_capture(tmp_path).remarks == ()


def test_unknown_fields_are_named_in_one_line(tmp_path):
    made = write_capture(tmp_path, wobble=3)
    write_json(tmp_path, made | {"frames": [frame | {"quality": 5} for frame in made["frames"]]})
    (line,) = load_capture(tmp_path).remarks
    assert line.endswith("not known and have no effect: wobble, quality")
    write_json(tmp_path, {**made, "frames": changed_frames(made, time=0.5), "wobble": 1})
    assert "'time' has no effect: the scene is fitted as if nothing moved" in load_capture(tmp_path).remarks[0]
    write_json(tmp_path, {**made, "from_na": True, "wobble": 1})
    assert "'from_na' has no effect: poses are read as OpenGL's" in load_capture(tmp_path).remarks[0]


def test_sizes_of_frames(tmp_path):
    """A frame's own w and h are those of its picture; two sizes make two cameras."""
    names = ["images/a.png", "images/b.png"]
    write_picture(tmp_path / names[0], 24, 16, 100)
    write_picture(tmp_path / names[1], 16, 24, 200)
    frames = frames_of(names, fl_x=30.0)
    frames[0] |= {"w": 24, "h": 16}
    frames[1] |= {"w": 16, "h": 24}
    write_json(tmp_path, {"frames": frames})
    capture = load_capture(tmp_path)
    assert capture.images.shape == (2, 24, 24, 4)
    np.testing.assert_allclose(np.asarray(capture.cameras.intrinsics)[:, :2, 2], [[12, 8], [8, 12]])


def test_nerfstudios_lists_are_the_split(tmp_path):
    made = write_capture(tmp_path, count=6)
    names = [frame["file_path"] for frame in made["frames"]]

    def split(**lists):
        write_json(tmp_path, made | lists)
        capture = load_capture(tmp_path)
        return capture.names, () if capture.test is None else capture.test.names, capture

    train, test, capture = split(train_filenames=names[:3], val_filenames=names[3:5], test_filenames=["./" + names[5]])
    assert train == tuple(names[:3]) and test == (names[5],)
    assert capture.images[2, 0, 0, 0] == pytest.approx(40 / 255)
    assert any("2 of 6 views are in neither list" in line for line in capture.remarks)
    np.testing.assert_allclose(capture.test.images[0, 0, 0, 0], 100 / 255)
    train, test, _ = split(train_filenames=names[:4], val_filenames=names[4:], test_filenames=[])
    assert train == tuple(names[:4]) and test == tuple(names[4:])
    train, test, _ = split(test_filenames=names[1:2])
    assert train == (names[0], *names[2:]) and test == (names[1],)
    with pytest.raises(CaptureError, match="names the held-out views"):
        load_capture(tmp_path, hold_out=2)
    for lists, words in (
        ({"test_filenames": ["images/none.png"]}, "which no frame has"),
        ({"test_filenames": names}, "leave no view to fit"),
        ({"train_filenames": "images"}, "no list of file names"),
        ({"train_filenames": [3]}, "no list of file names"),
    ):
        write_json(tmp_path, made | lists)
        with pytest.raises(CaptureError, match=words):
            load_capture(tmp_path)
