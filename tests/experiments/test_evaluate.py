"""What is measured, against which truth, in which order; and that nothing finished is lost or done twice."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from absl import flags

from experiments import evaluate, measure, report, tables
from im3d_jax import pipeline
from im3d_jax.cli import common, stages
from im3d_jax.errors import InputError
from im3d_jax.data.toybox import Toybox
from im3d_jax.models import lpips
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.reconstruction import fitting
from splat.io import load_ply


SIZE = 24
ELEVATION = 0.3  # what the model below takes every orbit for


@jax.tree_util.Partial
def two_levels(images):
    """Feature maps without weights: the pictures themselves and their differences along x."""
    return [images + 0.1, images[:, :, 1:] - images[:, :, :-1]]


class Copies:
    """Has `Pipeline`'s methods: shows the given frame with ever more grey, and notes what it is asked."""

    name, remark, perceptual_name = "copies", "", "two levels"
    image_size, num_views, target_fraction = SIZE, 16, 0.6
    features = two_levels
    recipe = memory = None
    said = ()

    def __init__(self, first=None):
        self.first, self.calls = first, []

    def unknown_words(self, prompt):
        return []

    def lost_text(self, prompt):
        return ""

    def draw_image(self, prompt, *, seed, quality, progress):
        return self.first, 0

    def draw_views(self, image, prompt, *, seed, quality, progress):
        self.calls.append(("views", prompt, seed))
        fade = np.linspace(0, 0.3, 16, dtype=np.float32)[:, None, None, None]
        views = np.repeat(image[None], 16, axis=0)
        views[..., :3] += fade * (0.5 - views[..., :3])
        return views, 24

    def refine(self, renders, image, prompt, *, round, seed, quality, progress):
        self.calls.append((f"refine {round}", prompt, seed))
        assert renders.shape == (16, SIZE, SIZE, 4) and np.isfinite(renders).all()
        return np.concatenate([image[None], np.clip(0.9 * renders[1:] + 0.01 * round, 0, 1)]), 9

    def estimate_elevation(self, views):
        np.testing.assert_array_equal(views, np.round(255 * views) / np.float32(255))
        return ELEVATION


@pytest.fixture(scope="module")
def preset():
    """Fits of 12 steps on few gaussians under the name of a draft."""
    usual = fitting.PRESETS["draft"]
    fitting.PRESETS["draft"] = dataclasses.replace(
        usual,
        steps=12,
        capacity=192,
        initial=128,
        densify_every=6,
        densify_from=6,
        densify_until=11,
        multiscale=False,
    )
    yield fitting.PRESETS["draft"]
    fitting.PRESETS["draft"] = usual


@pytest.fixture(scope="module")
def toy():
    return Toybox("test").item(0)


@pytest.fixture(scope="module")
def measured(preset, toy):
    """(record, picture, calls) of one object."""
    model = Copies()
    caption, objects = toy
    record, picture = measure.evaluate_object(model, objects, caption, rounds=(0, 1, 2), quality="draft", seed=5)
    return record, picture, model.calls


def drawn(objects):
    return measure._render_orbit(objects, size=SIZE, azimuth_offset=0.0)


