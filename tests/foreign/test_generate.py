"""`im3d generate` and `im3d views` on foreign video models: files, counts, equality, resuming."""

import json

import numpy as np
import pytest

from im3d_jax.cli import common, stages
from im3d_jax.cli.main import main
from im3d_jax.foreign import recipes
from im3d_jax.images.files import read_image
from im3d_jax.reconstruction import fitting
from tests.cli.runs import results
from tests.tiny import narrow_lpips


@pytest.fixture(autouse=True)
def quiet(small, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(stages, "TURNTABLE_SIDE", 32)
    monkeypatch.setattr(stages, "TURNTABLE_FRAMES", 8)


def test_generate(checkpoints, picture, tmp_path, capsys, monkeypatch):
    out = tmp_path / "whole"
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--quality=draft"]
    assert main(["generate", *flags, f"--out={out}"]) == 0
    shown = capsys.readouterr().err
    run = json.loads((out / "run.json").read_text())
    # 4 * 2 // 5 = 1 step of the orbit and 5 of each refinement, two branches each.
    assert run["network_evaluations"] == 2 * 1 + 2 * 2 * 5
    assert run["model"] == "sv3d_u (sgm)" and "bundled autoencoder" in run["perceptual_features"]
    assert run["settings"]["orbit_direction"] == "auto" and len(run["settings"]["model_sha256"]) == 64
    orbit = run["orbit"]
    assert set(orbit["losses"]) == {"ccw", "cw"} and orbit["elevation"] == "fitted"
    assert orbit["start_deg"] == 10 and orbit["start"] == "rig's default" and "reach_deg" not in orbit
    assert "fitted from 10.0, where all searches start: no elevation head lies beside the weights" in shown
    assert min(orbit["losses"], key=orbit["losses"].get) == orbit["direction"]
    assert f"the orbit turns {orbit['direction']}" in shown and "no plain background" in shown
    for views in ("views", "views_round1", "views_round2"):
        assert sorted(path.name for path in (out / views).iterdir()) == [f"{index:02d}.png" for index in range(5)]
        np.testing.assert_array_equal(read_image(out / views / "00.png"), read_image(out / "input.png"))
    assert read_image(out / "views/03.png").shape == (32, 32, 4)
    cameras = json.loads((out / "cameras.json").read_text())
    assert cameras["elevation_deg"] == pytest.approx(orbit["elevation_deg"], abs=1e-3)
    assert np.degrees(cameras["camera_angle_x"]) == pytest.approx(33.8, abs=1e-3) and cameras["w"] == 32
    places = np.array([frame["transform_matrix"] for frame in cameras["frames"]])[:, :3, 3]
    assert np.linalg.norm(places, axis=1) == pytest.approx(3.44, abs=1e-4)
    assert (places[1, 1] > 0) == (orbit["direction"] == "ccw")

    # A second run finds everything finished; one that is stopped everywhere ends with the same bytes.
    before = results(out)
    assert main(["generate", *flags, f"--out={out}"]) == 0
    assert results(out) == before and "finished before" in capsys.readouterr().err
    cut, fit, interrupted = tmp_path / "cut", fitting.fit, iter(range(100))

    def stopping(*arguments, **named):
        result = fit(*arguments, **named)
        if next(interrupted) % 2 == 0:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(fitting, "fit", stopping)
    codes = []
    while not codes or codes[-1]:
        codes.append(main(["generate", *flags, f"--out={cut}"]))
        assert len(codes) < 9
    assert codes == [130] * 3 + [0]
    assert results(cut) == before


def views(out, *flags):
    assert main(["views", "--quality=draft", f"--out={out}", *flags]) == 0
    pictures = [read_image(path) for path in sorted((out / "views").iterdir())]
    return np.stack(pictures), json.loads((out / "run.json").read_text())


def test_both_layouts_and_memory_presets_draw_the_same(checkpoints, picture, tmp_path):
    flags = [f"--image={picture}", "--orbit_direction=cw", "--elevation_deg=20"]
    first, run = views(tmp_path / "a", f"--model={checkpoints['sv3d_u']}", *flags)
    assert run["orbit"] == {"elevation_deg": 20.0, "elevation": "given", "direction": "cw", "losses": {}}
    again, _ = views(tmp_path / "b", f"--model={checkpoints['folder']}", *flags, "--memory=16gb")
    assert np.abs(again - first).max() < 0.02
    other, _ = views(tmp_path / "c", f"--model={checkpoints['sv3d_u']}", *flags, "--seed=1")
    assert np.abs(other - first)[1:].max() > 0.1


def test_lpips_weights_make_the_loss(checkpoints, picture, tmp_path, monkeypatch, capsys):
    from im3d_jax.models import lpips

    monkeypatch.setattr(lpips, "load", lambda path: narrow_lpips())
    (tmp_path / "vgg.safetensors").write_bytes(b"weights")
    flags = [
        f"--image={picture}",
        f"--model={checkpoints['folder']}",
        "--quality=draft",
        "--rounds=0",
        "--prompt=a box",
    ]
    flags += ["--orbit_direction=ccw", "--elevation_deg=0", f"--lpips_weights={tmp_path / 'vgg.safetensors'}"]
    assert main(["generate", *flags, f"--out={tmp_path / 'run'}"]) == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["perceptual_features"] == "LPIPS (VGG16)" and len(run["settings"]["lpips_sha256"]) == 64
    assert "the prompt is not read" in capsys.readouterr().err
    assert main(["generate", *flags[:-1], "--lpips_weights=none", f"--out={tmp_path / 'run'}"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_elevation_is_a_condition_of_sv3d_p(checkpoints, picture, tmp_path):
    flags = [f"--image={picture}", "--orbit_direction=cw", f"--model={checkpoints['sv3d_p']}"]
    low, _ = views(tmp_path / "low", *flags, "--elevation_deg=0")
    high, _ = views(tmp_path / "high", *flags, "--elevation_deg=40")
    assert np.abs(low - high)[1:].max() > 0.01
    np.testing.assert_array_equal(low[0], high[0])


def test_a_prompt_goes_through_a_picture_model(checkpoints, tmp_path, monkeypatch):
    from im3d_jax.foreign.pictures import PicturePipeline

    drawn = PicturePipeline.draw_image

    def plain(self, *arguments, **named):
        """Random networks draw noise; a frame of white around it makes it an object."""
        image, count = drawn(self, *arguments, **named)
        assert image.shape == (32, 32, 4) and np.isfinite(image).all() and image[..., :3].std() > 0.01
        image[..., :3] *= 0.5
        for edge in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
            edge[..., :3] = 1.0
        return image, count

    monkeypatch.setattr(PicturePipeline, "draw_image", plain)
    flags = ["--prompt=a red mug", f"--model={checkpoints['sv3d_u']}", f"--image_model={checkpoints['sd']}"]
    _, run = views(tmp_path / "run", *flags, "--orbit_direction=ccw", "--elevation_deg=5")
    assert run["network_evaluations"] == 2 * 15 + 2 * 1
    assert run["settings"]["image_sampling"]["steps"] == 15
    assert run["image_model"] == "sd15 (sgm)" and len(run["settings"]["image_model_sha256"]) == 64
    assert run["settings"]["sampling"]["views"] == 1 and run["settings"]["search"]["steps"] == 4


def test_an_uneven_background_keeps_the_picture(checkpoints, tmp_path, monkeypatch, capsys):
    from im3d_jax.foreign.pictures import PicturePipeline

    ramp = np.ones((32, 32, 4), np.float32) * np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
    drawings = []

    def uneven(self, *arguments, **named):
        drawings.append(named["seed"])
        return np.concatenate([ramp[..., :3], np.ones_like(ramp[..., :1])], -1), 30

    monkeypatch.setattr(PicturePipeline, "draw_image", uneven)
    flags = ["--prompt=a mug", f"--model={checkpoints['sv3d_u']}", f"--image_model={checkpoints['sd']}"]
    out = tmp_path / "run"
    for _ in range(2):
        assert main(["views", *flags, "--quality=draft", f"--out={out}"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"{out / 'drawn.png'}: the picture's background is not plain" in line and "another --seed" in line
    # Drawn once, and there to be cut out by hand.
    assert drawings == [0]
    np.testing.assert_allclose(read_image(out / "drawn.png")[..., 0], ramp[..., 0], atol=1 / 255)


def test_another_memory_preset_goes_on_in_the_same_folder(checkpoints, picture, tmp_path, capsys):
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--orbit_direction=cw", "--elevation_deg=3"]
    views(tmp_path / "run", *flags, "--memory=24gb")
    capsys.readouterr()
    _, run = views(tmp_path / "run", *flags, "--memory=16gb")
    assert "views: finished before" in capsys.readouterr().err and run["memory"] == "16gb"


def test_a_fit_of_other_steps_is_not_continued(checkpoints, picture, tmp_path, capsys, monkeypatch):
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--orbit_direction=cw", "--elevation_deg=3"]
    views(tmp_path / "run", *flags)
    monkeypatch.setattr(recipes, "sampling", lambda steps, quality: recipes.Sampling(3, 1))
    assert main(["views", "--quality=draft", *flags, f"--out={tmp_path / 'run'}"]) == 2
    assert "sampling.refine was 5, now 1" in capsys.readouterr().err


def test_views_of_foreign_models_are_fitted_as_generate_fits_them(checkpoints, picture, tmp_path):
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--orbit_direction=cw", "--elevation_deg=3"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(["generate", *flags, "--quality=draft", "--rounds=0", f"--out={whole}"]) == 0
    assert main(["reconstruct", f"--data={whole}", "--quality=draft", f"--out={half}"]) == 0
    assert (half / "asset.ply").read_bytes() == (whole / "asset.ply").read_bytes()
