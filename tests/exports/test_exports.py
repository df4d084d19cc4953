"""What exports hold: gaussians in every format, turntables, and folders that other programs train on."""

import io

import av
import numpy as np
import pytest
from PIL import Image

import splat
from im3d_jax.data.captures import load_capture
from im3d_jax.errors import InputError
from im3d_jax.exports.cameras import is_view_folder, view_files
from im3d_jax.exports.kinds import FOLDERS, GAUSSIANS, KINDS, VIDEOS, default_out, export
from im3d_jax.exports.orbits import orbit_of
from im3d_jax.exports.pages import page_of
from im3d_jax.exports.source import open_source
from im3d_jax.exports.videos import VideoSettings, encode_video, parse_background, parse_size
from im3d_jax.output.renders import render_views
from splat import math as splat_math
from splat.io.files import on_device
from tests.exports.runs import SIDE, VIEWS, gaussians, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mug")


@pytest.fixture(scope="module")
def source(folder):
    return open_source(str(folder))


def test_a_run_is_read_with_its_views(source):
    assert len(source.rows) == 60 and source.left_out == 0 and source.metrics["seconds"] == 3.0
    assert source.views.images.shape == (VIEWS, SIDE, SIDE, 4) and source.request["prompt"] == "a red mug"
    assert source.views.images[0, 10, 10, 0] == pytest.approx(0.8, abs=0.01)
    assert source.refined[0, 10, 10, 0] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("kind", GAUSSIANS)
@pytest.mark.filterwarnings("ignore:.splat files hold")
def test_gaussians_come_back(source, tmp_path, kind):
    path = tmp_path / f"a{GAUSSIANS[kind][0]}"
    assert export(source, kind, path) == path.stat().st_size
    back = open_source(str(path)).rows
    # Packed formats have an order of their own.
    order, expected = (np.lexsort(np.round(rows.means, 2).T) for rows in (back, source.rows))
    np.testing.assert_allclose(back.means[order], source.rows.means[expected], atol=2e-3)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_lean_files_hold_degree_0_alone(tmp_path):
    splat.save(tmp_path / "a.ply", gaussians(terms=16))
    with pytest.warns(UserWarning, match="lean PLY files hold SH degree 0: the coefficients up to degree 3 are left"):
        export(open_source(str(tmp_path / "a.ply")), "ply-lean", tmp_path / "b.ply")
    header = (tmp_path / "b.ply").read_bytes().split(b"end_header")[0]
    assert header.count(b"property float") == 14 and b"f_rest" not in header


def test_foreign_files_keep_their_frame(tmp_path):
    """y-down, as most captures; into a format with y up and back."""
    splat.save(tmp_path / "a.ply", gaussians(terms=4))
    export(open_source(str(tmp_path / "a.ply"), "-y"), "glb", tmp_path / "b.glb")
    up = np.asarray(splat.load(tmp_path / "b.glb", up="y").means)
    np.testing.assert_allclose(up, np.asarray(gaussians().means) @ np.diag([1.0, -1.0, -1.0]), atol=1e-6)


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    broken = gaussians()
    splat.save(tmp_path / "a.ply", broken)
    data = bytearray((tmp_path / "a.ply").read_bytes())
    place = data.index(b"end_header\n") + len(b"end_header\n")
    data[place : place + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "b.ply").write_bytes(data)
    source = open_source(str(tmp_path / "b.ply"))
    assert len(source.rows) == 59 and source.left_out == 1
    export(source, "spz", tmp_path / "b.spz")
    assert len(splat.load(tmp_path / "b.spz").means) == 59


def test_sources_that_hold_nothing(tmp_path, folder):
    (tmp_path / "empty.ply").write_bytes(b"")
    (tmp_path / "text.ply").write_bytes(b"hello")
    (tmp_path / "views").mkdir()
    splat.save(tmp_path / "none.ply", gaussians(), np.zeros(60, bool))
    for name, message in (
        ("absent", "no such file or folder"),
        ("empty.ply", "the file is empty; expected gaussians in .ply, .spz"),
        ("text.ply", "does not start with 'ply'"),
        ("none.ply", "none of its 0 gaussians can be drawn"),
        ("views", "no asset.ply in this folder; make one with im3d generate"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / name))


