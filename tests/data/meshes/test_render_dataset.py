"""`im3d render-dataset` from files to files: output, resuming, failures, and one line for what is wrong."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from im3d_jax.cli.main import main
from im3d_jax.data.meshes.sources import find_meshes, object_id
from im3d_jax.data.turntable_folder import TurntableFolder
from im3d_jax.errors import InputError
from tests.data.meshes.files import CUBE_MTL, CUBE_OBJ, Gltf, cube_glb


SMALL = ("--views=4", "--size=32", "--workers=1")


@pytest.fixture
def meshes(tmp_path):
    """A folder of two good meshes, and a folder to write."""
    folder = tmp_path / "meshes"
    (folder / "kit").mkdir(parents=True)
    (folder / "kit" / "Red_Cube_02.glb").write_bytes(cube_glb())
    (folder / "box.obj").write_text(CUBE_OBJ)
    (folder / "cube.mtl").write_text(CUBE_MTL)
    (folder / "notes.txt").write_text("no mesh")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.glb").write_bytes(cube_glb())
    return folder


def run(meshes, out, *flags):
    return main(["render-dataset", f"--meshes={meshes}", f"--out={out}", *SMALL, *flags])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sources(meshes):
    table = {"box.obj": {"caption": "a wooden box", "licence": "CC0"}}
    found = find_meshes(meshes, table)
    assert [(item.name, item.caption, item.columns) for item in found] == [
        ("box.obj", "a wooden box", {"licence": "CC0"}),
        ("kit/Red_Cube_02.glb", "red cube", {}),
    ]
    assert found[1].id.startswith("red-cube-") and found[1].id == object_id("kit/Red_Cube_02.glb")
    assert object_id("kit/Red_Cube_03.glb") != found[1].id
    for name, start in (("椅子.glb", "object-"), ("a/" + "long_" * 60 + ".glb", "long-"), ("\udcff.glb", "object-")):
        key = object_id(name)
        assert key.startswith(start) and len(key) < 60 and key.isascii()


def test_output(meshes, tmp_path, renderer, capsys):
    table = tmp_path / "table.tsv"
    table.write_text("path\tcaption\tlicence\tsize\nkit/Red_Cube_02.glb\ta red cube\tCC0\tlarge\ngone.glb\tx\ty\tz\n")
    out = tmp_path / "out"
    assert run(meshes, out, f"--captions={table}", "--elevation=dynamic:0:45") == 0
    told = capsys.readouterr().err
    assert "1 of 2 paths" in told and "2 turntables" in told
    assert sorted(path.name for path in out.iterdir()) == ["failed.jsonl", "index.jsonl", "objects", "settings.json"]
    box, cube = lines(out / "index.jsonl")
    assert (box["source"], box["caption"]) == ("box.obj", "box")
    assert (cube["caption"], cube["licence"], cube["table_size"], cube["size"]) == ("a red cube", "CC0", "large", 32)
    assert cube["azimuth_deg"] == [0, 90, 180, 270] and (cube["fov_deg"], cube["distance"]) == (33.8, 3.44)
    content = (out / "objects" / f"{cube['id']}.png").read_bytes()
    assert hashlib.sha256(content).hexdigest() == cube["sha256"]
    item = TurntableFolder(out)[1]
    assert item.rgba.shape == (4, 32, 32, 4) and item.caption == "a red cube"
    np.testing.assert_allclose(np.degrees(item.elevations), cube["elevation_deg"], rtol=1e-5)
    # Frame 0 sees the red front, frame 1 the blue right side.
    assert item.rgba[0, 16, 16].argmax() == 3 and item.rgba[0, 16, 16, 0] > 100 > item.rgba[0, 16, 16, 2]
    assert item.rgba[1, 16, 16, 2] > 100 > item.rgba[1, 16, 16, 0]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["elevation"] == "dynamic:0:45" and settings["format"] == 1


def test_resuming_changes_nothing(meshes, tmp_path, renderer, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    assert run(meshes, out) == 0
    whole = contents(out)
    times = {path: os.stat(path).st_mtime_ns for path in (out / "objects").iterdir()}
    assert run(meshes, out) == 0 and "2 of 2 objects are there already" in capsys.readouterr().err
    assert times == {path: os.stat(path).st_mtime_ns for path in (out / "objects").iterdir()}
    # In two halves, with a line that a crash cut and a file that it left.
    assert run(meshes, again, "--limit=1") == 0
    with (again / "index.jsonl").open("a") as file:
        file.write('{"id": "red-cu')
    (again / "objects" / ".partial-red.png").write_bytes(b"half")
    assert run(meshes, again) == 0
    assert contents(again) == whole
    # A lost picture is drawn again.
    next((out / "objects").glob("red-cube*")).unlink()
    assert run(meshes, out) == 0 and contents(out) == whole


def test_captions_follow_the_table(meshes, tmp_path, renderer):
    out = tmp_path / "out"
    assert run(meshes, out) == 0
    table = tmp_path / "table.tsv"
    table.write_text("path\tcaption\nbox.obj\ta small chest\n")
    assert run(meshes, out, f"--captions={table}") == 0
    assert [entry["caption"] for entry in lines(out / "index.jsonl")] == ["a small chest", "red cube"]


def test_two_workers_write_the_same(meshes, tmp_path, renderer):
    for number in range(3):
        (meshes / f"cube {number}.glb").write_bytes(cube_glb(rotation=[0, number / 4, 0, 1]))
    assert run(meshes, tmp_path / "one") == 0
    assert run(meshes, tmp_path / "two", "--workers=2") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_other_settings_are_refused(meshes, tmp_path, renderer, capsys):
    out = tmp_path / "out"
    assert run(meshes, out) == 0
    before = contents(out)
    assert run(meshes, out, "--seed=3", "--elevation=fixed:20") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "elevation was fixed:15, now fixed:20; seed was 0, now 3" in told and "--overwrite" in told
    assert contents(out) == before
    assert run(meshes, out, "--elevation=fixed:20", "--overwrite", "--limit=1") == 0
    assert [entry["elevation_deg"][0] for entry in lines(out / "index.jsonl")] == [20.0]
    assert len(list((out / "objects").iterdir())) == 1


def test_yaw_turns_the_object_under_the_light(meshes, tmp_path, renderer):
    assert run(meshes, tmp_path / "front") == 0 and run(meshes, tmp_path / "any", "--yaw=per_object") == 0
    front, turned = (TurntableFolder(tmp_path / name)[1].rgba for name in ("front", "any"))
    assert np.abs(front.astype(int) - turned).mean() > 1
    np.testing.assert_allclose((turned[..., 3] > 127).mean(), (front[..., 3] > 127).mean(), rtol=0.1)


def test_bad_meshes_are_listed_and_skipped(meshes, tmp_path, renderer, capsys):
    bad = {"cut.glb": cube_glb()[:300], "text.glb": b"hello", "empty.obj": b"v 0 0 0\n", "nothing.gltf": b""}
    gltf = Gltf()
    gltf.node([gltf.primitive(np.full((4, 3), np.nan))])
    bad["nan.glb"] = gltf.glb()
    gltf = Gltf()
    gltf.cube()
    gltf.document["accessors"][0]["count"] = 4_000_000_000
    bad["bomb.glb"] = gltf.glb()
    for name, content in bad.items():
        (meshes / name).write_bytes(content)
    out = tmp_path / "out"
    assert run(meshes, out) == 0
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if line.startswith("skipped ")]) == len(bad)
    assert told[-1].endswith("2 turntables in " + str(out) + f", {len(bad)} meshes skipped")
    failed = lines(out / "failed.jsonl")
    assert {entry["source"] for entry in failed} == set(bad) and all(entry["reason"] for entry in failed)
    # Mended ones are taken by a rerun.
    (meshes / "cut.glb").write_bytes(cube_glb())
    assert run(meshes, out) == 0
    assert len(lines(out / "index.jsonl")) == 3 and len(lines(out / "failed.jsonl")) == len(bad) - 1
    assert run(meshes, tmp_path / "none", "--only=cut*", "--limit=1") == 0
    assert run(meshes, tmp_path / "nothing", "--only=nan.glb") == 2
    assert "none of the 1 meshes could be used" in capsys.readouterr().err


def test_a_pack_renders_like_its_folder(meshes, tmp_path, renderer):
    pack = tmp_path / "props.meshpack"
    assert main(["render-dataset", f"--meshes={meshes}", f"--pack={pack}"]) == 0
    assert run(meshes, tmp_path / "folder") == 0 and run(pack, tmp_path / "packed") == 0
    for one, other in zip(TurntableFolder(tmp_path / "folder"), TurntableFolder(tmp_path / "packed"), strict=True):
        assert (one.key, one.caption) == (other.key, other.caption)
        assert np.abs(one.rgba.astype(int) - other.rgba).mean() < 0.1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--meshes is missing"),
        (("--meshes={meshes}",), "either --out"),
        (("--meshes={meshes}", "--out={out}", "--pack=x"), "either --out"),
        (("--meshes={meshes}/none", "--out={out}"), "no such folder"),
        (("--meshes={meshes}/.hidden/b", "--out={out}"), "no such folder"),
        (("--meshes={empty}", "--out={out}"), "holds no meshes"),
        (("--meshes={meshes}", "--out={out}", "--only=mug"), "matches no mesh"),
        (("--meshes={meshes}", "--out={out}", "--elevation=up:3"), "expected fixed:15"),
        (("--meshes={meshes}", "--out={out}", "--views=85"), "85"),
        (("--meshes={meshes}", "--out={out}", "--size=8"), "8"),
        (("--meshes={meshes}", "--out={out}", "--captions=none.tsv"), "none.tsv cannot be read"),
        (("--meshes={meshes}", "--out={meshes}"), "holds something else"),
        # Told before the meshes are looked for.
        (("--meshes={meshes}/none", "--out=//"), "--out=// holds something else"),
        (("--meshes={meshes}/notes.txt", "--out={out}"), "no pack of meshes"),
    ],
)
def test_wrong_input_is_one_line(meshes, tmp_path, capsys, flags, words):
    (tmp_path / "empty").mkdir()
    places = {"meshes": meshes, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    assert main(["render-dataset", *(flag.format(**places) for flag in flags)]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_overwritten(meshes, tmp_path):
    out = tmp_path / "photos"
    (out / "objects").mkdir(parents=True)
    (out / "objects" / "a.png").write_bytes(b"dear")
    with pytest.raises(InputError, match="holds something else"):
        from im3d_jax.data.meshes.dataset import DatasetFolder
        from im3d_jax.data.meshes.settings import RenderSettings

        DatasetFolder(out, RenderSettings(), overwrite=True)
    assert (out / "objects" / "a.png").read_bytes() == b"dear"


def started(meshes, out, *flags, before="", **more):
    """The program in a process of its own; `before` is a shell command that goes first."""
    command = [sys.executable, "-m", "im3d_jax", "render-dataset", f"--meshes={meshes}", f"--out={out}", *SMALL, *flags]
    command = ["bash", "-c", f'{before or "true"}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)


def test_no_egl_is_one_line(meshes, tmp_path, renderer):
    nothing = {**os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES": "/dev/null", "__EGL_VENDOR_LIBRARY_DIRS": "/dev/null"}
    process = started(meshes, tmp_path / "out", env=nothing)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "libegl1" in told.splitlines()[-1] and "Traceback" not in told
    assert not list((tmp_path / "out" / "objects").iterdir())


def test_a_full_disk_is_one_line(meshes, tmp_path, renderer):
    """Files may have two blocks of 1024 bytes: the first picture does not fit."""
    out = tmp_path / "out"
    process = started(meshes, out, "--size=128", before="ulimit -f 2")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in told
    assert "cannot write" in told.splitlines()[-1] and "make room" in told
    assert not list((out / "objects").iterdir()) and (out / "index.jsonl").read_text() == ""
    assert run(meshes, out, "--size=128") == 0 and len(TurntableFolder(out)) == 2


def test_ctrl_c_keeps_what_is_done(meshes, tmp_path, renderer):
    for number in range(60):
        (meshes / f"cube {number:02}.glb").write_bytes(cube_glb())
    out = tmp_path / "out"
    process = started(meshes, out, "--views=16", "--size=128")
    for _ in range(600):
        if (out / "objects").is_dir() and len(list((out / "objects").glob("*.png"))) > 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "finished work is kept" in told and "Traceback" not in told
    done = TurntableFolder(out)
    assert 2 < len(done) < 62 and done[len(done) - 1].rgba.shape == (16, 128, 128, 4)
    assert not list((out / "objects").glob(".partial*"))


@pytest.fixture
def draw(meshes, tmp_path):
    """Starts drawing all meshes of the folder in one process."""
    from im3d_jax.data.meshes.model import Limits
    from im3d_jax.data.meshes.settings import RenderSettings
    from im3d_jax.data.meshes.workers import draw_all

    (tmp_path / "out" / "objects").mkdir(parents=True)

    def draw(views=4, size=32, **more):
        return draw_all(
            find_meshes(meshes, {}), meshes=str(meshes), packed=False, out=str(tmp_path / "out"),
            settings=RenderSettings(views, size), limits=Limits(), workers=1, **more,
        )  # fmt: skip

    return draw


def test_a_worker_that_dies_costs_its_mesh(meshes, draw, renderer):
    (meshes / "z.glb").write_bytes(cube_glb())
    drawn = draw()
    assert next(drawn)[1] == "done"
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    assert [(source.name, kind) for source, kind, _ in drawn] == [("kit/Red_Cube_02.glb", "failed"), ("z.glb", "done")]
    assert not multiprocessing.active_children()


def test_a_mesh_that_takes_too_long_is_given_up(draw, renderer):
    started = time.monotonic()
    results = [(kind, value) for _, kind, value in draw(84, 1024, seconds=0.1)]
    assert results == [("failed", "takes longer than 0.1 s")] * 2
    assert time.monotonic() - started < 30


def test_the_folder_has_one_process_and_keeps_what_is_not_its_own(tmp_path):
    from im3d_jax.data.meshes.dataset import DatasetFolder
    from im3d_jax.data.meshes.settings import RenderSettings

    folder = DatasetFolder(tmp_path / "out", RenderSettings())
    with pytest.raises(InputError, match=rf"another process \({os.getpid()}\) renders into --out="):
        DatasetFolder(tmp_path / "out", RenderSettings(), overwrite=True)
    del folder
    for name in ("red-mug-0123456789.png", "mine.png"):
        (tmp_path / "out/objects" / name).write_bytes(b"x")
    folder = DatasetFolder(tmp_path / "out", RenderSettings(), overwrite=True)
    assert [path.name for path in folder.objects.iterdir()] == ["mine.png"]
    del folder
    (tmp_path / "out/objects/mine.png").rename(tmp_path / "mine.png")
    (tmp_path / "out/objects").rmdir()
    (tmp_path / "out/objects").symlink_to(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="objects is a symbolic link"):
            DatasetFolder(tmp_path / "out", RenderSettings(), overwrite=overwrite)
    assert (tmp_path / "mine.png").exists()
    (tmp_path / "out/objects").unlink()
    (tmp_path / "out/index.jsonl").unlink(missing_ok=True)
    (tmp_path / "out/index.jsonl").symlink_to(tmp_path / "mine.png")
    with pytest.raises(InputError, match="index.jsonl is a symbolic link"):
        DatasetFolder(tmp_path / "out", RenderSettings())
    assert (tmp_path / "mine.png").read_bytes() == b"x"
