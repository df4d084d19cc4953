"""`im3d generate` and `im3d views` with a model without networks: files, finished work, refusals, Ctrl-C."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from im3d_jax.cli.main import main
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import read_image
from im3d_jax.output.run_folder import RunFolder
from tests.fake_model import ELEVATION, PICTURE_EVALUATIONS, REFINE_EVALUATIONS, VIEW_EVALUATIONS
from tests.runs import results


GENERATED = [
    "asset.ply",
    "asset_sheet.png",
    "cameras.json",
    "comparison.png",
    "input.png",
    "metrics.json",
    "run.json",
    "sheet.png",
    "state",
    "timings.json",
    "turntable.mp4",
    "viewer.html",
    "views",
    "views.mp4",
    "views_round1",
    "views_round2",
]


MEASURED = {"against_first_views", "against_targets", "seconds", "gaussians"}


def generate(folder, *more):
    return main(["generate", "--prompt=a red mug", "--quality=draft", f"--out={folder}", *more])


def test_generate(fake, tmp_path, capsys):
    out = tmp_path / "whole"
    assert generate(out) == 0
    assert sorted(path.name for path in out.iterdir()) == GENERATED
    assert (out / "asset.ply").stat().st_mode == (out / "run.json").stat().st_mode
    assert fake.calls == ["picture", "views", "orbit", "refine 1", "refine 2"]
    run = json.loads((out / "run.json").read_text())
    assert run["network_evaluations"] == PICTURE_EVALUATIONS + VIEW_EVALUATIONS + 2 * REFINE_EVALUATIONS
    assert run["settings"]["request"]["prompt"] == "a red mug" and run["seed"] == 0 and "jax" in run["versions"]
    assert len(run["sha256"]) == 64 and run["model"] == "fake" and run["perceptual_features"] == "two levels"
    assert run["orbit"]["elevation"] == "estimated" and run["orbit"]["direction"] == "ccw"
    for part in ("refine1", "refine2"):
        assert run[part]["rejected"] == [] and len(run[part]["kept"]) == 16 and run[part]["kept"][0] == 1.0
        assert run[part] == json.loads((out / f"state/{part}.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == MEASURED and metrics["gaussians"] > 0
    assert metrics["against_first_views"]["psnr"] != metrics["against_targets"]["psnr"]
    first, compared = read_image(out / "views/05.png"), read_image(out / "comparison.png")
    assert compared.shape[0] > 8 * len(first), "eight rows: the first views, and the asset below each row of them"
    row, column = 2 * (len(first) + 2), len(first) + 2
    shown = compared[row : row + len(first), column : column + len(first), :3]
    np.testing.assert_allclose(shown, composite(first), atol=0.01)
    for views in ("views", "views_round1", "views_round2"):
        names = sorted(path.name for path in (out / views).iterdir())
        assert names == [f"{index:02d}.png" for index in range(16)]
        np.testing.assert_array_equal(read_image(out / views / "00.png"), read_image(out / "input.png"))
    assert (out / "views_round1/05.png").read_bytes() != (out / "views/05.png").read_bytes()
    cameras = json.loads((out / "cameras.json").read_text())
    assert cameras["elevation_deg"] == pytest.approx(np.degrees(ELEVATION)) and cameras["family"] == fake.family
    assert len(cameras["frames"]) == 16 and cameras["frames"][3]["file_path"] == "views/03.png"

    # A second run finds everything finished.
    before, calls = results(out), list(fake.calls)
    capsys.readouterr()
    assert generate(out) == 0
    assert fake.calls == calls and results(out) == before
    assert "views: already finished" in capsys.readouterr().err

    # The page is made of files alone, and is the run's.
    page = (out / "viewer.html").read_bytes()
    assert b"<h1>A red mug</h1>" in page and main(["view", "--page", str(out)]) == 0
    assert (out / "viewer.html").read_bytes() == page
    capsys.readouterr()

    # Another seed is refused by its name, then made on demand.
    assert generate(out, "--seed=1") == 2
    line = capsys.readouterr().err
    assert "other settings (request.seed was 0, now 1)" in line and "--overwrite" in line and line.count("\n") == 1
    assert results(out) == before
    assert generate(out, "--seed=1", "--overwrite", "--rounds=0") == 0
    assert not (out / "views_round1").exists()
    assert (out / "asset.ply").read_bytes() != before["asset.ply"]

    # The second half alone, on the first half's files.
    assert main(["reconstruct", f"--data={out}", f"--out={tmp_path / 'again'}", "--quality=draft"]) == 0
    assert json.loads((tmp_path / "again/run.json").read_text())["network_evaluations"] == 0
    again = json.loads((tmp_path / "again/metrics.json").read_text())
    assert set(again) == MEASURED and again["against_first_views"] == again["against_targets"]


@pytest.fixture
def box(tmp_path):
    """Writes a picture [60, 60, 4] of a red box; `change` may edit its pixels."""

    def write(name, change=lambda pixels: None):
        pixels = np.zeros((60, 60, 4), np.uint8)
        pixels[10:50, 20:40] = (200, 30, 30, 255)
        change(pixels)
        Image.fromarray(pixels).save(tmp_path / name)
        return f"--image={tmp_path / name}"

    return write


def test_views_from_a_picture(fake, box, tmp_path, capsys):
    flags = ["views", "--elevation_deg=12.5", f"--out={tmp_path / 'run'}", "--prompt=a xyzzy box on a wooden table"]
    assert main([*flags, box("box.png")]) == 0
    assert fake.calls == ["views", "orbit"], "the picture was given"
    assert "ignored: xyzzy" in capsys.readouterr().err
    prepared = read_image(tmp_path / "run/input.png")
    assert prepared.shape == (24, 24, 4)
    rows = np.nonzero((prepared[..., 3] >= 0.5).any(1))[0]
    assert abs(np.ptp(rows) + 1 - fake.target_fraction * 24) <= 1, "as large in the picture as the model asks"
    assert (tmp_path / "run/views/00.png").read_bytes() == (tmp_path / "run/input.png").read_bytes()
    assert json.loads((tmp_path / "run/cameras.json").read_text())["elevation_deg"] == pytest.approx(12.5)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["orbit"]["elevation"] == "given" and "fit" not in run["settings"]["views"]
    assert not (tmp_path / "run/asset.ply").exists()
    shown = read_image(tmp_path / "run/cut_out.png")
    assert shown.shape == (60, 60, 4) and run["cut_out"]["warnings"] == [] and run["cut_out"]["share"] == 0.2222
    np.testing.assert_allclose(shown[30, 30], (200 / 255, 30 / 255, 30 / 255, 1.0), atol=1e-6)
    assert shown[0, 0, 0] == shown[0, 0, 1] and shown[0, 0, 3] == 1.0, "grey where the background was"

    # What shows the cut-out is mended like all else.
    before = (tmp_path / "run/cut_out.png").read_bytes()
    (tmp_path / "run/cut_out.png").unlink()
    assert main([*flags, f"--image={tmp_path / 'box.png'}"]) == 0
    assert fake.calls == ["views", "orbit"] and (tmp_path / "run/cut_out.png").read_bytes() == before

    # The picture counts by its content: a copy elsewhere is the same, a change is not.
    shutil.move(tmp_path / "box.png", tmp_path / "moved.png")
    assert main([*flags, f"--image={tmp_path / 'moved.png'}"]) == 0
    assert fake.calls == ["views", "orbit"]
    capsys.readouterr()

    def paint(pixels):
        pixels[20:30, 25:30, 2] = 200

    assert main([*flags, box("moved.png", paint)]) == 2
    assert "request.image was" in capsys.readouterr().err


def test_a_cut_out_that_looks_wrong_is_told_with_its_picture(fake, box, tmp_path, capsys):
    def cut_off(pixels):
        pixels[:12], pixels[12:14, 20:40] = 0, 0
        pixels[14:60, 20:40] = (200, 30, 30, 255)

    def whole(pixels):
        pixels[:], pixels[0] = 255, 0

    assert main(["views", box("cut.png", cut_off), f"--out={tmp_path / 'run'}"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cut.png: " in line]
    assert "lie on the picture's border" in line and line.endswith(f"; see {tmp_path / 'run/cut_out.png'}")
    assert len(json.loads((tmp_path / "run/run.json").read_text())["cut_out"]["warnings"]) == 1
    assert main(["views", box("whole.png", whole), f"--out={tmp_path / 'other'}"]) == 2
    line = capsys.readouterr().err
    assert "whole.png: 98% of the picture would be the object" in line and line.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_a_picture_found_wanting_late_costs_no_results(fake, box, tmp_path, capsys):
    assert main(["views", "--prompt=a red mug", f"--out={tmp_path / 'run'}"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}

    def only_a_dot(pixels):  # passes all checks but the last
        pixels[:] = 0
        pixels[30:33, 20:23] = 255

    capsys.readouterr()
    assert main(["views", box("dot.png", only_a_dot), f"--out={tmp_path / 'run'}", "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("call", ["picture", "views", "orbit", "refine 2"])
def test_ctrl_c(fake, call, tmp_path, capsys):
    """Code 130 and one line; finished work is kept and not drawn again."""
    fake.failures[call] = KeyboardInterrupt()
    assert generate(tmp_path / "run") == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "im3d: stopped; finished work is kept, rerun the same command to resume"
    if call == "picture":
        # Nothing is finished: another command may take the folder.
        RunFolder(tmp_path / "run", {"other": 1})
    fake.calls.clear()
    assert generate(tmp_path / "run") == 0
    assert fake.calls[0] == call


def test_memory_that_runs_out_on_the_way(fake, tmp_path, capsys):
    fake.memory = "24gb"
    fake.failures["views"] = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9.")
    assert generate(tmp_path / "run") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "smaller preset than --memory=24gb" in last and "Traceback" not in last
    assert (tmp_path / "run/input.png").exists(), "finished work is kept"
