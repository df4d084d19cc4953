"""Finished run folders are measured, of any model; what cannot be measured is refused."""

import json

import jax
import numpy as np
import pytest

from experiments import evaluate
from experiments.evaluation.comparisons import Judges
from experiments.evaluation.finished_runs import measure_all, open_finished_run, run_table
from im3d_jax import generate, views
from im3d_jax.data.captures import load_capture
from im3d_jax.errors import InputError
from im3d_jax.images.alpha import composite, composite_on_white
from im3d_jax.images.files import read_images
from im3d_jax.models import lpips, perceptual
from im3d_jax.output.renders import render_views
from im3d_jax.pipelines.features import encoder_features
from im3d_jax.progress import ProgressCalls
from im3d_jax.weights import load_bundle
from splat.io import load_ply
from tests.experiments import test_clip_similarity as clips
from tests.fake_model import FakeModel, disc
from tests.tiny import narrow_lpips


folder, clip = clips.folder, clips.clip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders: one of a prompt after two rounds, one of a picture without any."""
    base, model = tmp_path_factory.mktemp("runs"), FakeModel()
    generate(model.pipeline, clips.PROMPT, rounds=2, quality="draft", out=base / "a")
    generate(model.pipeline, image=disc(3, 7, 40), rounds=0, quality="draft", out=base / "b")
    return base / "a", base / "b"


def contents(runs):
    return {file: file.read_bytes() for run in runs for file in run.rglob("*") if file.is_file()}


def test_finished_runs_are_measured(runs, folder, clip, tmp_path, capsys):
    """Against the files themselves: views of the last round and renders at their cameras, without the given one."""
    before, page = contents(runs), tmp_path / "clip.json"
    assert evaluate.PROGRAM([f"--runs={runs[0]},{runs[1]}", f"--clip={folder}", f"--json={page}"]) == 0
    shown = capsys.readouterr().out
    by = f"Similarity by {clip.backbone}; perceptual distance on encoder features of the bundled autoencoder"
    assert by in shown and contents(runs) == before
    found = json.loads(page.read_text())
    assert found["command"].startswith("python -m experiments.evaluate") and found["settings"]["clip"] == clip.backbone

    network, weights = encoder_features(load_bundle("tiny")), narrow_lpips()
    opened = [open_finished_run(run) for run in runs]
    with_lpips, mean = measure_all(opened, Judges(weights, clip), None, ProgressCalls(None))
    seen, lpips_of, distance_of = jax.jit(network.features), jax.jit(lpips.lpips), jax.jit(perceptual.distance)
    for run, one, other, last, prompt in zip(
        runs, found["runs"], with_lpips, ("views_round2", "views"), (clips.PROMPT, None), strict=True
    ):
        drawn = read_images([run / f"{last}/{index:02d}.png" for index in range(1, 16)])
        renders = render_views(load_ply(run / "asset.ply"), load_capture(run).cameras)[1:]
        image = read_images([run / "input.png"])[0]
        for name, pictures in (("views", drawn), ("rerendered", renders)):
            wanted = clip.similarities(pictures, prompt=prompt, image=image)
            assert one[name] == pytest.approx(wanted, abs=1e-6) and one[name] == other[name]
            assert ("clip_text" in one[name]) == (prompt is not None)
        assert one["model"] == "fake" and one["prompt"] == prompt and one["run"] == str(run)
        pair = [jax.numpy.asarray(composite(pictures)) for pictures in (renders, drawn)]
        wanted = float(np.mean(lpips_of(weights, *pair)))
        assert wanted > 0.01 and other["residual"] == {"lpips": pytest.approx(wanted, rel=1e-4)}
        maps = [seen(composite_on_white(jax.numpy.asarray(pictures))) for pictures in (renders, drawn)]
        wanted = float(np.mean(distance_of(*maps)))
        assert wanted > 1e-3 and one["residual"] == {"perceptual": pytest.approx(wanted, rel=1e-4)}
    rows = [one["views"]["clip_image"] for one in found["runs"]]
    assert found["mean"]["views"] == pytest.approx(found["runs"][0]["views"] | {"clip_image": sum(rows) / 2})
    for table in ([line for line in shown.splitlines() if "|" in line], run_table(with_lpips, mean, "lpips")):
        assert len(table) == 5 and "| – |" in table[3] and table[4].startswith("| mean of 2 | ")
    assert table[4].endswith(f" {mean['residual']['lpips']:.4f} |")


def test_wrong_flags_are_one_line(runs, folder, tmp_path, capsys):
    def refused(*arguments):
        assert evaluate.PROGRAM([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    run, weights = runs[1], f"--clip={folder}"
    assert "no such folder" in refused(f"--runs={run},{tmp_path / 'none'}", weights)
    assert "--runs needs --clip" in refused(f"--runs={run}")
    assert "--runs is empty" in refused("--runs=", weights)
    assert "--objects is for evaluations on Toybox" in refused(f"--runs={run}", weights, "--objects=3")
    assert "--json is for --runs" in refused("--json=x.json")
    assert "no such folder" in refused(f"--runs={run}", weights, f"--json={tmp_path / 'none/x.json'}")


def test_folders_that_are_no_finished_runs(tmp_path):
    def refused(message):
        with pytest.raises(InputError, match=message):
            open_finished_run(tmp_path)

    refused("no run.json in it")
    views(FakeModel().pipeline, "mug", quality="draft", out=tmp_path)
    refused("a run of 'views'; expected one of 'asset'")
    # As `im3d generate` leaves the folder, before its last stages and after.
    stages = json.loads((tmp_path / "state/stages.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"what": "asset", "request": {"rounds": 0}}}))
    refused("unfinished")
    stages |= {name: {"outputs": {}} for name in ("asset", "metrics")}
    (tmp_path / "state/stages.json").write_text(json.dumps(stages))
    assert open_finished_run(tmp_path).views[:2] == ("views/00.png", "views/01.png")
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"what": "asset", "request": {"rounds": 1}}}))
    refused("no stage 'refine1'")
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"what": "asset", "request": {"rounds": 0}}}))
    picture = (tmp_path / "views/02.png").read_bytes()
    (tmp_path / "views/02.png").write_bytes(picture[:-1])
    refused("views/02.png is missing or was changed")
    (tmp_path / "state/stages.json").write_text("[")
    refused("stages.json is damaged")
    (tmp_path / "run.json").write_text("{")
    refused("run.json is damaged")
