"""COLMAP models that pycolmap itself wrote: cameras, poses, points, and one line for each that is wrong."""

import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from im3d_jax.data import captures
from splat.lenses import image_points


pycolmap = pytest.importorskip("pycolmap")

MODELS = {
    "SIMPLE_PINHOLE": [50.0, 20.0, 15.0],
    "PINHOLE": [50.0, 52.0, 19.0, 14.0],
    "SIMPLE_RADIAL": [50.0, 20.0, 15.0, 0.05],
    "RADIAL": [50.0, 20.0, 15.0, 0.05, -0.02],
    "OPENCV": [50.0, 52.0, 19.0, 14.0, 0.05, -0.02, 0.003, -0.004],
    "FULL_OPENCV": [50.0, 52.0, 19.0, 14.0, 0.05, -0.02, 0.003, -0.004, 0.01, 0.02, 0.01, 0.005],
    "SIMPLE_RADIAL_FISHEYE": [50.0, 20.0, 15.0, 0.05],
    "RADIAL_FISHEYE": [50.0, 20.0, 15.0, 0.05, -0.02],
    "OPENCV_FISHEYE": [50.0, 52.0, 19.0, 14.0, 0.05, -0.02, 0.01, -0.005],
}


def synthesize(folder, model="SIMPLE_PINHOLE", width=40, height=30, **options):
    """Writes a model and its pictures, the i-th of grey level 20 i; returns pycolmap's own object."""
    wanted = pycolmap.SyntheticDatasetOptions()
    settings = {"num_rigs": 1, "num_cameras_per_rig": 1, "num_frames_per_rig": 4, "num_points3D": 30} | options
    settings |= {"camera_width": width, "camera_height": height, "camera_params": MODELS[model]}
    settings["camera_model_id"] = getattr(pycolmap.CameraModelId, model)
    for name, value in settings.items():
        setattr(wanted, name, value)
    made = pycolmap.synthesize_dataset(wanted)
    for number, point in enumerate(made.points3D.values()):
        point.color = np.array([number, 2 * number, 3 * number], np.uint8)
    (folder / "sparse/0").mkdir(parents=True)
    (folder / "images").mkdir()
    made.write(str(folder / "sparse/0"))
    for number, image in enumerate(sorted(made.images.values(), key=lambda image: image.name)):
        Image.fromarray(np.full((30, 40, 3), 20 * number, np.uint8)).save(folder / "images" / image.name)
    return made


@pytest.mark.parametrize("model", MODELS)
def test_points_land_where_colmap_puts_them(tmp_path, model):
    made = synthesize(tmp_path, model)
    capture = captures.load_capture(tmp_path)
    images = sorted(made.images.values(), key=lambda image: image.name)
    assert capture.names == tuple(image.name for image in images) and not capture.generated
    assert capture.images.shape == (4, 30, 40, 4) and capture.images[3, 0, 0, 0] == pytest.approx(60 / 255)
    numbers = sorted(made.points3D)
    np.testing.assert_allclose(capture.points, [made.points3D[n].xyz for n in numbers], rtol=1e-6)
    np.testing.assert_allclose(capture.colours * 255, [made.points3D[n].color for n in numbers], atol=1e-4)
    distorted = "PINHOLE" not in model
    assert (capture.cameras.distortion is not None) == distorted
    local = jnp.einsum("vij,nj->vni", capture.cameras.world_to_camera[:, :3, :3], jnp.asarray(capture.points))
    local = local + capture.cameras.world_to_camera[:, None, :3, 3]
    ours = image_points(capture.cameras, *jnp.moveaxis(local, -1, 0))
    compared = 0
    for view, image in enumerate(images):
        for row, number in enumerate(numbers):
            theirs = image.project_point(made.points3D[number].xyz)
            if theirs is None or not ((theirs > 0) & (theirs < [40, 30])).all():
                continue
            got = np.array([ours.u[view, row], ours.v[view, row]])
            np.testing.assert_allclose(got, theirs, atol=2e-3)
            compared += 1
    assert compared >= 40


def test_downscale_and_other_places(tmp_path):
    synthesize(tmp_path, "PINHOLE")
    whole, half = captures.load_capture(tmp_path), captures.load_capture(tmp_path, downscale=2)
    assert half.images.shape == (4, 15, 20, 4)
    np.testing.assert_allclose(half.cameras.intrinsics[:, :2] * 2, whole.cameras.intrinsics[:, :2])
    assert captures.load_capture(tmp_path / "sparse/0").digest() == whole.digest()
    held = captures.load_capture(tmp_path, hold_out=3)
    assert len(held.images) == 2 and len(held.test.images) == 2 and held.points is not None