def test_places_of_exports(tmp_path):
    for given, kind, expected in (
        ("a.ply", "spz", "a.spz"),
        ("a.compressed.ply", "sog", "a.sog"),
        ("a.v4.spz", "html", "a.html"),
        ("a.b.ply", "compressed-ply", "a.b.compressed.ply"),
        ("a.ply", "colmap", "a-colmap"),
    ):
        assert default_out(str(tmp_path / given), kind) == str(tmp_path / expected)
    (tmp_path / "run.1").mkdir()
    assert default_out(f"{tmp_path}/run.1/", "glb") == str(tmp_path / "run.1.glb")
    assert set(KINDS) == {*GAUSSIANS, *VIDEOS, *FOLDERS, "html"}


def test_titles_of_pages_without_views(tmp_path):
    splat.save(tmp_path / "a.b.compressed.ply", gaussians(), compressed=True)
    page = page_of(open_source(str(tmp_path / "a.b.compressed.ply"))).decode()
    assert "<h1>a.b</h1>" in page and "Gaussian splat PLY" in page
    run = write_run(tmp_path / "lego.v2")
    (run / "run.json").write_text("{}")
    (run / "cameras.json").unlink()
    page = page_of(open_source(str(run))).decode()
    assert "<h1>lego.v2</h1>" in page and "Gaussian splat<" in page


def frames_of(content, kind):
    if kind == "mp4":
        with av.open(io.BytesIO(content)) as file:
            return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with Image.open(io.BytesIO(content)) as image:
        made = []
        for index in range(image.n_frames):
            image.seek(index)
            made.append(np.asarray(image.convert("RGBA")))
        return made


@pytest.mark.parametrize("kind", VIDEOS)
def test_turntables(source, kind):
    settings = VideoSettings(32, 24, frames=6, frames_per_second=10, background=(0.0, 0.0, 1.0))
    content = encode_video(source, kind, settings)
    frames = frames_of(content, kind)
    assert len(frames) == 6 and frames[0].shape[:2] == (24, 32)
    assert frames[0][1, 1, 2] > 200 and frames[0][1, 1, 0] < 60, "the background"
    assert np.abs(frames[0].astype(int) - frames[3]).max() > 60, "it turns"
    assert content == encode_video(source, kind, settings)


def test_turntables_are_drawn_in_blocks(source):
    """20 frames are two blocks; each is as if it was drawn alone."""
    frames = frames_of(encode_video(source, "gif", VideoSettings(16, 16, frames=20, background=None)), "gif")
    images = render_views(on_device(source.rows), orbit_of(source).cameras(20, 16, 16))
    assert len(frames) == 20
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame[..., 3] > 0, np.rint(255 * image[..., 3]) > 127)


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_transparent_turntables(source, kind):
    frames = frames_of(encode_video(source, kind, VideoSettings(32, 32, frames=4, background=None)), kind)
    assert frames[0][0, 0, 3] == 0 and frames[0][16, 16, 3] > 200
    with pytest.raises(InputError, match="MP4 has no transparency"):
        encode_video(source, "mp4", VideoSettings(32, 32, frames=4, background=None))


def test_paths_of_turntables(source):
    orbit = orbit_of(source)
    assert np.degrees(orbit.turn.elevation) == pytest.approx(np.degrees(0.4), abs=0.01)
    turn = orbit.cameras(8, 32, 32)
    expected = splat.orbit_cameras(0.4, views=8, width=32, height=32)
    np.testing.assert_allclose(turn.world_to_camera, expected.world_to_camera, atol=1e-4)
    np.testing.assert_allclose(turn.intrinsics, expected.intrinsics, atol=1e-3)
    assert orbit.cameras(8, 64, 32).intrinsics[0, 0, 0] == pytest.approx(float(turn.intrinsics[0, 0, 0])), "its height"

    def angles(cameras):
        x, y, z = np.asarray(cameras.positions, np.float64).T
        return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))

    azimuths, elevations = angles(orbit.cameras(40, 32, 32, path="swing", elevation_deg=-10))
    np.testing.assert_allclose(elevations, -10, atol=1e-3)
    assert azimuths.max() == pytest.approx(40, abs=0.1) and azimuths.min() == pytest.approx(-40, abs=0.1)
    _, elevations = angles(orbit.cameras(40, 32, 32, path="rise"))
    assert np.ptp(elevations) == pytest.approx(60, abs=0.1)


