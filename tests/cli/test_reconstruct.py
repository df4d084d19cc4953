"""`im3d reconstruct` on captures: its flags, its files, Ctrl-C and going on, held-out metrics."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from im3d_jax.cli import common, fits, stages
from im3d_jax.cli.main import main
from im3d_jax.cli.reconstruct import refuse_one_place
from im3d_jax.data import captures
from im3d_jax.models import lpips
from im3d_jax.images.files import encode_png, read_image
from im3d_jax.reconstruction import control, fitting
from splat.io import load_ply
from tests.cli.runs import results, write_capture


SMALL = ["--steps=12", "--gaussians=192", "--sh_degree=1"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture
def reconstruct(monkeypatch, capture, tmp_path):
    """Runs the command on the capture with small turntables."""
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(common, "load_model", lambda name: pytest.fail("a capture needs no model"))
    monkeypatch.setattr(stages, "TURNTABLE_SIDE", 16)
    monkeypatch.setattr(stages, "TURNTABLE_FRAMES", 2)

    def run(out, *more, steps=SMALL):
        return main(["reconstruct", f"--data={capture}", f"--out={tmp_path / out}", *steps, *more])

    return run


def test_a_run_its_files_and_ctrl_c(reconstruct, tmp_path, capsys, monkeypatch):
    assert reconstruct("whole") == 0
    shown = capsys.readouterr().err
    assert " dB, " in shown and "dB on the held-out view a" in shown
    whole = results(tmp_path / "whole")
    settings = json.loads(whole["run.json"])["settings"]
    assert settings["steps"] == 12 and settings["strategy"] == "default" and settings["gaussians"] == 192
    assert not {"model", "model_sha256", "quality"} & settings.keys()
    assert set(whole["metrics.json"]["test"]) == {"psnr", "ssim"} and whole["metrics.json"]["test"]["psnr"] > 5
    assert load_ply(tmp_path / "whole/asset.ply").sh_degree == 1
    pictures = sorted(name for name in whole if name.startswith("state/previews/"))
    assert len(pictures) == 12 and pictures[-1] == "state/previews/000012.png"
    preview = read_image(tmp_path / "whole" / pictures[-1])
    assert preview.shape == (16, 32, 4)
    np.testing.assert_allclose(preview[8, 8, :3], [0.7, 0.4, 0.2], atol=0.01)
    assert np.abs(preview[:, 16:, :3] - preview[:, :16, :3]).mean() > 1e-3, "the right half is our render"

    # Ctrl-C in the middle of the fit, twice; what is there is exported, and the rest ends with the same bytes.
    step, stops = fitting._step, iter((5, 4, 10**9))
    left = next(stops)

    def stopping(*arguments, **named):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(fitting, "_step", stopping)
    capsys.readouterr()
    for steps in (4, 7):
        assert reconstruct("cut") == 130
        assert f"stopped at step {steps} of 12" in capsys.readouterr().err
        assert len(load_ply(tmp_path / "cut/asset.ply")) > 50
        left = next(stops)
    # Another fit in the same folder does not go on from this one.
    assert reconstruct("cut", "--seed=1") == 0
    assert "going on" not in capsys.readouterr().err
    assert results(tmp_path / "cut")["asset.ply"] != whole["asset.ply"]
    left = 5
    assert reconstruct("cut", "--overwrite") == 130
    left = 10**9
    assert reconstruct("cut") == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert results(tmp_path / "cut") == whole


def test_an_asset_that_is_not_finite_is_not_exported(reconstruct, tmp_path, capsys, monkeypatch):
    final = fitting.final_gaussians

    def spoilt(state):
        gaussians = final(state)
        return gaussians.replace(means=gaussians.means.at[1, 0].set(np.nan))

    monkeypatch.setattr(fitting, "final_gaussians", spoilt)
    assert reconstruct("out") == 2
    shown = capsys.readouterr().err
    assert "gaussians hold a NaN or an infinity, so nothing was written" in shown and "Traceback" not in shown
    assert not (tmp_path / "out/asset.ply").exists() and (tmp_path / "out/state/fit0.npz").exists()


def test_checkpoints_are_gone_when_the_fit_is_done(reconstruct, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(fits, "CHECKPOINT_SECONDS", 0.0)
    save = fitting.save_state
    monkeypatch.setattr(fitting, "save_state", lambda path, *rest: (seen.append(path.name), save(path, *rest)))
    assert reconstruct("out", "--strategy=mcmc", "--pose_refinement", "--random_background") == 0
    assert seen == [".partial-fit0.partial.npz"] * 12 + [".partial-fit0.npz"]
    assert sorted(os.listdir(tmp_path / "out/state")) == ["fit0.npz", "previews", "stages.json"]
    # A process that was killed right after the stage's end leaves the checkpoint; the next start removes it.
    (tmp_path / "out/state/fit0.partial.npz").write_bytes(b"old")
    assert reconstruct("out", "--strategy=mcmc", "--pose_refinement", "--random_background") == 0
    assert not (tmp_path / "out/state/fit0.partial.npz").exists()
    config = fits.config_of(json.loads((tmp_path / "out/run.json").read_text())["settings"])
    state = fitting.load_state(tmp_path / "out/state/fit0.npz", config)
    motions = np.abs(np.asarray(state.poses.motions))
    assert motions[0].max() == 0 and motions[1:].max() > 0


def test_lpips_joins_the_metrics_without_another_fit(reconstruct, tmp_path, capsys):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in lpips.expected_shapes().items():
        # Stored as PyTorch does: OIHW.
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        arrays[name] = np.abs(rng.normal(0, 0.02, shape)).astype(np.float32)
    save_file(arrays, tmp_path / "vgg.safetensors")
    assert reconstruct("out") == 0
    assert "lpips" not in json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    capsys.readouterr()
    assert reconstruct("out", f"--lpips_weights={tmp_path / 'vgg.safetensors'}") == 0
    assert "fit to step 12: finished before" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["test"]["lpips"] > 0 and metrics["views"]["lpips"] > 0


def test_refused_flags(reconstruct, tmp_path, capsys, capture):
    def line(*flags):
        assert reconstruct("refused", *flags) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "--quality is for run folders" in line("--quality=draft")
    assert "--model is for run folders" in line("--model=tiny")
    assert "sh_degree" in line("--sh_degree=5")
    assert "strategy" in line("--strategy=best")
    assert "names the held-out views" in line("--hold_out=2")
    assert "vgg.pth is not a .safetensors" in line(f"--lpips_weights={tmp_path / 'vgg.pth'}")
    (tmp_path / "vgg.safetensors").write_bytes(b"no")
    assert "is damaged" in line(f"--lpips_weights={tmp_path / 'vgg.safetensors'}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cameras.json").write_text((capture / "transforms_train.json").read_text())
    for flag in ("--strategy=mcmc", "--steps=9", "--sh_degree=1", "--pose_refinement", "--gaussians=500"):
        assert main(["reconstruct", f"--data={tmp_path / 'run'}", f"--out={tmp_path / 'o'}", flag]) == 2
        shown = capsys.readouterr().err
        assert f"{flag.split('=')[0]} is for captures" in shown and shown.count("\n") == 1
    (tmp_path / "sv3d/unet").mkdir(parents=True)
    foreign = f"--model={tmp_path / 'sv3d'}"
    assert main(["reconstruct", f"--data={tmp_path / 'run'}", f"--out={tmp_path / 'o'}", foreign]) == 2
    shown = capsys.readouterr().err
    assert "has no network that a fit compares with" in shown and shown.count("\n") == 1
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

    assert "1 view from one place, which leaves all depths open" in line(edited(all_but(1)))
    assert "4 views from one place" in line(edited(turned_about_one_eye))
    assert "1 view from one place (--hold_out=2 leaves 1 to fit)" in line(edited(all_but(2)), "--hold_out=2")
    # Where a fit begins on a model's points, one view will do.
    alone = captures.load_capture(edited(all_but(1)))
    refuse_one_place(dataclasses.replace(alone, points=np.eye(4, 3, dtype=np.float32)), 0)


@pytest.mark.parametrize("steps", [1, 2, 40, 1000, 7000, 30_000])
def test_schedules_fit_any_length(steps):
    config = fits.config_of(
        {
            "steps": steps,
            "strategy": "default",
            "sh_degree": 3,
            "random_background": False,
            "pose_refinement": False,
            "gaussians": 1000,
        }
    )
    calls = [step for step in range(steps) if control.densifies(step, config)]
    resets = [step for step in range(steps) if control.resets(step, config)]
    assert 3 * config.sh_every <= max(steps, 3), "all harmonics are free before the end"
    if steps >= 1000:
        assert 10 <= len(calls) <= 150 and calls[0] >= 100 and calls[-1] <= 0.7 * steps
        assert config.sh_every == min(1000, steps // 7)
    assert resets == {7000: [3000], 30_000: [3000, 6000, 9000, 12_000]}.get(steps, [])


def test_one_program_of_many_steps_equals_one_a_step(capture):
    from im3d_jax.data.captures import load_capture

    views = load_capture(capture)
    config = fitting.capture_config(12, strategy="mcmc", sh_degree=1, capacity=192, refine_poses=True)
    targets = fitting.Targets(jax.numpy.asarray(views.images))
    start = fitting.init_state(jax.random.key(0), config, views.cameras, targets=targets)
    ends = [
        fitting.fit(start, targets, views.cameras, config, stop_step=6, looped=looped)[0] for looped in (False, True)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *ends)


def test_fits_of_generated_views_go_on_inside_a_part(by_hand, tmp_path, monkeypatch, capsys):
    def generate(out):
        return main(["generate", "--prompt=a red mug", "--quality=draft", "--rounds=0", f"--out={tmp_path / out}"])

    assert generate("whole") == 0
    step, left = fitting._step, 8

    def stopping(*arguments, **named):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(fitting, "_step", stopping)
    assert generate("cut") == 130
    assert len(load_ply(tmp_path / "cut/asset.ply")) > 50
    capsys.readouterr()
    assert generate("cut") == 0
    assert "going on from step 6" in capsys.readouterr().err
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_colmap_model_through_its_lens(reconstruct, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
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