def refused(folder):
    with pytest.raises(captures.CaptureError) as caught:
        captures.load_capture(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(tmp_path, monkeypatch):
    made = synthesize(tmp_path, "PINHOLE")
    name = sorted(image.name for image in made.images.values())[2]
    picture = tmp_path / "images" / name
    Image.fromarray(np.zeros((30, 41, 3), np.uint8)).save(picture)
    assert "mismatched image sizes" in refused(tmp_path)
    picture.unlink()
    assert f"missing image '{name}'" in refused(tmp_path)
    whole = (tmp_path / "sparse/0/frames.bin").read_bytes()
    (tmp_path / "sparse/0/frames.bin").write_bytes(whole[:8] + bytes(len(whole) - 8))
    assert "not a readable COLMAP model" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install 'im3d-jax[colmap]'" in refused(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """{name: bytes} of a sound model's files."""
    folder = tmp_path_factory.mktemp("sound")
    synthesize(folder)
    return {file.name: file.read_bytes() for file in (folder / "sparse/0").iterdir()}


def announce(raw, place, kind, count):
    return raw[:place] + struct.pack(kind, count) + raw[place + struct.calcsize(kind) :]


FILES = ("cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, lambda raw: b"") for name in FILES),
        *((name, lambda raw: raw[:5]) for name in FILES),
        *((name, lambda raw: b"\xff" * len(raw)) for name in FILES),
        *((name, lambda raw: announce(raw, 0, "<Q", 10**6)) for name in FILES),
        *((name, lambda raw: raw[:-1]) for name in ("cameras.bin", "images.bin", "points3D.bin", "frames.bin")),
        ("points3D.bin", lambda raw: announce(raw, 8 + 43, "<Q", 10**9)),
        ("images.bin", lambda raw: announce(raw, raw.index(b".png\0") + 5, "<Q", 10**9)),
        ("images.bin", lambda raw: raw.replace(b"\0", b"x")),
        ("frames.bin", lambda raw: announce(raw, 8 + 64, "<I", 2**32 - 1)),
    ],
)
def test_a_file_shorter_than_its_counts_never_reaches_pycolmap(tmp_path, sound, monkeypatch, name, damage):
    for file, raw in sound.items():
        (tmp_path / file).write_bytes(damage(raw) if file == name else raw)
    monkeypatch.setattr(pycolmap, "Reconstruction", lambda path: pytest.fail("read without end"))
    line = refused(tmp_path)
    assert f"{name}: " in line and "fewer than the counts in it require" in line


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_numbers_beyond_any_scene_are_refused(tmp_path, number):
    made = synthesize(tmp_path)
    point = next(iter(made.points3D.values()))
    before = point.xyz.copy()
    point.xyz = np.array([0.0, number, 0.0])
    made.write(str(tmp_path / "sparse/0"))
    assert "a point holds a number that is not finite or above 1e+15" in refused(tmp_path)
    point.xyz = before
    frame = next(iter(made.frames.values()))
    frame.rig_from_world = pycolmap.Rigid3d(frame.rig_from_world.rotation, np.array([number, 0.0, 0.0]))
    made.write(str(tmp_path / "sparse/0"))
    assert "the pose of an image holds a number" in refused(tmp_path)


@pytest.mark.parametrize(
    ("place", "number", "words"),
    [
        (0, 1e14, "focal length 1e+14, 52 pixels for 40x30"),
        (2, 1e15, "centre at 1e+15, 14 pixels for 40x30"),
        (4, 1e12, "distortion of 1e+12"),
    ],
)
def test_lenses_beyond_the_bounds_are_refused(tmp_path, place, number, words):
    made = synthesize(tmp_path, "OPENCV")
    for camera in made.cameras.values():
        camera.params = [*MODELS["OPENCV"][:place], number, *MODELS["OPENCV"][place + 1 :]]
    made.write(str(tmp_path / "sparse/0"))
    assert words in refused(tmp_path)


def test_unknown_lenses_are_refused(tmp_path):
    made = synthesize(tmp_path, "PINHOLE")
    for camera in made.cameras.values():
        camera.model = pycolmap.CameraModelId.FOV
        camera.params = [50.0, 52.0, 19.0, 14.0, 0.1]
    made.write(str(tmp_path / "sparse/0"))
    assert "camera model FOV is not supported" in refused(tmp_path)
