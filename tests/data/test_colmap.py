"""COLMAP models that pycolmap itself wrote: cameras, poses, points, and one line for each that is wrong."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from im3d_jax.data import captures
from splat.lenses import image_points


pycolmap = pytest.importorskip("pycolmap")

ROOT = pathlib.Path(__file__).resolve().parents[2]
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
    pycolmap.set_random_seed(0)
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
    for file in picture.parent.iterdir():
        file.unlink()
    assert "missing image" in refused(tmp_path) and "all 4 views" in refused(tmp_path)
    whole = (tmp_path / "sparse/0/frames.bin").read_bytes()
    (tmp_path / "sparse/0/frames.bin").write_bytes(whole[:8] + bytes(len(whole) - 8))
    assert "not a readable COLMAP model" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install 'im3d-jax[colmap]'" in refused(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_models_without_points(tmp_path, suffix):
    """As nerfstudio reads them; observations of the missing points are no obstacle."""
    made = synthesize(tmp_path, "PINHOLE")
    model = tmp_path / "sparse/0"
    if suffix == ".txt":
        for file in model.iterdir():
            file.unlink()
        made.write_text(str(model))
    whole = captures.load_capture(tmp_path)
    assert len(whole.points) == 30 and whole.remarks == ()
    for rigs in (True, False):
        for name in ("points3D",) if rigs else ("rigs", "frames"):
            (model / (name + suffix)).unlink()
        before = {file.name: file.read_bytes() for file in model.iterdir()}
        bare = captures.load_capture(tmp_path)
        assert bare.points is None and bare.colours is None and bare.names == whole.names
        np.testing.assert_array_equal(bare.cameras.world_to_camera, whole.cameras.world_to_camera)
        np.testing.assert_array_equal(bare.cameras.intrinsics, whole.cameras.intrinsics)
        np.testing.assert_array_equal(bare.images, whole.images)
        assert bare.remarks == (f"{model}: the model has no points, so the fit starts without them",)
        assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    (model / f"images{suffix}").unlink()
    assert f"images{suffix} is missing beside cameras{suffix}; copy the whole model" in refused(tmp_path)


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


def test_cameras_of_several_sizes_and_masks(tmp_path):
    """As image_undistorter writes: two cameras whose pictures differ by a row; and COLMAP's masks."""
    made = synthesize(tmp_path, "PINHOLE", num_cameras_per_rig=2)
    names = sorted(image.name for image in made.images.values())
    camera = made.images[next(n for n, image in made.images.items() if image.name == names[0])].camera_id
    mine = {image.name for image in made.images.values() if image.camera_id == camera}
    made.cameras[camera].height = 31
    made.write(str(tmp_path / "sparse/0"))
    for name in mine:
        Image.fromarray(np.full((31, 40, 3), 200, np.uint8)).save(tmp_path / "images" / name)
    mask = np.full((30, 40), 255, np.uint8)
    mask[:, 30:] = 0
    other = next(name for name in names if name not in mine)
    place = tmp_path / "masks" / f"{other}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.parent.joinpath(other).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(place)
    capture = captures.load_capture(tmp_path)
    assert capture.images.shape[1:] == (31, 40, 4) and len(capture.images) == len(names)
    for name, valid in zip(capture.names, capture.valid, strict=True):
        rows, columns = (31, 40) if name in mine else (30, 30 if name == other else 40)
        assert valid[:rows, :columns].all() and valid.sum() == rows * columns
    assert any(line.startswith("masks of 1 of") for line in capture.remarks)


