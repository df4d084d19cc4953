"""`im3d reconstruct` on captures: its files, its flags, held-out metrics, and what it refuses."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from im3d_jax.cli.main import main
from im3d_jax.data.captures import load_capture
from im3d_jax.generation import fits
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.images.files import encode_png, read_image
from im3d_jax.models import lpips
from im3d_jax.reconstruction import load_state
from splat.io import load_ply
from tests.runs import results, write_capture


SMALL = ["--steps=12", "--gaussians=192", "--sh_degree=1"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture
def reconstruct(capture, tmp_path):
    """Runs the command on the capture."""

    def run(out, *more, steps=SMALL):
        return main(["reconstruct", f"--data={capture}", f"--out={tmp_path / out}", *steps, *more])

    return run


def test_a_run_and_its_files(reconstruct, drawn_by, tmp_path, capsys):
    drawn_by(None)  # a capture needs no model
    assert reconstruct("whole") == 0
    shown = capsys.readouterr().err
    assert " dB, " in shown and "dB on the held-out view a" in shown
    whole = results(tmp_path / "whole")
    settings = json.loads(whole["run.json"])["settings"]
    assert settings["steps"] == 12 and settings["strategy"] == "default" and settings["gaussians"] == 192
    assert not {"model", "quality"} & settings.keys()
    assert set(whole["metrics.json"]["test"]) == {"psnr", "ssim"} and whole["metrics.json"]["test"]["psnr"] > 5
    assert load_ply(tmp_path / "whole/asset.ply").sh_degree == 1
    pictures = sorted(name for name in whole if name.startswith("state/previews/"))
    assert len(pictures) == 12 and pictures[-1] == "state/previews/000012.png"
    preview = read_image(tmp_path / "whole" / pictures[-1])
    assert preview.shape == (16, 32, 4)
    np.testing.assert_allclose(preview[8, 8, :3], [0.7, 0.4, 0.2], atol=0.01)
    assert np.abs(preview[:, 16:, :3] - preview[:, :16, :3]).mean() > 1e-3, "the right half is our render"

    # The data are the same, and are not said to differ.
    assert reconstruct("whole", "--steps=13") == 2
    line = capsys.readouterr().err
    assert "other settings (steps was 12, now 13; " in line and "sha256" not in line

    # LPIPS joins the metrics without another fit.
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in lpips.expected_shapes().items():
        # Stored as PyTorch does: OIHW.
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        arrays[name] = np.abs(rng.normal(0, 0.02, shape)).astype(np.float32)
    save_file(arrays, tmp_path / "vgg.safetensors")
    assert reconstruct("whole", f"--lpips_weights={tmp_path / 'vgg.safetensors'}") == 0
    assert "fit to step 12: already finished" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert metrics["test"]["lpips"] > 0 and metrics["views"]["lpips"] > 0


def test_checkpoints_are_gone_when_the_fit_is_done(reconstruct, capture, tmp_path, monkeypatch):
    seen, save = [], fits.save_state
    monkeypatch.setattr(fits, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(fits, "save_state", lambda path, *rest: (seen.append(path.name), save(path, *rest)))
    chosen = CaptureSettings(12, "mcmc", 1, random_background=True, pose_refinement=True, gaussians=192)
    flags = ["--strategy=mcmc", "--pose_refinement", "--random_background"]
    assert reconstruct("out", *flags) == 0
    assert len(seen) == 12 and all(name.startswith(".partial-") for name in seen)
    assert sorted(os.listdir(tmp_path / "out/state")) == ["fit0.npz", "previews", "stages.json"]
    # A process that was killed right after the stage's end leaves the checkpoint; the next start removes it.
    (tmp_path / "out/state/fit0.partial.npz").write_bytes(b"old")
    assert reconstruct("out", *flags) == 0
    assert not (tmp_path / "out/state/fit0.partial.npz").exists()
    state = load_state(tmp_path / "out/state/fit0.npz", chosen.config(load_capture(capture)))
    motions = np.abs(np.asarray(state.poses.motions))
    assert motions[0].max() == 0 and motions[1:].max() > 0


def test_refused_flags(reconstruct, tmp_path, capsys, capture):
    def line(*flags):
        assert reconstruct("refused", *flags) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "--quality is for run folders" in line("--quality=draft")
    assert "--model is for run folders" in line("--model=tiny")
    assert "sh_degree" in line("--sh_degree=5")
    for flag in ("--steps=99999999999999999999", "--steps=3000000000", "--hold_out=99999999999999999999"):
        assert "2147483647]" in line(flag) and not (tmp_path / "refused").exists()
    assert "strategy" in line("--strategy=best")
    assert "names the held-out views" in line("--hold_out=2")
    assert "vgg.pth: no such file" in line(f"--lpips_weights={tmp_path / 'vgg.pth'}")
    (tmp_path / "vgg.pth").write_bytes(b"PK")
    assert "vgg.pth is not a .safetensors" in line(f"--lpips_weights={tmp_path / 'vgg.pth'}")
    (tmp_path / "vgg.safetensors").write_bytes(b"no")
    assert "is damaged" in line(f"--lpips_weights={tmp_path / 'vgg.safetensors'}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cameras.json").write_text((capture / "transforms_train.json").read_text())
    for flag in ("--strategy=mcmc", "--steps=9", "--sh_degree=1", "--pose_refinement", "--gaussians=500"):
        assert main(["reconstruct", f"--data={tmp_path / 'run'}", f"--out={tmp_path / 'o'}", flag]) == 2
        shown = capsys.readouterr().err
        assert f"{flag.split('=')[0]} is for captures" in shown and shown.count("\n") == 1
    (tmp_path / "run/a.png").write_bytes((capture / "a.png").read_bytes())
    (tmp_path / "none/unet").mkdir(parents=True)
    broken = f"--model={tmp_path / 'none'}"
    assert main(["reconstruct", f"--data={tmp_path / 'run'}", f"--out={tmp_path / 'o'}", broken]) == 2
    shown = capsys.readouterr().err
    assert "none/unet" in shown and shown.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_the_camera_file_as_data(capture, tmp_path, capsys):
    def line(data, out, *more):
        assert main(["reconstruct", f"--data={data}", f"--out={out}", *SMALL, *more]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    file = capture / "transforms_train.json"
    assert "--out and --data are the same folder" in line(file, capture)
    assert "is among the results" in line(file, capture / "state")
    assert "--quality is for run folders" in line(file, tmp_path / "o", "--quality=draft")
    assert "not a camera file" in line(capture / "a.png", tmp_path / "o")
    assert "no such folder" in line(capture / "none.json", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_views_from_one_place_are_refused(reconstruct, tmp_path, capsys, capture):
    def edited(change):
        fields = json.loads((capture / "transforms_train.json").read_text())
        change(fields["frames"])
        folder = tmp_path / "edited"
        folder.mkdir(exist_ok=True)
        (folder / "a.png").write_bytes((capture / "a.png").read_bytes())
        (folder / "transforms.json").write_text(json.dumps(fields))
        return folder

    def line(folder, *more):
        assert main(["reconstruct", f"--data={folder}", f"--out={tmp_path / 'o'}", *SMALL, *more]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and not (tmp_path / "o").exists()
        return shown

    def turned_about_one_eye(frames):
        for frame in frames:
            for row, number in zip(frame["transform_matrix"], (3.0, -2.0, 0.7), strict=False):
                row[3] = number

    def all_but(count):
        return lambda frames: frames.__delitem__(slice(count, None))

    assert "1 view from one place, so depth cannot be recovered" in line(edited(all_but(1)))
    assert "4 views from one place" in line(edited(turned_about_one_eye))
    assert "1 view from one place (--hold_out=2 leaves 1 to fit)" in line(edited(all_but(2)), "--hold_out=2")


def test_a_colmap_model_through_its_lens(reconstruct, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    pycolmap.set_random_seed(0)  # other tests of the process draw too
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, 4
    options.num_points3D, options.camera_width, options.camera_height = 60, 24, 16
    options.camera_params = [30.0, 12.0, 8.0, 0.05]  # SIMPLE_RADIAL
    made = pycolmap.synthesize_dataset(options)
    (tmp_path / "data/sparse/0").mkdir(parents=True)
    (tmp_path / "data/images").mkdir()
    made.write(str(tmp_path / "data/sparse/0"))
    for image in made.images.values():
        picture = np.full((16, 24, 3), 0.4, np.float32)
        (tmp_path / "data/images" / image.name).write_bytes(encode_png(picture))
    flags = ["--steps=4", "--gaussians=100", "--sh_degree=0", "--hold_out=3"]
    assert main(["reconstruct", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}", *flags]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert np.isfinite(metrics["test"]["psnr"]) and metrics["gaussians"] >= 60
    started = load_ply(tmp_path / "out/asset.ply")
    points = np.stack([point.xyz for point in made.points3D.values()])
    nearest = np.linalg.norm(np.asarray(started.means)[:60, None] - points[None], axis=-1).min(1)
    assert np.median(nearest) < 0.1, "four steps from the model's points"