def composite(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def decibels(error):
    return -10 * np.log10(error)


def test_views_are_compared_with_the_true_frames_but_the_given_one(measured, toy):
    record, _, calls = measured
    caption, objects = toy
    true = np.asarray(drawn(objects), np.float64)
    given = np.round(255 * true[0]) / 255
    squared = np.square(composite(given)[None] - composite(true[1:]))
    assert record["repeat"]["psnr"] == pytest.approx(decibels(squared.mean((1, 2, 3))).mean(), abs=1e-3)
    inside = (squared.mean(-1) * true[1:, ..., 3]).sum((1, 2)) / true[1:, ..., 3].sum((1, 2))
    assert record["repeat"]["foreground_psnr"] == pytest.approx(decibels(inside).mean(), abs=1e-3)
    views, _ = Copies().draw_views(given.astype(np.float32), "", seed=0, quality="", progress=None)
    squared = np.square(composite(np.round(255 * views[1:]) / 255) - composite(true[1:]))
    assert record["views"]["psnr"] == pytest.approx(decibels(squared.mean((1, 2, 3))).mean(), abs=1e-2)
    assert calls == [("views", caption, 5), ("refine 1", caption, 5), ("refine 2", caption, 5)]


def test_elevation_and_costs(measured, toy):
    record, picture, _ = measured
    true = float(toy[1].elevation)
    assert record["elevation_deg"]["error"] == pytest.approx(abs(math.degrees(ELEVATION - true)))
    assets = record["assets"]
    assert [assets[r]["network_evaluations"] for r in "012"] == [24, 33, 42]
    assert assets["2"]["seconds"] > record["views"]["seconds"] > 0
    assert picture.shape == (5 * (SIZE + 2) - 2, 8 * (SIZE + 2) - 2, 3)


def test_the_asset_is_the_one_that_the_program_makes(preset, toy, tmp_path):
    caption, objects = toy
    first = measure.as_stored(np.asarray(drawn(objects))[0])
    folder = RunFolder(tmp_path, {"prompt": caption, "rounds": 2, "seed": 3, "quality": "draft", "elevation_deg": None})
    model = Copies(first)
    run = stages._begin(folder, model, None)
    capture = stages._views(run, stages._draw(run, None))
    assets = measure.make_assets(
        Copies(), capture.images, caption, capture.cameras, (0, 2), preset, {"seed": 3, "quality": "draft"}
    )
    stages.make_asset(folder, model, None)
    program = load_ply(tmp_path / "asset.ply")
    jax.tree.map(np.testing.assert_array_equal, assets[2].gaussians, program)
    last = stages._views(run, [f"views_round2/{frame:02d}.png" for frame in range(16)])
    np.testing.assert_array_equal(assets[2].targets, last.images)
    np.testing.assert_array_equal(assets[0].targets, capture.images)
    assert not np.array_equal(assets[0].gaussians.sh[0], assets[2].gaussians.sh[0])


def test_fewer_rounds_share_and_do_not_change_the_rest(preset, measured, toy):
    record, _, _ = measured
    model = Copies()
    alone, _ = measure.evaluate_object(model, toy[1], toy[0], rounds=(1,), quality="draft", seed=5)
    assert [call[0] for call in model.calls] == ["views", "refine 1"]
    both = [dict(r["assets"]["1"], seconds=0) for r in (record, alone)]
    assert both[0] == both[1]


def test_a_given_elevation_moves_only_the_cameras(measured):
    asset = measured[0]["assets"]["0"]
    assert asset["estimated"]["cameras"] != asset["true"]["cameras"]
    assert asset["estimated"]["between"] != asset["estimated"]["cameras"]
    assert asset["targets"] == {k: measured[0]["views"][k] for k in report.MEASURES}


def record_of(index):
    """Figures that differ by object, with known differences: refinement gains `index` dB."""

    def figures(psnr):
        return {"psnr": psnr, "foreground_psnr": psnr - 3, "ssim": 0.9, "perceptual": 0.1 + 0.01 * index}

    def asset(gain, cost):
        at = {"cameras": figures(20.0 + gain), "between": figures(19.5 + gain)}
        return {
            "estimated": at, "true": at, "targets": figures(21.0), "residual": figures(30.0 + 2 * gain),
            "gaussians": 5000 + index, "seconds": 60.0, "network_evaluations": cost,
        }  # fmt: skip

    return {
        "caption": "a cup",
        "elevation_deg": {"true": 10.0, "estimated": 10.0 + index, "error": float(index)},
        "views": figures(21.0) | {"seconds": 18.0, "network_evaluations": 30},
        "repeat": figures(14.0 + index),
        "assets": {"0": asset(0.0, 30), "2": asset(float(index), 60)},
    }


def test_summary_is_paired():
    summary = report.summarise([{"index": i, **record_of(i)} for i in (0, 1, 5)])
    gain = summary["differences"]["assets/2/refined/estimated/cameras/psnr"]
    assert gain["mean"] == pytest.approx(2.0) and gain["n"] == 3
    assert gain["std"] == pytest.approx(np.std([0, 1, 5], ddof=1))
    assert gain["standard_error"] == pytest.approx(np.std([0, 1, 5], ddof=1) / math.sqrt(3))
    assert summary["differences"]["assets/2/refined/residual"]["mean"] == pytest.approx(4.0)
    measured = [(round(bar["measured"], 6), bar["met"]) for bar in summary["bars"]]
    assert measured == [(21.0, True), (5.0, False), (-1.0, True), (-0.5, True), (2.0, True)]
    assert "index" not in summary["figures"]


def test_more_judges_measure_the_same_pictures(measured, toy):
    """Without weights nothing is added; with them, similarities are of the views but the first, LPIPS against truth."""
    record = measured[0]
    assert record["truth"] == {} and record["assets"]["0"]["rerendered"] == {} and "lpips" not in record["views"]

    class MeanColours:
        def similarities(self, views, *, prompt, image):
            return {"clip_text": float(len(prompt)), "clip_image": float(np.abs(views - image[None]).mean())}

    caption, objects = toy
    image = measure.as_stored(np.asarray(drawn(objects))[0])
    views, _ = Copies().draw_views(image, caption, seed=0, quality="", progress=None)
    found = measure.Judges(clip=MeanColours()).similarities(views, caption, image)
    assert found == {"clip_text": len(caption), "clip_image": pytest.approx(np.abs(views[1:] - image[None]).mean())}
    params = {
        name: jax.numpy.asarray(np.random.default_rng(0).normal(size=shape) * 0.05 + 0.01, np.float32)
        for name, shape in lpips.expected_shapes().items()
    }
    pictures = np.random.default_rng(1).uniform(size=(2, 3, 16, 16, 4)).astype(np.float32)
    compared = measure.compare(two_levels, *pictures, skip=1, lpips_params=params)
    wanted = lpips.lpips(params, *(composite(rgba[1:]) for rgba in pictures))
    assert compared["lpips"] == pytest.approx(float(jax.numpy.mean(wanted)), rel=1e-4)
    assert compared | {"lpips": 0} == measure.compare(two_levels, *pictures, skip=1) | {"lpips": 0}


def judged_record(index):
    """`record_of` as the judges extend it: refinement gains `index` hundredths."""
    record = record_of(index)
    comparisons = [record["views"], record["repeat"]]
    for rounds, asset in record["assets"].items():
        comparisons += [*asset["estimated"].values(), asset["targets"], asset["residual"]]
        gain = 0.01 * index if rounds == "2" else 0.0
        asset["rerendered"] = {"clip_text": 0.3 + gain, "clip_image": 0.8 - gain}
    for figures in comparisons:
        figures["lpips"] = 0.2
    record["views"] |= {"clip_text": 0.31, "clip_image": 0.85}
    return record | {"truth": {"clip_text": 0.33, "clip_image": 0.9}}


def test_tables_grow_with_the_judges(tmp_path):
    settings = settings_of() | {"clip": "CLIP of ones", "lpips_sha256": "1" * 64}
    results = report.Results(tmp_path, "command", settings)
    results.add(0, judged_record(0))
    results.add(1, judged_record(2))
    text = tables.to_markdown(results.write(range(2)))
    assert "Similarity by CLIP of ones" in text and f"SHA-256 `{'1' * 64}`" in text
    assert "| | PSNR, dB | foreground PSNR, dB | SSIM | perceptual distance | LPIPS |" in text
    assert "| true turntable | 0.3300 ± 0.0000 (0.0000) | 0.9000 ± 0.0000 (0.0000) |" in text
    assert "| re-rendered views, 2 rounds | 0.3100 ± 0.0100 (0.0141) | 0.7900 ± 0.0100 (0.0141) |" in text
    assert "refinement, 2 rounds against 0 | +0.0100 ± 0.0100 (0.0141) | -0.0100" in text
    plain = report.Results(tmp_path / "plain", "command", settings_of())
    plain.add(0, record_of(0))
    assert not {"Similarity", "LPIPS", "CLIP"} & set(tables.to_markdown(plain.write(range(1))).split())


def test_weights_of_judges(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    assert evaluate.load_judges(parsed()) == (measure.Judges(), {})
    (tmp_path / "vgg.safetensors").write_bytes(b"{} no weights")
    for flag, message in (
        (f"--clip={tmp_path}", "neither a config.json of CLIP"),
        (f"--lpips_weights={tmp_path / 'none.safetensors'}", "no such file"),
        (f"--lpips_weights={tmp_path / 'vgg.safetensors'}", "header"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.run(parsed(flag, f"--out={tmp_path / 'out'}"), "command")
    assert not (tmp_path / "out").exists()


def settings_of(rounds=(0, 2)):
    refine = dataclasses.asdict(pipeline.QUALITIES["draft"].refine)
    return {
        "model": "tiny", "weights_sha256": "0" * 64, "machine": "2 cores", "versions": {"jax": "0"},
        "quality": "draft", "rounds": list(rounds), "refine": refine,
    }  # fmt: skip


def test_results_survive_a_kill_and_keep_settings_apart(tmp_path):
    results = report.Results(tmp_path, "command", settings_of())
    results.add(0, record_of(0))
    results.add(1, record_of(1))
    lines = tmp_path / "results.jsonl"
    lines.write_text(lines.read_text()[:-40])  # killed while it wrote the second line
    again = report.Results(tmp_path, "command", settings_of())
    assert again.has(0) and not again.has(1)
    again.add(1, record_of(1))
    assert len(lines.read_text().splitlines()) == 2
    other = report.Results(tmp_path, "command", settings_of(rounds=(0, 1)))
    assert not other.has(0)
    assert report.Results(tmp_path, "command", settings_of()).write(range(5))["objects"] == 2
    assert report.Results(tmp_path, "command", settings_of()).write(range(1))["objects"] == 1
    lines.write_text("{nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        report.Results(tmp_path, "command", settings_of())


def test_tables_replace_their_own_section_only(tmp_path):
    results = report.Results(tmp_path, "python -m experiments.evaluate", settings_of())
    results.add(0, record_of(0))
    results.add(1, record_of(1))
    text = tables.to_markdown(results.write(range(2)))
    assert "+0.50 ± 0.50 (0.71)" in text and "python -m experiments.evaluate" in text and "0" * 64 in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.count("|") in (5, 6, 7) for row in rows)
    page = tmp_path / "page.md"
    page.write_text("# Results\n\nbefore\n\n<!-- evaluation: generated -->\nold\n<!-- end of evaluation -->\n\nafter\n")
    tables.write_tables(page, text)
    once = page.read_text()
    tables.write_tables(page, text)
    assert page.read_text() == once
    assert once.startswith("# Results\n\nbefore\n") and once.endswith("\nafter\n") and "old" not in once
    tables.write_tables(tmp_path / "new.md", text)
    assert text in (tmp_path / "new.md").read_text()


def parsed(*arguments):
    values = flags.FlagValues()
    evaluate.define_flags(values)
    values(["evaluate", *arguments])
    return values


def test_sampling_flags():
    values = parsed("--level=0.3", "--refine_steps=4", "--guidance=2,1", "--view_steps=3", "--view_guidance=1,1.5")
    refine, views = evaluate.refinement_changes(values), evaluate.view_changes(values)
    usual = pipeline.QUALITIES["draft"]
    with pytest.raises(KeyboardInterrupt), evaluate.sampled_by("draft", views, refine) as quality:
        assert pipeline.QUALITIES["draft"] is quality and quality.image == usual.image
        assert quality.refine == pipeline.Sampling(4, 2.0, 1.0, start=0.3)
        assert quality.views == pipeline.Sampling(3, 1.0, 1.5)
        raise KeyboardInterrupt
    assert pipeline.QUALITIES["draft"] is usual
    assert evaluate.refinement_changes(parsed()) == {} and evaluate.view_changes(parsed()) == {}
    assert evaluate.parse_rounds(["2", "0", "2"]) == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    ["--level=0", "--guidance=2", "--guidance=a,b", "--rounds=3", "--rounds=-1", "--view_guidance=1", "--shard=2/2",
     "--shard=-1/2", "--shard=1"],
)  # fmt: skip
def test_wrong_flags_are_refused(wrong):
    values = parsed(wrong)
    with pytest.raises(InputError, match="expected"):
        evaluate.parse_rounds(values.rounds)
        evaluate.refinement_changes(values)
        evaluate.view_changes(values)
        evaluate.parse_shard(values.shard)


def test_shards_share_the_objects(preset, tmp_path, monkeypatch):
    model = Copies()
    monkeypatch.setattr(common, "load_model", lambda name: model)
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(report, "weights_hash", lambda name: "0" * 64)
    arguments = ["--quality=draft", "--rounds=0", "--objects=3", f"--out={tmp_path}"]
    evaluate.run(parsed("--shard=1/2", *arguments), "second half")
    assert [call[2] for call in model.calls if call[0] == "views"] == [1]
    assert not (tmp_path / "results.json").exists()
    evaluate.run(parsed(*arguments), "the rest")
    assert [call[2] for call in model.calls if call[0] == "views"] == [1, 0, 2]
    assert json.loads((tmp_path / "results.json").read_text())["objects"] == 3
    evaluate.run(parsed(*arguments, "--first=2", "--objects=2"), "others")
    assert [call[2] for call in model.calls if call[0] == "views"] == [1, 0, 2, 3]
    assert [row["index"] for row in json.loads((tmp_path / "results.json").read_text())["records"]] == [2, 3]
    with pytest.raises(InputError, match="objects 0 to"):
        evaluate.run(parsed(*arguments, "--first=1000000"), "none")


def test_a_run_goes_on_where_it_stopped(preset, tmp_path, monkeypatch, capsys):
    model = Copies()
    monkeypatch.setattr(common, "load_model", lambda name: model)
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(report, "weights_hash", lambda name: "0" * 64)
    arguments = ["--quality=draft", "--rounds=0,1", f"--out={tmp_path}", f"--table={tmp_path}/page.md"]
    evaluate.run(parsed("--objects=1", *arguments), "first command")
    evaluate.run(parsed("--objects=2", *arguments), "second command")
    assert [call[2] for call in model.calls if call[0] == "views"] == [0, 1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["objects"] == 2 and results["command"] == "second command"
    assert (tmp_path / "001.png").is_file() and "second command" in (tmp_path / "page.md").read_text()
    assert "finished before" in capsys.readouterr().err
