"""`im3d generate` and `im3d views` on SV3D's networks in miniature: files, counts, equality, resuming."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import im3d_jax
from im3d_jax.cli.main import main
from im3d_jax.errors import ImageError, RunFolderError
from im3d_jax.images.files import read_image, read_images
from im3d_jax.models import lpips
from im3d_jax.pipelines import Drawn, Pipeline
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import open_source
from tests.fake_model import FakeModel
from tests.runs import results
from tests.small_checkpoints import ShortOrbitModel, open_small


pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.slow
def test_generate(checkpoints, picture, tmp_path, capsys):
    out = tmp_path / "whole"
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--quality=draft"]
    assert main(["generate", *flags, f"--out={out}"]) == 0
    shown = capsys.readouterr().err
    run = json.loads((out / "run.json").read_text())
    # 4 * 2 // 5 = 1 step of the orbit and 5 of each refinement, two branches each.
    assert run["network_evaluations"] == 2 * 1 + 2 * 2 * 5
    assert run["model"] == "sv3d_u (sgm)" and "bundled autoencoder" in run["perceptual_features"]
    settings = run["settings"]
    assert settings["request"]["orbit_direction"] == "auto"
    assert settings["model"]["name"] == "sv3d_u" and len(settings["model"]["sha256"]) == 64
    orbit = run["orbit"]
    assert set(orbit["losses"]) == {"ccw", "cw"} and orbit["elevation"] == "fitted"
    assert orbit["start_deg"] == 10 and orbit["start"] == "rig's default" and "reach_deg" not in orbit
    assert "fitted from 10.0, the default start: there is no elevation head beside the weights" in shown
    assert min(orbit["losses"], key=orbit["losses"].get) == orbit["direction"]
    assert f"the orbit turns {orbit['direction']}" in shown and "no plain background" in shown
    for views in ("views", "views_round1", "views_round2"):
        assert sorted(path.name for path in (out / views).iterdir()) == [f"{index:02d}.png" for index in range(5)]
        np.testing.assert_array_equal(read_image(out / views / "00.png"), read_image(out / "input.png"))
    assert read_image(out / "views/03.png").shape == (32, 32, 4)
    cameras = json.loads((out / "cameras.json").read_text())
    assert cameras["elevation_deg"] == pytest.approx(orbit["elevation_deg"], abs=1e-3)
    assert cameras["family"] == "svd" and cameras["orbit_direction"] == orbit["direction"]
    assert np.degrees(cameras["camera_angle_x"]) == pytest.approx(33.8, abs=1e-3) and cameras["w"] == 32
    places = np.array([frame["transform_matrix"] for frame in cameras["frames"]])[:, :3, 3]
    assert np.linalg.norm(places, axis=1) == pytest.approx(3.44, abs=1e-4)
    assert (places[1, 1] > 0) == (orbit["direction"] == "ccw")

    # A second run finds everything finished; one that is stopped everywhere ends with the same bytes.
    before = results(out)
    assert main(["generate", *flags, f"--out={out}"]) == 0
    assert results(out) == before and "already finished" in capsys.readouterr().err
    stopped = []

    def progress(event):
        if event.stage and (event.stage, event.finished) not in stopped:
            stopped.append((event.stage, event.finished))
            raise KeyboardInterrupt

    made, model = None, im3d_jax.load(str(checkpoints["sv3d_u"]))
    while made is None:
        try:
            made = im3d_jax.generate(model, image=picture, quality="draft", out=tmp_path / "cut", progress=progress)
        except KeyboardInterrupt:
            assert len(stopped) < 40
    assert len(stopped) >= 16 and results(tmp_path / "cut") == before


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


def test_another_memory_preset_goes_on_in_the_same_folder(checkpoints, picture, tmp_path, capsys):
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--orbit_direction=cw", "--elevation_deg=3"]
    views(tmp_path / "run", *flags, "--memory=24gb")
    capsys.readouterr()
    _, run = views(tmp_path / "run", *flags, "--memory=16gb")
    assert "views: already finished" in capsys.readouterr().err and run["memory"] == "16gb"


def test_lpips_weights_make_the_loss(checkpoints, picture, tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in lpips.expected_shapes().items():
        # Stored as PyTorch does: OIHW.
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        arrays[name] = rng.normal(0, 0.05, shape).astype(np.float32)
    save_file(arrays, tmp_path / "vgg.safetensors")
    flags = [f"--image={picture}", f"--model={checkpoints['folder']}", "--quality=draft", "--rounds=0"]
    flags += ["--prompt=a box", "--orbit_direction=ccw", "--elevation_deg=0", f"--out={tmp_path / 'run'}"]
    assert main(["generate", *flags, f"--lpips_weights={tmp_path / 'vgg.safetensors'}"]) == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["perceptual_features"] == "LPIPS (VGG16)" and len(run["settings"]["lpips_sha256"]) == 64
    assert "the prompt is not read" in capsys.readouterr().err
    assert main(["generate", *flags, "--lpips_weights=none"]) == 2
    assert "no such file" in capsys.readouterr().err
    # Without them the same folder is another run.
    assert main(["generate", *flags]) == 2
    assert "lpips_sha256 was '" in capsys.readouterr().err


def test_the_elevation_is_a_condition_of_sv3d_p(checkpoints, picture, tmp_path):
    flags = [f"--image={picture}", "--orbit_direction=cw", f"--model={checkpoints['sv3d_p']}"]
    low, _ = views(tmp_path / "low", *flags, "--elevation_deg=0")
    high, _ = views(tmp_path / "high", *flags, "--elevation_deg=40")
    assert np.abs(low - high)[1:].max() > 0.01
    np.testing.assert_array_equal(low[0], high[0])


class Framed:
    """A picture model whose pictures are noise, as random networks draw them; a frame of white makes it an object.

    Args:
        model: Draws.
    """

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def draw_pictures(self, prompts, row_seeds, settings, **where):
        drawing = self._model.draw_pictures(prompts, row_seeds, settings, **where)

        def frame(drawn):
            image = drawn.images.copy()
            assert image.shape == (32, 32, 4) and np.isfinite(image).all() and image[..., :3].std() > 0.01
            image[..., :3] *= 0.5
            for edge in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
                edge[..., :3] = 1.0
            return dataclasses.replace(drawn, images=image)

        return lambda: [frame(drawn) for drawn in drawing()]


def test_a_prompt_goes_through_a_picture_model(checkpoints, drawn_by, tmp_path):
    pipeline = im3d_jax.load(str(checkpoints["sv3d_u"]), image_model=str(checkpoints["sd"]))
    assert pipeline.prepares_pictures
    drawn_by(Pipeline(pipeline.views, Framed(pipeline.pictures)))
    flags = ["--prompt=a red mug", "--orbit_direction=ccw", "--elevation_deg=5"]
    _, run = views(tmp_path / "run", *flags)
    assert run["network_evaluations"] == 2 * 15 + 2 * 1
    assert run["settings"]["pictures"]["steps"] == 15 and run["settings"]["picture_model"]["name"] == "sd15"
    assert run["image_model"] == "sd15 (sgm)" and len(run["settings"]["picture_model"]["sha256"]) == 64
    assert run["settings"]["views"]["views"] == 1 and run["settings"]["views"]["search"]["steps"] == 4
    assert (tmp_path / "run/drawn.png").is_file()


class Uneven(FakeModel):
    """Draws pictures whose background is a ramp."""

    name = "uneven"

    def draw_pictures(self, prompts, row_seeds, settings, *, batch=None, report=None):
        self.calls.append("picture")
        ramp = np.ones((32, 32, 4), np.float32) * np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
        ramp[..., 3] = 1.0
        return lambda: [Drawn(ramp, 30)]


def test_an_uneven_background_keeps_the_picture(checkpoints, tmp_path):
    painter, out = Uneven(), tmp_path / "run"
    pipeline = Pipeline(open_small(checkpoints["sv3d_u"], "sv3d_u"), painter)
    for _ in range(2):
        with pytest.raises(ImageError) as raised:
            im3d_jax.views(pipeline, "a mug", quality="draft", out=out)
        line = str(raised.value)
        assert f"{out / 'drawn.png'}: the picture's background is not plain" in line and "another seed" in line
    # Drawn once, and there to be cut out by hand.
    assert painter.calls == ["picture"]
    drawn = read_image(out / "drawn.png")
    np.testing.assert_allclose(drawn[..., 0], np.linspace(0, 1, 32)[:, None] + np.zeros((1, 32)), atol=1 / 255)


def test_settings_of_another_quality_are_refused_by_name(checkpoints, picture, tmp_path):
    request = im3d_jax.AssetRequest(image=picture, quality="draft", elevation_deg=3, orbit_direction="cw")
    im3d_jax.views(Pipeline(open_small(checkpoints["sv3d_u"], "sv3d_u")), request, out=tmp_path / "run")

    class Fewer(ShortOrbitModel):
        """One step of each refinement, as another version might have it."""

        def view_settings(self, quality):
            return dataclasses.replace(super().view_settings(quality), refine=1)

    other = Fewer(open_source(checkpoints["sv3d_u"]), MEMORIES["80gb"])
    with pytest.raises(RunFolderError, match=r"\(views.refine was 5, now 1\)"):
        im3d_jax.views(Pipeline(other), request, out=tmp_path / "run")


def test_views_of_foreign_models_are_fitted_as_generate_fits_them(checkpoints, picture, tmp_path):
    flags = [f"--image={picture}", f"--model={checkpoints['sv3d_u']}", "--orbit_direction=cw", "--elevation_deg=3"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(["generate", *flags, "--quality=draft", "--rounds=0", f"--out={whole}"]) == 0
    assert main(["reconstruct", f"--data={whole}", "--quality=draft", f"--out={half}"]) == 0
    assert (half / "asset.ply").read_bytes() == (whole / "asset.ply").read_bytes()


def test_a_file_of_pictures_becomes_run_folders(checkpoints, picture, tmp_path):
    """`im3d batch`: two orbits in one call of the network, each as `im3d views` would name it."""
    (tmp_path / "lines.jsonl").write_text('{"image": "box.png", "seed": 3}\n{"image": "box.png", "seed": 4}\n')
    flags = [f"--prompts={tmp_path / 'lines.jsonl'}", f"--model={checkpoints['sv3d_u']}", f"--out={tmp_path / 'out'}"]
    assert main(["batch", *flags, "--batch=2", "--quality=draft", "--orbit_direction=cw"]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["finished"], summary["batch"], summary["devices"]) == (2, 2, 1)
    first = {}
    for name in ("00001", "00002"):
        run = tmp_path / "out" / name
        made = read_images(sorted((run / "views").iterdir()))
        np.testing.assert_array_equal(made[0], read_image(run / "input.png"))
        first[name] = made[1]
        record = json.loads((run / "run.json").read_text())
        # 1 step of a draft's 2/5 of 4, two branches.
        assert record["network_evaluations"] == 2 and record["orbit"]["direction"] == "cw"
        assert record["settings"]["request"]["orbit_direction"] == "cw" and (run / "cameras.json").is_file()
    assert np.abs(first["00001"] - first["00002"]).max() > 0.01
