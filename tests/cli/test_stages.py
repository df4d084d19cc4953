"""Whole runs with a model that draws by hand: files, resuming, interruption, and what counts."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from im3d_jax.cli import metrics
from im3d_jax.cli.main import main
from im3d_jax.images.files import read_image
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.reconstruction import fitting
from tests.cli.runs import results


GENERATED = [
    "asset.ply",
    "asset_sheet.png",
    "cameras.json",
    "input.png",
    "metrics.json",
    "run.json",
    "sheet.png",
    "state",
    "timings.json",
    "turntable.mp4",
    "views",
    "views.mp4",
    "views_round1",
    "views_round2",
]


def generate(folder, *more):
    return main(["generate", "--prompt=a red mug", "--quality=draft", f"--out={folder}", *more])


def test_generate(by_hand, tmp_path, capsys, monkeypatch):
    out = tmp_path / "whole"
    assert generate(out) == 0
    assert sorted(path.name for path in out.iterdir()) == GENERATED
    assert (out / "asset.ply").stat().st_mode == (out / "run.json").stat().st_mode
    assert by_hand.calls == ["image", "views", "elevation", "refine 1", "refine 2"]
    run = json.loads((out / "run.json").read_text())
    assert run["network_evaluations"] == 8 + 24 + 2 * 9
    assert run["settings"]["prompt"] == "a red mug" and run["seed"] == 0 and "jax" in run["versions"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"views", "seconds", "gaussians"} and metrics["gaussians"] > 0
    for views in ("views", "views_round1", "views_round2"):
        names = sorted(path.name for path in (out / views).iterdir())
        assert names == [f"{index:02d}.png" for index in range(16)]
        np.testing.assert_array_equal(read_image(out / views / "00.png"), read_image(out / "input.png"))
    assert (out / "views_round1/05.png").read_bytes() != (out / "views/05.png").read_bytes()
    cameras = json.loads((out / "cameras.json").read_text())
    assert cameras["elevation_deg"] == pytest.approx(np.degrees(0.25))
    assert len(cameras["frames"]) == 16 and cameras["frames"][3]["file_path"] == "views/03.png"

    # A second run finds everything finished.
    before, calls = results(out), list(by_hand.calls)
    assert generate(out) == 0
    assert by_hand.calls == calls and results(out) == before
    assert "finished before" in capsys.readouterr().err

    # Stopped in each fit and each drawing, and resumed: the same bytes.
    cut = tmp_path / "cut"
    fit, refine = fitting.fit, by_hand.refine
    interrupted = iter(range(100))

    def stopping(function):
        def call(*arguments, **named):
            result = function(*arguments, **named)
            if next(interrupted) % 2 == 0:
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(fitting, "fit", stopping(fit))
    monkeypatch.setattr(by_hand, "refine", stopping(refine))
    codes = []
    while not codes or codes[-1]:
        codes.append(generate(cut))
        assert len(codes) < 10
    assert codes == [130] * 5 + [0]
    assert results(cut) == before

    # Another seed is refused, then made on demand.
    assert generate(cut, "--seed=1") == 2
    assert results(cut) == before
    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(by_hand, "refine", refine)
    assert generate(cut, "--seed=1", "--overwrite", "--rounds=0") == 0
    assert not (cut / "views_round1").exists()
    assert (cut / "asset.ply").read_bytes() != (out / "asset.ply").read_bytes()

    # The second half alone, on the first half's files.
    assert main(["reconstruct", f"--data={out}", f"--out={tmp_path / 'again'}", "--quality=draft"]) == 0
    assert json.loads((tmp_path / "again/run.json").read_text())["network_evaluations"] == 0
    assert set(json.loads((tmp_path / "again/metrics.json").read_text())) == {"views", "seconds", "gaussians"}


def test_views_from_a_picture(by_hand, tmp_path, capsys):
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[10:50, 20:40] = (200, 30, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "box.png")
    flags = [f"--image={tmp_path / 'box.png'}", "--elevation_deg=12.5", f"--out={tmp_path / 'run'}"]
    assert main(["views", *flags, "--prompt=a xyzzy box on a wooden table"]) == 0
    assert by_hand.calls == ["views"], "the elevation was given and the picture too"
    shown = capsys.readouterr().err
    assert "xyzzy" in shown and "im3d doctor --vocabulary" in shown
    assert "longer than the model reads, its end is left out: table\n" in shown
    prepared = read_image(tmp_path / "run/input.png")
    assert prepared.shape == (24, 24, 4)
    rows = np.nonzero((prepared[..., 3] >= 0.5).any(1))[0]
    assert np.ptp(rows) + 1 == 12, "the longer side is half of the picture, as the model asks"
    assert (tmp_path / "run/views/00.png").read_bytes() == (tmp_path / "run/input.png").read_bytes()
    assert json.loads((tmp_path / "run/cameras.json").read_text())["elevation_deg"] == pytest.approx(12.5)
    assert not (tmp_path / "run/asset.ply").exists()

    # The picture counts by its content: a copy elsewhere is the same, a change is not.
    shutil.move(tmp_path / "box.png", tmp_path / "moved.png")
    flags[0] = f"--image={tmp_path / 'moved.png'}"
    assert main(["views", *flags, "--prompt=a xyzzy box on a wooden table"]) == 0
    assert by_hand.calls == ["views"]
    pixels[20:30, 25:30, 2] = 200
    Image.fromarray(pixels).save(tmp_path / "moved.png")
    assert main(["views", *flags, "--prompt=a xyzzy box on a wooden table"]) == 2


def test_a_picture_found_wanting_late_costs_no_results(by_hand, tmp_path, capsys):
    assert main(["views", "--prompt=a red mug", f"--out={tmp_path / 'run'}"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[30:33, 20:23] = 255  # passes all checks but the last
    Image.fromarray(pixels).save(tmp_path / "dot.png")
    capsys.readouterr()
    assert main(["views", f"--image={tmp_path / 'dot.png'}", f"--out={tmp_path / 'run'}", "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()} == before


def test_figures():
    white, clear = np.ones((2, 16, 16, 4), np.float32), np.zeros((2, 16, 16, 4), np.float32)
    assert metrics.compare(white, clear) == {"psnr": 100.0, "ssim": 1.0}, "both are white on white"
    grey = white.copy()
    grey[..., :3] = 0.9
    assert metrics.compare(grey, white)["psnr"] == pytest.approx(20.0, abs=1e-3)


def test_unfinished_folders_hold_no_settings(by_hand, tmp_path, monkeypatch):
    """Ctrl-C during the first stage leaves a folder that another command may take."""

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(by_hand, "draw_image", stop)
    assert generate(tmp_path / "run") == 130
    RunFolder(tmp_path / "run", {"other": 1})
