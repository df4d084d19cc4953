"""Batches of lines: what each gets, that nothing finished is lost or done twice, and eight devices against one.

Run as a script it is the part that needs eight fake devices.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import lines, sample
from experiments.batches import BatchSampler, OneByOne, Request, in_batches, one_ahead
from experiments.measure import as_stored
from experiments.prompts import Line
from im3d_jax import parallel, pipeline
from im3d_jax.cli import common, stages
from im3d_jax.errors import InputError
from im3d_jax.images.files import encode_png, read_image, read_images
from tests.tiny import FRAMES, SIDE, write_bundle


def disc():
    """A picture that needs preparing: a disc left of the middle."""
    y, x = np.mgrid[:40, :48] - 17.0
    picture = np.zeros((40, 48, 4), np.float32)
    picture[..., :3] = 0.2, 0.6, 0.9
    picture[..., 3] = np.clip(12.5 - np.hypot(x, y), 0, 1)
    return picture


def requests_of(picture, kind, seeds):
    prompt = "a red mug" if kind[0] else None
    return [Request(prompt, picture if kind[1] else None, seed) for seed in seeds]


def eight_devices(folder):
    """Batches over eight devices, over one, and the model's own drawings; the batch lowers for eight TPUs."""
    assert len(jax.devices()) == 8
    model = pipeline.load(write_bundle(pathlib.Path(folder)))
    picture = np.random.default_rng(1).uniform(size=(SIDE, SIDE, 4)).astype(np.float32)
    mesh = parallel.make_mesh()
    many = BatchSampler(model, "draft", mesh, 8)
    one = BatchSampler(model, "draft", parallel.make_mesh(devices=jax.devices()[:1]), 8)
    # Five rows, so that three are filled up.
    rows = requests_of(None, (True, False), range(5))
    for sharded, single in zip(many.start(rows)(), one.start(rows)(), strict=True):
        np.testing.assert_allclose(sharded.views, single.views, atol=1e-5)
        np.testing.assert_allclose(sharded.picture, single.picture, atol=1e-5)
        assert sharded.evaluations == single.evaluations
    seeds = [3, 7, 2**32 - 1]
    drawn = many.start(requests_of(picture, (True, True), seeds))()
    for result, seed in zip(drawn, seeds, strict=True):
        views, count = model.draw_views(picture, "a red mug", seed=seed, quality="draft")
        np.testing.assert_allclose(result.views, views, atol=1e-5)
        assert result.evaluations == (0, count)
    assert np.abs(drawn[0].views[1:] - drawn[1].views[1:]).max() > 1e-3
    assert len(many._place(np.zeros((8, 2))).sharding.device_set) == 8

    def batch(params, noise, tokens, pictures):
        traced = copy.copy(model)
        traced.params = params
        given = traced.conditions_of_tokens(tokens, traced.encode(pictures))
        sampling = pipeline.QUALITIES["draft"].views
        latents = traced.sample_batch(noise, given, sampling, temporal=True, prompt=True)
        return traced.decode(latents.reshape(-1, *latents.shape[2:]))

    rows = parallel.batch_sharding(mesh)
    arguments = (
        model.params,
        jax.ShapeDtypeStruct((8, FRAMES, SIDE // 4, SIDE // 4, 4), jnp.float32, sharding=rows),
        jax.ShapeDtypeStruct((8, 6), jnp.int32, sharding=rows),
        jax.ShapeDtypeStruct((8, SIDE, SIDE, 4), jnp.float32, sharding=rows),
    )
    arguments = (jax.device_put(model.params, parallel.replicated(mesh)), *arguments[1:])
    text = jax.jit(batch).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text and "stablehlo.convolution" in text and "mhlo.num_partitions = 8" in text
    print("8 devices agree with one and with the model")


def test_eight_devices_draw_what_one_draws(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
    }
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 devices" in done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("model"))


def parsed(*arguments):
    values = flags.FlagValues()
    sample.define_flags(values)
    values(["sample", *arguments])
    return values


def written(folder, *objects):
    folder.mkdir(exist_ok=True)
    (folder / "disc.png").write_bytes(encode_png(disc()))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(one) for one in objects) + "\n")
    return folder / "prompts.jsonl"


MANY = (
    {"prompt": "a red mug", "seed": 1},
    {"image": "disc.png", "seed": 2},
    {"prompt": "a mug", "image": "disc.png", "seed": 3},
    {"prompt": "mug"},
    {"prompt": "a mug", "seed": 4},
)


