"""Lines that fail cost nothing but themselves, and what a run that was cut short says."""

import json
import types

import jax
import numpy as np
import pytest

from experiments import lines, sample
from experiments.batches import BatchSampler, OneByOne
from experiments.prompts import Line
from im3d_jax import pipeline
from im3d_jax.cli import common, stages
from im3d_jax.errors import InputError
from im3d_jax.errors import ImageError
from im3d_jax.foreign import recipes
from im3d_jax.foreign.pictures import PicturePipeline
from im3d_jax.output.run_folder import RunFolderError
from im3d_jax.errors import WeightsError
from tests.experiments import test_sample as samples
from tests.experiments.test_sample import Slow, disc, parsed, written
from tests.foreign import conftest as miniature
from tests.tiny import SIDE


checkpoints, small = miniature.checkpoints, miniature.small
bundle = samples.bundle


def test_a_picture_that_cannot_be_cut_out_costs_its_line_alone(small, checkpoints, tmp_path, monkeypatch, capsys):
    """Stable Diffusion drew no plain background; lines with a picture do without that model."""
    monkeypatch.setattr(common, "start_jax", lambda: None)
    file = written(
        tmp_path, {"image": "disc.png", "seed": 3}, {"prompt": "mug"}, {"image": "disc.png", "prompt": "cup"}
    )
    models = [f"--model={checkpoints['sv3d_u']}", f"--image_model={checkpoints['sd']}"]
    drawing = ["--quality=draft", "--batch=2", "--orbit_direction=cw", "--elevation_deg=10"]
    values = parsed(f"--prompts={file}", *models, *drawing, f"--out={tmp_path / 'out'}")
    noise = np.random.default_rng(0).uniform(size=(SIDE, SIDE, 4)).astype(np.float32)
    noise[..., 3] = 1.0
    monkeypatch.setattr(PicturePipeline, "draw_image", lambda *arguments, **named: (noise, 4))
    monkeypatch.setattr(sample.flags, "FLAGS", values)
    assert sample.main(["sample"]) == 2
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("line 2: ")]
    assert "background" in line and "Traceback" not in "".join(said)
    assert said[-1].startswith("sample: 1 of 3 lines failed")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["failed"] == {"00002": line.removeprefix("line 2: ")} and summary["finished"] == 2
    settings = json.loads((tmp_path / "out/00003/run.json").read_text())["settings"]
    assert settings["prompt"] == "cup" and "image_model" not in settings

    view = tmp_path / "out/00001/views/01.png"
    before = view.stat().st_mtime_ns
    assert sample.main(["sample"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("sample: 1 of 3 lines failed")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["drawn_by_this_run"] == 0 and summary["assets_a_minute"] is None and len(summary["failed"]) == 1

    monkeypatch.setattr(PicturePipeline, "draw_image", lambda *arguments, **named: (disc(), 4))
    assert sample.main(["sample"]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["finished"] == 3 and summary["failed"] == {} and view.stat().st_mtime_ns == before
    settings = json.loads((tmp_path / "out/00002/run.json").read_text())["settings"]
    assert settings["image_model"] == str(checkpoints["sd"])


def test_failed_lines_leave_their_batch(bundle, monkeypatch):
    """Of one batch two rows remain, of another none; views that are no numbers count alike."""
    painter = Slow()

    def draw_image(prompt, *, seed, **drawing):
        if seed < 3:
            raise (ImageError, WeightsError, WeightsError)[seed](f"not\n{prompt}")
        return disc(), 11

    painter.draw_image = draw_image
    drawer = lines.Drawer(pipeline.load(bundle), painter, "draft", jax.devices()[:1], 2)
    works = [sample.Work(Line(seed + 1, "mug", None, seed), None, set()) for seed in (0, 3, 1, 2, 4)]
    one, two, three = drawer.draw(works)
    assert one[0] == lines.Failed(works[0].line, "not mug") and one[1].line.seed == 3
    assert [type(row) for row in two] == [lines.Failed] * 2 and [row.line.seed for row in three] == [4]

    model = Slow()
    model.draw_views = lambda image, prompt, **drawing: draw_image(prompt, **drawing)
    ((failed,),) = lines.Drawer(model, None, "draft", jax.devices(), 1).draw(works[2:3])
    assert isinstance(failed, lines.Failed)


@pytest.fixture
def at_once(monkeypatch):
    """The project's sampler of batches, greys in place of networks."""

    def start(sampler, requests):
        return lambda: OneByOne(Slow(), "draft").start(requests)()

    monkeypatch.setattr(BatchSampler, "start", start)


def run_of_slow(folder, monkeypatch, model, *objects, painter=None, more=()):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(common, "load_models", lambda values, fits: (model, painter))
    monkeypatch.setattr(common, "load_perceptual", lambda values, model: None)
    values = parsed(f"--prompts={written(folder, *objects)}", f"--out={folder / 'out'}", *more)
    monkeypatch.setattr(sample.flags, "FLAGS", values)
    return sample.main(["sample"])


def test_stages_that_fail(tmp_path, monkeypatch, capsys):
    """What is wrong with one object costs its line; a folder that cannot be written ends the run, with the line."""

    def make_asset(folder, *rest, **named):
        if folder.settings["seed"] != 4:
            kind = WeightsError if folder.settings["seed"] == 3 else RunFolderError
            raise InputError("no such luck") from kind("no such luck")
        folder.start()

    monkeypatch.setattr(stages, "make_asset", make_asset)
    objects = [{"prompt": "mug", "seed": seed} for seed in (3, 4, 5, 4)]
    assert run_of_slow(tmp_path, monkeypatch, Slow(), *objects, more=["--assets"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "line 1: no such luck" in said and said[-1] == "sample: line 3: no such luck"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["failed"] == {"00001": "no such luck"} and summary["finished"] == 1


def test_the_rate_leaves_out_the_first_batch(bundle, at_once, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sample, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    model, views = Slow(), Slow.draw_views

    def draw_views(*arguments, **named):
        clock[0] += 10 if clock[0] else 100
        return views(model, *arguments, **named)

    model.draw_views = draw_views
    objects = [{"prompt": "mug", "seed": seed} for seed in (3, 4, 5)]
    assert run_of_slow(tmp_path / "slow", monkeypatch, model, *objects) == 0
    summary = json.loads((tmp_path / "slow/out/summary.json").read_text())
    assert summary["seconds"] == 120 and summary["assets_a_minute"] == 1.5
    assert summary["assets_a_minute_after_first_batch"] == 6
    # Two objects in one batch; writing them takes time.
    finish = lines.Ready.finish

    def ticking(*arguments):
        clock[0] += 1
        return finish(*arguments)

    monkeypatch.setattr(lines.Ready, "finish", ticking)
    more = [f"--model={bundle}", "--quality=draft", "--batch=2"]
    assert run_of_slow(tmp_path / "one", monkeypatch, pipeline.load(bundle), *objects[:2], more=more) == 0
    summary = json.loads((tmp_path / "one/out/summary.json").read_text())
    assert summary["assets_a_minute"] == 60 and summary["assets_a_minute_after_first_batch"] is None


def test_memory_that_runs_out(bundle, at_once, tmp_path, monkeypatch, capsys):
    def full(*arguments, **named):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying\nto allocate 9 bytes.")

    objects = [{"prompt": "mug", "seed": seed} for seed in (3, 4)]
    model = Slow()
    model.draw_views, model.memory = full, recipes.MEMORIES["24gb"]
    assert run_of_slow(tmp_path / "slow", monkeypatch, model, *objects) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("sample: the device's memory is used up") and "--memory=24gb" in said[-1]
    assert "--batch" not in said[-1]  # it is 1
    more = [f"--model={bundle}", "--quality=draft", "--batch=2"]
    with monkeypatch.context() as patch:
        patch.setattr(BatchSampler, "start", full)
        assert run_of_slow(tmp_path / "batch", monkeypatch, pipeline.load(bundle), *objects, more=more) == 2
    said = capsys.readouterr().err.splitlines()
    assert "smaller --batch than 2" in said[-1] and "--quality" in said[-1]
    # While files are written the next batch is on the device.
    monkeypatch.setattr(stages, "_draw", full)
    assert run_of_slow(tmp_path / "batch", monkeypatch, pipeline.load(bundle), *objects, more=more) == 2
    assert "smaller --batch than 2" in capsys.readouterr().err.splitlines()[-1]
