"""Finished run folders are measured, of any model; what cannot be measured is refused before anything is drawn."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from absl import flags

from experiments import evaluate
from im3d_jax.cli import common
from im3d_jax.cli.main import main
from im3d_jax.data.captures import load_capture
from im3d_jax.foreign import features
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import lpips, perceptual
from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import encode_png, read_images
from im3d_jax.output.renders import render_views
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.reconstruction import PRESETS, final_gaussians, init_state
from splat import orbit_cameras
from splat.io import load_ply, save_ply
from tests.experiments import test_clip_metrics as clips
from tests.foreign import conftest as miniature
from tests.tiny import FRAMES, narrow_lpips, write_bundle


checkpoints, small, picture = miniature.checkpoints, miniature.small, miniature.picture
folder, clip = clips.folder, clips.clip


def write_run(path, *, prompt, rounds=0, seed=0):
    """A finished run folder of 4 views of a few gaussians."""
    rng = np.random.default_rng(seed)
    folder = RunFolder(path, {"command": "generate", "prompt": prompt, "rounds": rounds})
    folder.start({}, {"model": "SV3D, say"})
    cameras = orbit_cameras(0.2, views=4, width=32, height=32)
    preset = dataclasses.replace(PRESETS["draft"], capacity=64, initial=64)
    state = init_state(jax.random.key(seed), preset, cameras)

    def write(stage, pictures):
        def work(files):
            for name, picture in pictures.items():
                files.write(name, encode_png(picture))

        folder.stage(stage, work)

    views = rng.uniform(size=(4, 32, 32, 4)).astype(np.float32)
    write("input", {"input.png": views[0]})
    names = [f"views/{index:02d}.png" for index in range(4)]
    write("views", dict(zip(names, views, strict=True)))
    folder.stage("cameras", lambda files: files.write("cameras.json", encode_cameras(cameras, names)))
    for number in range(1, rounds + 1):
        drawn = [views[0], *rng.uniform(size=(3, 32, 32, 4)).astype(np.float32)]
        write(f"refine{number}", {f"views_round{number}/{index:02d}.png": view for index, view in enumerate(drawn)})
    folder.stage("asset", lambda files: files.save("asset.ply", lambda p: save_ply(p, final_gaussians(state))))
    folder.stage("metrics", lambda files: files.write("metrics.json", b"{}", volatile=True))
    return path


def evaluated(*arguments):
    """Exit code of `experiments.evaluate` with these flags."""
    values = flags.FlagValues()
    evaluate.define_flags(values)
    values(["evaluate", *map(str, arguments)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "start_jax", lambda: None)
        patch.setattr(flags, "FLAGS", values)
        return evaluate.main(["evaluate"])


def test_finished_runs_are_measured(folder, clip, tmp_path, capsys, monkeypatch):
    """Against the files themselves: views of the last round and renders at their cameras, without the given one."""
    runs = write_run(tmp_path / "a", prompt=clips.PROMPT, rounds=2), write_run(tmp_path / "b", prompt=None, seed=1)
    before = {file: file.read_bytes() for run in runs for file in run.rglob("*") if file.is_file()}
    page, vgg, weights = tmp_path / "clip.json", tmp_path / "vgg.safetensors", narrow_lpips()
    vgg.write_bytes(b"weights")
    monkeypatch.setattr(lpips, "load", lambda path: weights)
    network = features.bundled_features()
    monkeypatch.setattr(features, "bundled_features", lambda: network)
    given = [f"--runs={runs[0]},{runs[1]}", f"--clip={folder}", f"--json={page}"]
    assert evaluated(*given, f"--lpips_weights={vgg}") == 0
    shown = capsys.readouterr().out
    assert f"Similarity by {clip.backbone}; LPIPS (VGG16)" in shown
    with_lpips = json.loads(page.read_text())
    assert evaluated(*given) == 0
    assert "perceptual distance on encoder features of the bundled autoencoder" in capsys.readouterr().out
    found = json.loads(page.read_text())
    assert before == {file: file.read_bytes() for run in runs for file in run.rglob("*") if file.is_file()}

    seen, lpips_of, distance_of = jax.jit(network), jax.jit(lpips.lpips), jax.jit(perceptual.distance)
    for run, one, other, last, prompt in zip(
        runs, found["runs"], with_lpips["runs"], ("views_round2", "views"), (clips.PROMPT, None), strict=True
    ):
        views = read_images([run / f"{last}/{index:02d}.png" for index in (1, 2, 3)])
        renders = render_views(load_ply(run / "asset.ply"), load_capture(run).cameras)[1:]
        image = read_images([run / "input.png"])[0]
        for name, pictures in (("views", views), ("rerendered", renders)):
            wanted = clip.similarities(pictures, prompt=prompt, image=image)
            assert one[name] == pytest.approx(wanted, abs=1e-6) and one[name] == other[name]
            assert ("clip_text" in one[name]) == (prompt is not None)
        assert one["model"] == "SV3D, say" and one["prompt"] == prompt and one["run"] == str(run)
        pair = [jax.numpy.asarray(composite(pictures)) for pictures in (renders, views)]
        wanted = float(np.mean(lpips_of(weights, *pair)))
        assert wanted > 0.01 and other["residual"] == {"lpips": pytest.approx(wanted, rel=1e-4)}
        maps = [seen(composite_on_white(jax.numpy.asarray(pictures))) for pictures in (renders, views)]
        wanted = float(np.mean(distance_of(*maps)))
        assert wanted > 0.01 and one["residual"] == {"perceptual": pytest.approx(wanted, rel=1e-4)}
    rows = [one["views"]["clip_image"] for one in found["runs"]]
    assert found["mean"]["views"] == pytest.approx(found["runs"][0]["views"] | {"clip_image": sum(rows) / 2})
    assert found["settings"]["clip"] == clip.backbone and len(with_lpips["settings"]["lpips_sha256"]) == 64
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 5 and "| – |" in table[3] and table[4].startswith("| mean of 2 | ")
    assert f"{with_lpips['mean']['residual']['lpips']:.4f} |" in table[4]


def test_wrong_runs_are_one_line(folder, tmp_path, capsys):
    def refused(*arguments):
        assert evaluated(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    run, weights = write_run(tmp_path / "run", prompt=None), f"--clip={folder}"
    assert "no such folder" in refused(f"--runs={run},{tmp_path / 'none'}", weights)
    assert "no run.json in it" in refused(f"--runs={folder}", weights)
    assert "--runs needs --clip" in refused(f"--runs={run}")
    assert "--runs is empty" in refused("--runs=", weights)
    assert "--objects is for evaluations on Toybox" in refused(f"--runs={run}", weights, "--objects=3")
    assert "--json is for --runs" in refused("--json=x.json")
    assert "no such folder" in refused(f"--runs={run}", weights, f"--json={tmp_path / 'none/x.json'}")
    picture = (run / "views/02.png").read_bytes()
    (run / "views/02.png").write_bytes(picture[:-1])
    assert "views/02.png is missing or was changed" in refused(f"--runs={run}", weights)
    (run / "views/02.png").write_bytes(picture)
    stages = json.loads((run / "state/stages.json").read_text())
    (run / "state/stages.json").write_text(json.dumps({name: stages[name] for name in stages if name != "metrics"}))
    assert "unfinished" in refused(f"--runs={run}", weights)
    (run / "state/stages.json").write_text("[")
    assert "stages.json is damaged" in refused(f"--runs={run}", weights)
    (run / "run.json").write_text(json.dumps({"settings": {"command": "views"}}))
    (run / "state/stages.json").unlink()
    assert "a run of 'views'" in refused(f"--runs={run}", weights)


def test_a_foreign_model_is_refused_before_anything_is_drawn(small, checkpoints, folder, tmp_path, capsys):
    """It has no true turntables; its runs can be measured."""
    out = tmp_path / "out"
    assert evaluated(f"--model={checkpoints['sv3d_u']}", f"--clip={folder}", f"--out={out}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not draw Toybox's orbits of 16 views" in line and "--runs=DIR[,DIR...] --clip=WEIGHTS" in line
    assert not out.exists()
    bundle = write_bundle(tmp_path / "bundle")
    assert evaluated(f"--model={bundle}", f"--out={out}") == 2 and not out.exists()
    assert f"({FRAMES} views) does not draw" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_a_foreign_model(small, checkpoints, picture, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    made = ["--quality=draft", "--rounds=0", "--elevation_deg=10", "--orbit_direction=ccw", f"--image={picture}"]
    assert main(["generate", *made, f"--model={checkpoints['sv3d_u']}", f"--out={tmp_path / 'run'}"]) == 0
    page = tmp_path / "clip.json"
    assert evaluated(f"--runs={tmp_path / 'run'}", f"--clip={folder}", f"--json={page}") == 0
    (one,) = json.loads(page.read_text())["runs"]
    assert one["model"] == "sv3d_u (sgm)" and set(one["views"]) == set(one["rerendered"]) == {"clip_image"}
    assert all(np.isfinite(value) for part in ("views", "rerendered", "residual") for value in one[part].values())