def test_flags_of_turntables():
    assert parse_size("512") == (512, 512) and parse_size("640x360") == (640, 360)
    assert parse_background("White") == (1, 1, 1) and parse_background("transparent") is None
    assert parse_background("#336699") == (0.2, 0.4, 0.6)
    for text in ("0", "15", "513", "640x", "8192", "a", "-64"):
        with pytest.raises(InputError, match="expected even numbers from 16 to 4096"):
            parse_size(text)
    with pytest.raises(InputError, match="expected white, black"):
        parse_background("#12345")


def test_nerfstudio_folders_are_captures(source, tmp_path):
    export(source, "nerfstudio", tmp_path / "out")
    capture = load_capture(tmp_path / "out")
    np.testing.assert_allclose(capture.images, source.refined, atol=1e-6)
    np.testing.assert_allclose(capture.cameras.world_to_camera, source.views.cameras.world_to_camera, atol=1e-5)
    assert len(capture.points) > 10 and not capture.remarks


def test_colmap_folders(source, tmp_path):
    export(source, "colmap", tmp_path / "out")
    model = tmp_path / "out/sparse/0"
    number, kind, width, height, fx, fy, cx, cy = (model / "cameras.txt").read_text().split()
    assert (number, kind, width, height) == ("1", "PINHOLE", str(SIDE), str(SIDE))
    np.testing.assert_allclose([float(fx), float(cx)], source.views.cameras.intrinsics[0, 0, [0, 2]], rtol=1e-6)
    lines = (model / "images.txt").read_text().split("\n")
    assert len(lines) == 2 * VIEWS + 1 and not any(lines[1::2])
    for index, line in enumerate(lines[:-1:2]):
        words = line.split()
        assert words[0] == str(index + 1) and (tmp_path / "out/images" / words[9]).is_file()
        w, x, y, z = map(float, words[1:5])
        matrix = np.asarray(splat_math.quaternion_to_rotation(np.array([[w, x, y, z]], np.float32)))[0]
        pose = np.asarray(source.views.cameras.world_to_camera[index])
        np.testing.assert_allclose(matrix, pose[:3, :3], atol=1e-5)
        np.testing.assert_allclose([float(word) for word in words[5:8]], pose[:3, 3], atol=1e-5)
    points = np.loadtxt(model / "points3D.txt")
    assert points.shape[1] == 8 and 10 < len(points) <= 60


@pytest.mark.parametrize("kind", FOLDERS)
def test_captures_of_others_are_no_exports(source, tmp_path, kind):
    """`--overwrite` removes exports, and nothing that looks like one."""
    folder = tmp_path / "out"
    export(source, kind, folder)
    assert is_view_folder(folder)
    main = folder / ("transforms.json" if kind == "nerfstudio" else "sparse/0/cameras.txt")
    ours = main.read_bytes()
    main.write_bytes(b"# Camera list with one line of data per camera\n" + ours if kind == "colmap" else b"{}")
    assert not is_view_folder(folder), "another program's"
    main.write_bytes(ours)
    for name in ("images/IMG_0001.jpg", "images/07.png", "images/raw/00.png", "sparse/0/cameras.bin", "database.db"):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"mine")
        assert not is_view_folder(folder), name
        path.unlink()
    assert is_view_folder(folder)
    (folder / "images/00.png").rename(tmp_path / "00.png")
    assert not is_view_folder(folder), "not all of it"
    (folder / "images/00.png").symlink_to(tmp_path / "00.png")
    assert not is_view_folder(folder), "a link"


def test_colmap_folders_are_captures(source, tmp_path):
    pytest.importorskip("pycolmap")
    export(source, "colmap", tmp_path / "out")
    capture = load_capture(tmp_path / "out")
    np.testing.assert_allclose(capture.cameras.world_to_camera, source.views.cameras.world_to_camera, atol=1e-5)
    np.testing.assert_allclose(capture.images, source.refined, atol=1e-6)


def test_without_views_there_is_no_folder(tmp_path):
    splat.save(tmp_path / "a.ply", gaussians())
    with pytest.raises(InputError, match="a file of gaussians, so there are no pictures"):
        view_files(open_source(str(tmp_path / "a.ply")), "colmap")
