"""`im3d view` and `im3d export`: files beside their source, and refusals in one line."""

import os
import shutil
import stat

import numpy as np
import pytest

import splat
from im3d_jax.cli.main import main
from im3d_jax.errors import InputError
from tests.exports.runs import gaussians, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs/mug")


@pytest.fixture
def refused(capsys):
    """Runs the program, expects a refusal, returns its line."""

    def call(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and "Traceback" not in captured.err
        return captured.err

    return call


def test_exports_lie_beside_their_source(run, tmp_path, capsys):
    assert main(["export", str(run), "--to=spz"]) == 0
    assert main(["export", str(run), "--to=sog", f"--out={tmp_path / 'here.sog'}"]) == 0
    assert main(["export", f"--source={run / 'asset.ply'}", "--to=splat", f"--out={tmp_path / 'c.splat'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{run}.spz: 0.00 MB, 60 gaussians") and len(lines) == 3
    assert len(splat.load(f"{run}.spz").means) == len(splat.load(tmp_path / "here.sog").means) == 60


def test_what_is_lost_is_said_in_one_line(tmp_path, capsys):
    splat.save(tmp_path / "a.ply", gaussians(terms=4))
    assert main(["export", str(tmp_path / "a.ply"), "--to=splat"]) == 0
    line = capsys.readouterr().err
    assert line == "im3d: .splat files hold SH degree 0: the coefficients up to degree 1 are left out\n"


def test_gaussians_that_are_left_out_are_counted(tmp_path, capsys):
    splat.save(tmp_path / "a.ply", gaussians())
    data = (tmp_path / "a.ply").read_bytes()
    place = data.index(b"end_header\n") + len(b"end_header\n")
    (tmp_path / "a.ply").write_bytes(data[:place] + np.float32(np.nan).tobytes() + data[place + 4 :])
    assert main(["export", str(tmp_path / "a.ply"), "--to=spz"]) == 0
    assert capsys.readouterr().out.endswith(" MB, 59 gaussians (1 left out: not drawable)\n")


def test_pages(run, tmp_path, capsys):
    assert main(["view", "--page", str(run)]) == 0
    page = (run / "viewer.html").read_bytes()
    assert b"<h1>A red mug</h1>" in page and b"25.5 dB" in page and b"4 views" in page
    assert main(["export", str(run), "--to=html"]) == 0
    assert (tmp_path / "runs/mug.html").read_bytes() == page
    assert main(["view", "--page", str(run), f"--out={run / 'viewer.html'}"]) == 0
    assert (run / "viewer.html").read_bytes() == page
    splat.save(tmp_path / "b.glb", gaussians(terms=4))
    assert main(["view", "--page", str(tmp_path / "b.glb")]) == 0
    alone = (tmp_path / "b.html").read_bytes()
    assert b"<h1>b</h1>" in alone and b"Gaussian splat GLB" in alone and b"0 views" in alone
    assert main(["view", str(tmp_path / "b.glb"), "--page", "--up=-y", f"--out={tmp_path / 'c.html'}"]) == 0
    assert capsys.readouterr().err == ""


def test_the_page_of_a_run_without_views_stays(run, tmp_path, capsys):
    """Its gaussians alone would make a page without the pictures of the capture."""
    page = run / "viewer.html"
    page.write_text("with the pictures of the capture")
    shutil.rmtree(run / "views")
    for arguments in (["view", "--page", run], ["view", "--page", run, f"--out={page}"],
                      ["export", run, "--to=html", f"--out={page}", "--overwrite"]):  # fmt: skip
        assert main([str(argument) for argument in arguments]) == 0
        assert capsys.readouterr().out == f"{page}: the page that the run wrote\n"
    assert page.read_text() == "with the pictures of the capture"
    assert main(["view", "--page", str(run), f"--out={tmp_path / 'a.html'}"]) == 0
    assert b"0 views" in (tmp_path / "a.html").read_bytes()
    page.unlink()
    assert main(["view", "--page", str(run)]) == 0
    assert page.read_bytes() == (tmp_path / "a.html").read_bytes()


def test_devices_are_chosen_before_views_are_read(run, refused, monkeypatch):
    def none():
        raise InputError("no such device")

    (run / "views/00.png").write_bytes(b"damaged")
    assert "00.png" in refused("view", "--page", run)
    monkeypatch.setattr("im3d_jax.environment.start_jax", none)
    assert "no such device" in refused("view", "--page", run)


def test_refusals(run, tmp_path, refused):
    line = refused("export", "--to=spz")
    assert "no source; give a run folder or a file of gaussians, for example im3d export runs/mug" in line
    assert "--to is missing; expected one of ply, ply-lean" in refused("export", run)
    assert "--to=obj is no kind of file; expected one of" in refused("export", run, "--to=obj")
    assert "unexpected argument 'more'" in refused("export", run, "more", "--to=spz")
    assert "no such file or folder" in refused("export", tmp_path / "nothing", "--to=spz")
    assert "is the source itself" in refused("export", run / "asset.ply", "--to=ply")
    assert "would replace a result of the run" in refused("export", run, "--to=spz", f"--out={run / 'views/a.spz'}")
    assert "no does not exist; create it" in refused("export", run, "--to=spz", f"--out={tmp_path / 'no/a.spz'}")
    assert "--size is for turntables" in refused("export", run, "--to=spz", "--size=64")
    assert "--size=63: expected even" in refused("export", run, "--to=gif", "--size=63")
    assert "give --page: im3d view --page" in refused("view", run)
    assert "no source; give a run folder" in refused("view", "--page")
    (tmp_path / "empty.ply").write_bytes(b"")
    assert "the file is empty" in refused("view", "--page", tmp_path / "empty.ply")
    splat.save(tmp_path / "none.ply", gaussians(), gaussians().means[:, 0] > 100)
    assert "none of its 0 gaussians can be drawn" in refused("view", "--page", tmp_path / "none.ply")
    assert "no pictures with cameras" in refused("export", run / "asset.ply", "--to=colmap")
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob(".*"))


def test_nothing_is_replaced_unasked(run, tmp_path, refused):
    place = tmp_path / "a.spz"
    place.write_text("mine")
    assert "already exists; give another --out, or --overwrite" in refused("export", run, "--to=spz", f"--out={place}")
    assert place.read_text() == "mine"
    assert main(["export", str(run), "--to=spz", f"--out={place}", "--overwrite"]) == 0
    assert len(splat.load(place).means) == 60
    folder = tmp_path / "capture"
    assert main(["export", str(run), "--to=nerfstudio", f"--out={folder}"]) == 0
    (folder / "notes.txt").write_text("mine")
    line = refused("export", run, "--to=nerfstudio", f"--out={folder}", "--overwrite")
    assert "contains files that no export wrote" in line and (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    for kind in ("nerfstudio", "colmap"):
        assert main(["export", str(run), f"--to={kind}", f"--out={folder}", "--overwrite"]) == 0
        assert (folder / "sparse").exists() == (kind == "colmap")
    assert "is a folder, and --to=spz makes a file" in refused(
        "export", run, "--to=spz", f"--out={folder}", "--overwrite"
    )


@pytest.mark.parametrize("degrees", ["nan", "-NaN", "1e400", "-inf", "89"])
def test_elevations_of_turntables_are_numbers_within_bounds(run, tmp_path, refused, degrees):
    line = refused("export", run, "--to=gif", f"--out={tmp_path / 'a.gif'}", f"--elevation_deg={degrees}")
    assert "flag --elevation_deg=" in line and "in the range [-88.0, 88.0]" in line
    assert not (tmp_path / "a.gif").exists()


def test_devices_and_streams_stay(run, tmp_path, refused):
    os.mkfifo(tmp_path / "fifo")
    for place, kind in ((tmp_path / "fifo", "a FIFO"), ("/dev/stdout", "")):
        for source in (["export", run, "--to=spz"], ["export", run, "--to=colmap"], ["view", "--page", run]):
            for more in ([], ["--overwrite"]):
                line = refused(*source, f"--out={place}", *more)
                assert f"cannot write {place}: it is {kind}" in line and "regular files; give another --out" in line
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


def test_pages_replace_other_files_when_asked(run, tmp_path, refused):
    place = tmp_path / "a.html"
    place.write_text("mine")
    assert "or --overwrite to replace it" in refused("view", "--page", run, f"--out={place}")
    assert place.read_text() == "mine"
    assert main(["view", "--page", str(run), f"--out={place}", "--overwrite"]) == 0
    assert b"<h1>A red mug</h1>" in place.read_bytes()


def test_a_full_disk_leaves_nothing(run, tmp_path, refused, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert "No space left on device" in refused("export", run, "--to=spz", f"--out={tmp_path / 'a.spz'}")
    assert "No space left on device" in refused("export", run, "--to=colmap", f"--out={tmp_path / 'folder'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