def test_missing_pictures_other_cases_and_spaces(tmp_path):
    made = synthesize(tmp_path, "PINHOLE")
    names = sorted(image.name for image in made.images.values())
    for image in made.images.values():
        if image.name == names[1]:
            image.name = "a photo.JPG"
    made.write(str(tmp_path / "sparse/0"))
    (tmp_path / "images" / names[0]).unlink()
    (tmp_path / "images" / names[1]).rename(tmp_path / "images/A Photo.jpg")
    capture = captures.load_capture(tmp_path)
    assert set(capture.names) == {"a photo.JPG", *names[2:]}
    assert "1 of 4 pictures are missing and left out" in capture.remarks[0]
    place = capture.names.index("a photo.JPG")
    pose = next(image for image in made.images.values() if image.name == "a photo.JPG").cam_from_world()
    np.testing.assert_allclose(capture.cameras.world_to_camera[place, :3], pose.matrix(), atol=1e-5)
    for file in (tmp_path / "sparse/0").glob("*.bin"):
        file.unlink()
    made.write_text(str(tmp_path / "sparse/0"))
    assert set(captures.load_capture(tmp_path).names) == set(capture.names)
    assert captures.load_capture(tmp_path / "sparse/0/cameras.txt").digest() == capture.digest()


def test_a_model_far_from_the_origin(tmp_path):
    """Earth-centred poses and points lose nothing: float64 until a centre is subtracted."""
    made = synthesize(tmp_path, "PINHOLE")
    near = captures.load_capture(tmp_path)
    shift = np.array([4_201_000.25, 780_123.75, 4_720_456.5])
    made.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), shift))
    made.write(str(tmp_path / "sparse/0"))
    far = captures.load_capture(tmp_path)
    assert near.centre is None and far.centre is not None
    moved = far.points.astype(np.float64) + far.centre[None] - shift[None]
    np.testing.assert_allclose(moved, near.points, atol=2e-6)
    eyes = np.asarray(far.cameras.positions, np.float64) + far.centre[None] - shift[None]
    np.testing.assert_allclose(eyes, near.cameras.positions, atol=1e-4)


@pytest.mark.parametrize("beside", ["same", "other", "applied"])
def test_a_model_beside_a_camera_file_gives_its_points(tmp_path, beside):
    """The file's world is the model's turned, scaled and shifted, as nerfstudio and instant-ngp write it."""
    made = synthesize(tmp_path, "PINHOLE", num_frames_per_rig=6)
    model = captures.load_capture(tmp_path)
    turn = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]) if beside == "applied" else np.eye(3)
    scale, shift = (0.25, np.array([3.0, -2, 1])) if beside == "applied" else (1.0, np.zeros(3))
    frames = []
    for image in made.images.values():
        matrix = np.eye(4)
        pose = image.cam_from_world().matrix()
        matrix[:3, :3] = turn @ pose[:, :3].T @ np.diag([1.0, -1, -1])
        matrix[:3, 3] = scale * turn @ (-pose[:, :3].T @ pose[:, 3]) + shift
        if beside == "other":
            matrix[:3, 3] = np.random.default_rng(len(frames)).normal(size=3)
        frames.append({"file_path": f"images/{image.name}", "transform_matrix": matrix.tolist()})
    fields = {"fl_x": 50.0, "w": 40, "h": 30, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(fields))
    capture = captures.load_capture(tmp_path)
    if beside == "other":
        assert capture.points is None and "its cameras are not those of transforms.json" in capture.remarks[0]
    else:
        expected = scale * model.points.astype(np.float64) @ turn.T + shift[None]
        np.testing.assert_allclose(capture.points, expected, atol=1e-5)
        np.testing.assert_allclose(capture.colours, model.colours)


def test_other_models_are_named(tmp_path):
    """COLMAP's mapper writes sparse/1 and so on for pictures that it could not join to the first model."""
    synthesize(tmp_path)
    for name in ("1", "2", "old"):
        shutil.copytree(tmp_path / "sparse/0", tmp_path / "sparse" / name)
    (tmp_path / "sparse/3").mkdir()
    line = f"{tmp_path}/sparse/0: the models 1, 2 beside it are not used; to read one, give its folder as --data"
    assert captures.load_capture(tmp_path).remarks == (line,)
    assert captures.load_capture(tmp_path / "sparse/1").remarks == ()


def test_sigterm_still_reaches_the_program(tmp_path):
    """The import of pycolmap takes the signal for its own: a stack trace in place of what keeps the work."""
    synthesize(tmp_path)
    code = (
        "import os, pathlib, signal, sys; from im3d_jax.data.colmap import read_model\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('kept'))\n"
        "read_model(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGTERM)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "sparse/0")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