@pytest.fixture(scope="module")
def finished(bundle, tmp_path_factory):
    """(folder, arguments, summary) of a run that was stopped after its first object and went on."""
    folder = tmp_path_factory.mktemp("lines")
    file = written(folder, *MANY)
    arguments = [f"--prompts={file}", f"--model={bundle}", "--quality=draft", "--batch=2", f"--out={folder / 'out'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "start_jax", lambda: None)
        finish, calls = lines.Ready.finish, []

        def stopping(self, *rest):
            if calls:
                raise KeyboardInterrupt
            calls.append(self.line.number)
            return finish(self, *rest)

        patch.setattr(lines.Ready, "finish", stopping)
        with pytest.raises(KeyboardInterrupt):
            sample.run(parsed(*arguments), "first")
        before = json.loads((folder / "out/summary.json").read_text())
        patch.setattr(lines.Ready, "finish", finish)
        summary = sample.run(parsed(*arguments), "second")
    assert calls == [1] and before["finished"] == before["drawn_by_this_run"] == 1 and before["command"] == "first"
    return folder, arguments, summary


def test_each_line_has_what_the_program_draws(finished, bundle):
    folder, _, summary = finished
    model, sampling = pipeline.load(bundle), {"quality": "draft"}
    prepared = stages._prepared(model, str(folder / "disc.png"))
    counts = 0
    for number, line in enumerate(MANY, 1):
        run = folder / "out" / f"{number:05d}"
        seed, prompt = line.get("seed", 0), line.get("prompt")
        picture, first = (prepared, 0) if "image" in line else model.draw_image(prompt, seed=seed, **sampling)
        stored = read_image(run / "input.png")
        np.testing.assert_allclose(stored, picture, atol=0.51 / 255)
        views, count = model.draw_views(stored, prompt, seed=seed, **sampling)
        made = read_images(sorted((run / "views").iterdir()))
        assert made.shape == (FRAMES, SIDE, SIDE, 4)
        np.testing.assert_allclose(made, views.clip(0, 1), atol=0.51 / 255)
        record = json.loads((run / "run.json").read_text())
        assert record["network_evaluations"] == first + count and record["seed"] == seed
        assert record["settings"]["command"] == "views" and (run / "sheet.png").is_file()
        counts += first + count
    assert summary["network_evaluations"] == counts
    assert (summary["lines"], summary["finished"], summary["drawn_by_this_run"]) == (5, 5, 4)
    assert summary["batch"] == 2 and summary["assets_a_minute"] > 0 and summary["assets_a_minute_after_first_batch"] > 0
    assert summary["failed"] == {}


def test_finished_lines_are_left_and_broken_ones_mended(finished, monkeypatch, capsys):
    folder, arguments, _ = finished
    monkeypatch.setattr(common, "start_jax", lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(common, "load_models", None)  # not even loaded
        assert sample.run(parsed(*arguments), "again")["finished"] == 5
    lost = folder / "out/00004/views/02.png"
    content, others = lost.read_bytes(), (folder / "out/00003/views/02.png").stat().st_mtime_ns
    lost.unlink()
    (folder / "out/00001/sheet.png").unlink()
    summary = sample.run(parsed(*arguments), "mended")
    assert summary["drawn_by_this_run"] == 2 and lost.read_bytes() == content
    assert (folder / "out/00001/sheet.png").is_file()
    assert (folder / "out/00003/views/02.png").stat().st_mtime_ns == others
    capsys.readouterr()
    written(folder, *MANY[:4], {"prompt": "red"})
    with pytest.raises(InputError, match="line 5 of .*other settings"):
        sample.run(parsed(*arguments), "changed")
    written(folder, *MANY)


class Slow:
    """Has `Pipeline`'s methods but no batches; every view a grey of its own."""

    name, remark, perceptual_name, features = "slow", "", "none", None
    recipe = memory = None
    image_size, num_views, target_fraction, said = SIDE, FRAMES, 0.5, ("slow as ever",)

    def estimate_elevation(self, views):
        return 0.3

    def unknown_words(self, prompt):
        return []

    def lost_text(self, prompt):
        return ""

    def draw_image(self, prompt, *, seed, quality, progress):
        return np.full((SIDE, SIDE, 4), 0.1 * seed, np.float32), 5

    def draw_views(self, image, prompt, *, seed, quality, progress):
        return np.linspace(0, 1, FRAMES, dtype=np.float32)[:, None, None, None] * np.ones_like(image)[None], 7


def test_models_without_batches_and_assets(tmp_path, monkeypatch, capsys):
    """Assets are made by the stages of the program from what was drawn; other models draw one by one."""
    made = []

    def make_asset(folder, model, image, progress, *, image_model, perceptual):
        picture, first = model.draw_image("", seed=0, quality="", progress=None)
        views, count = model.draw_views(picture, "", seed=0, quality="", progress=None)
        made.append((folder.settings, image, picture[0, 0, 0], views[1, 0, 0, 0], first, count, perceptual, model.name))
        folder.start()

    monkeypatch.setattr(stages, "make_asset", make_asset)
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(common, "load_models", lambda values, fits: (Slow(), None))
    monkeypatch.setattr(common, "load_perceptual", lambda values, model: "judge")
    file = written(tmp_path, {"prompt": "mug", "seed": 3}, {"prompt": "mug", "seed": 5})
    summary = sample.run(parsed(f"--prompts={file}", f"--out={tmp_path / 'out'}", "--assets", "--rounds=1"), "")
    assert summary["batch"] == 1 and summary["assets"] is True
    assert [one[0]["seed"] for one in made] == [3, 5] and {one[0]["command"] for one in made} == {"generate"}
    assert made[0][0]["rounds"] == 1
    for (_, image, grey, second, *rest), wanted in zip(made, (0.3, 0.5), strict=True):
        assert image is None and grey == pytest.approx(wanted, abs=0.51 / 255) and second == pytest.approx(1 / 3)
        assert rest == [5, 7, "judge", "slow"]
    assert "00002: slow as ever" in capsys.readouterr().err


def test_a_picture_model_draws_first_pictures(monkeypatch):
    painter = Slow()
    painter.draw_image = lambda prompt, **drawing: (disc(), 11)
    painter.lost_text = lambda prompt: prompt[1:]
    drawer = lines.Drawer(Slow(), painter, "draft", jax.devices(), 1)
    work = sample.Work(Line(1, "mug", None, 0), None, set())
    ((ready,),) = drawer.draw([work])
    np.testing.assert_array_equal(ready.image_model.draw_image("mug")[0], disc())
    # The views are of the picture as its files hold it: in 8 bits before it was cut out, and after.
    monkeypatch.setattr(Slow, "draw_views", None)
    drawn, count = ready.model.draw_views(as_stored(stages.prepare_image(as_stored(disc()), SIDE, 0.5)), "mug")
    assert count == 7 and drawn.shape == (FRAMES, SIDE, SIDE, 4)
    assert len(ready.said) == 2 and "left out: ug" in ready.said[0] and ready.said[1] == "slow as ever"


def test_batches_agree_in_kind_and_are_drawn_ahead():
    assert in_batches([1, 2, 3, 5, 7, 4], lambda n: n % 2, 2) == [[1, 3], [5, 7], [2, 4]]
    order = []

    def start(batch):
        order.append(f"start {batch}")
        return lambda: order.append(f"finish {batch}")

    for batch, _ in one_ahead("abc", start):
        order.append(f"use {batch}")
    wanted = "start a,start b,finish a,use a,start c,finish b,use b,finish c,use c"
    assert order == wanted.split(",")
    with pytest.raises(ValueError, match="of one kind, got 2 of 2"):
        BatchSampler.start(_without_model(), [Request("a", None, 0), Request(None, np.zeros((2, 2, 4)), 0)])
    drawn = OneByOne(Slow(), "draft").start([Request("a", None, 2)])()
    assert drawn[0].evaluations == (5, 7) and drawn[0].picture[0, 0, 0] == pytest.approx(0.2)


def _without_model():
    sampler = object.__new__(BatchSampler)
    sampler._size = 2
    return sampler


def test_sizes_of_batches():
    assert sample.batch_size(None, 4, 8, 100) == 32 and sample.batch_size(None, 2, 2, 100) == 4
    assert sample.batch_size(64, 8, 8, 5) == 8 and sample.batch_size(16, 8, 8, 100) == 16
    with pytest.raises(InputError, match="--batch=6 cannot be split over 4 devices; .* --batch=8"):
        sample.batch_size(6, 4, 8, 100)


if __name__ == "__main__":
    eight_devices(sys.argv[1])
