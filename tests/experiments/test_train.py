"""Recipes in miniature, through the program itself."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import im3d_jax as im3d
from experiments import train
from experiments.configs import svd_multiview
from im3d_jax.atomic import hold
from im3d_jax.models import is_temporal_parameter
from im3d_jax.training.recipe import Recipe
from im3d_jax.weights import flatten, load_bundle, save_bundle


def start(config, workdir, *arguments):
    """The exit code; this generator compiles in a fraction of the default one's time."""
    with jax.default_prng_impl("unsafe_rbg"):
        return train.PROGRAM([f"--config={config}", "--smoke", f"--workdir={workdir}", *arguments])


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Folder of a fine-tuned SVD."""
    workdir = tmp_path_factory.mktemp("runs") / "svd"
    assert start("svd_multiview", workdir) == 0
    return workdir


def test_each_stage_of_the_bundle_trains_its_part_alone(tmp_path):
    trained = {}
    for name, recipe in train.open_recipe("tiny").get_smoke_chain(tmp_path).items():
        outline = recipe.stage.outline()
        trained[name] = {each for each in flatten(outline.params) if outline.trained(each)}
    assert {name.split(".")[0] for name in trained["images"]} == {"unet", "text_encoder"}
    assert not any(is_temporal_parameter(name) for name in trained["images"])
    assert all(name.startswith("unet.") and is_temporal_parameter(name) for name in trained["video"])
    assert any("conv_in_condition" in name for name in trained["video"])
    assert trained["video"] < trained["mixed"] == trained["unfrozen"]
    assert all(name.startswith("elevation.") for name in trained["elevation"])
    assert all(name.startswith("autoencoder.") for name in trained["autoencoder"])
    assert not any(name.endswith(("latent_mean", "latent_std")) for name in trained["autoencoder"])


def test_a_chain_starts_each_stage_from_the_one_before_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    """With stages that write the bundle that they start from."""
    started = []

    def finish(recipe, workdir, **_):
        start = recipe.stage.start.bundle
        started.append((workdir.name, start))
        found = recipe.stage.start.open(0) if not start else load_bundle(start)
        save_bundle(workdir / "bundle", found.config, found.tokenizer, found.params)
        return len(started) != 3  # the third is stopped once

    monkeypatch.setattr(Recipe, "train", finish)
    assert start("tiny", tmp_path) == 0 and start("tiny", tmp_path) == 0
    names = ["autoencoder", "images", "video", "video", "mixed", "unfrozen", "elevation"]
    assert [name for name, _ in started] == names
    assert [bundle for _, bundle in started[:3]] == ["", *(str(tmp_path / name / "bundle") for name in names[:2])]
    said = capsys.readouterr().err
    assert said.count("already finished") == 2 and "wrote" in said
    # A stage whose settings or bundle are others is not finished: its run says whether it may go on.
    for change in (["--seed=1"], ["--set", "steps=3"], ["--set", "stage.start.model.log_snr_shift=0.5"]):
        before = len(started)
        assert start("tiny", tmp_path, *change) == 0
        assert started[before][0] == "autoencoder"
    before = len(started)
    shutil.rmtree(tmp_path / "elevation/bundle")
    (tmp_path / "unfrozen/finished.json").write_text("{")
    assert start("tiny", tmp_path, *change) == 0
    assert [name for name, _ in started[before:]] == ["unfrozen", "elevation"]
    assert load_bundle(str(tmp_path / "bundle")).config == load_bundle(str(tmp_path / "elevation" / "bundle")).config
    # Contents decide: another place changes nothing, other weights of a stage begin the later ones anew.
    moved, before = tmp_path.rename(tmp_path.with_name("moved")), len(started)
    assert start("tiny", moved, *change) == 0 and len(started) == before
    found = load_bundle(str(moved / "mixed/bundle"))
    negated = jax.tree.map(lambda leaf: -leaf, found.params)
    save_bundle(moved / "mixed/bundle", found.config, found.tokenizer, negated)
    assert start("tiny", moved, *change) == 0
    assert [name for name, _ in started[before:]] == ["unfrozen", "elevation"]


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_a_fine_tuned_model_draws(video, tmp_path):
    """What the recipe writes opens as any other folder of weights."""
    model = im3d.load(str(video / "model"))
    picture = np.zeros((32, 32, 4), np.float32)
    picture[8:24, 8:24] = (0.8, 0.1, 0.1, 1.0)
    views = im3d.views(model, image=picture, elevation_deg=10.0, orbit_direction="ccw", quality="draft")
    assert views.images.shape == (5, 32, 32, 4) and np.isfinite(views.images).all()
    lines = lines_of(video)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["examples_per_second"] > 0 and line["tflops_per_device"] > 0 for line in lines)


@pytest.mark.slow
def test_a_finished_run_is_extended_and_says_so(video, tmp_path, capsys):
    """Length and rate may change; what decides the result may not."""
    workdir = tmp_path / "run"
    shutil.copytree(video, workdir)
    assert start("svd_multiview", workdir, "--set", "steps=3", "--set", "stage.learning_rate=1e-3") == 0
    assert "resuming at step 2 of 3" in capsys.readouterr().err
    starts = [json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines()]
    assert [line["step"] for line in starts] == [0, 2]
    assert starts[1]["recipe"]["stage"]["learning_rate"] == 1e-3 and starts[1]["recipe"]["run"]["steps"] == 3
    assert [line["step"] for line in lines_of(workdir)] == [1, 2, 3]
    for arguments, message in (
        (["--seed=1"], "seed was 0, now 1"),
        (["--set", "stage.drop=0.5"], "drop was 0.1, now 0.5"),
        (["--set", "trained=all"], "trained was 'temporal', now 'all'"),
    ):
        assert start("svd_multiview", workdir, *arguments) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in said and "take a new --workdir" in said
    assert start("im3d_paper", workdir) == 2
    assert "stage was 'svd', now 'emu'" in capsys.readouterr().err


def test_two_programs_in_one_folder(tmp_path, capsys):
    with hold(tmp_path, ".lock-program"):
        assert start("svd_multiview", tmp_path) == 2
    assert "another trainer (process " in capsys.readouterr().err and not (tmp_path / "smoke").exists()


def test_the_smallest_video_stage_learns(tmp_path):
    """Its spatial layers are held, so it starts from weights whose last layer is not zero."""
    recipe = train.open_recipe("tiny_video").get_smoke(tmp_path)
    kernels = flatten(recipe.stage.start.open(0).params["unet"])
    assert all(np.any(np.asarray(leaf)) for leaf in kernels.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=im3d_paper", "--workdir=W", "--set", "steps=-5"], "steps=-5: expected at least 1"),
        (["--config=im3d_paper", "--workdir=W", "--seed=99999999999999999999"], "in the range [0, 4294967295]"),
        (["--config=im3d_paper", "--workdir=W", "--max_seconds=nan"], "flag --max_seconds=nan: nan is not a number"),
        (
            ["--config=tiny_autoencoder", "--smoke", "--workdir=W", "--set", "run.steps=99999999999999999999"],
            "--set=run.steps=99999999999999999999: expected whole numbers from -2147483647 to 2147483647",
        ),
        (["--config=tiny", "--smoke", "--workdir=W", "--set", "run.steps=3000000000"], "to 2147483647"),
        (["--config=im3d_paper", "--workdir=W", "--set", "stage.drop=nan"], "stage.drop=nan: expected a float"),
        (["--config=im3d_paper", "--workdir=W", "--profile=9999999999:1"], "expected the first step and a number of"),
        (["--config=im3d_paper", "--workdir=W", "--set", "decay=1.5"], "optimizer.decay=1.5: expected a share"),
        (["--config=im3d_paper", "--workdir=W", "--set", "clip=0"], "optimizer.clip=0.0: expected a norm"),
        (
            ["--config=im3d_paper", "--workdir=W", "--set", "learning_rate=0"],
            "stage.learning_rate=0.0: expected a rate",
        ),
        (["--config=im3d_paper", "--workdir=W", "--set", "learning_rate=nan"], "stage.learning_rate=nan: expected"),
        (["--config=im3d_paper", "--workdir=W", "--set", "drop=2"], "stage.drop=2.0: expected a share, 0 to 1"),
        (["--config=svd_multiview", "--workdir=W", "--set", "rank=0"], "stage.rank=0: expected at least 1"),
        (["--config=svd_multiview", "--workdir=W", "--set", "sigma_std=-1"], "stage.sigma_std=-1.0: expected"),
        (["--config=svd_multiview", "--workdir=W", "--set", "dtype=fp8"], "stage.dtype=fp8: expected bfloat16"),
        (
            ["--config=tiny_video", "--workdir=W", "--set", "stage.data.objects=-1"],
            "stage.data.objects=-1: expected 0 or",
        ),
        (["--config=im3d_paper", "--workdir=W", "--set", "mesh.fsdp=0"], "fsdp=0 needs"),
        (["--config=tiny_video", "--workdir=/dev/null/x"], "cannot use /dev/null/x (Not a directory)"),
        (["--config=tyni"], "--config=tyni: expected one of camera_conditioned, im3d_paper"),
        (["--config=im3d_paper"], "--workdir is missing"),
        (["--config=im3d_paper", "--workdir=W", "--set", "run.stepps=3"], "has no field stepps; did you mean steps?"),
        (["--config=im3d_paper", "--workdir=W", "--set", "run.steps=many"], "expected an int such as 5000"),
        (["--config=im3d_paper", "--workdir=W", "--set", "stage.remat=some"], "expected none or blocks or full"),
        (["--config=im3d_paper", "--workdir=W", "--profile=ten"], "--profile=ten: expected FIRST:COUNT"),
        (["--config=svd_multiview", "--workdir=W"], "holds no encoded turntables"),
        (["--config=im3d_paper", "--workdir=W", "--processes=2"], "need all of --coordinator"),
        (["--config=im3d_paper", "--workdir=W", "--set", "mesh.fsdp=64"], "64"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, tmp_path, capsys):
    assert train.PROGRAM([argument.replace("=W", f"={tmp_path / 'w'}") for argument in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    if "9999" in str(arguments) or "3000000000" in str(arguments):
        assert not (tmp_path / "w").exists(), "before any work"


def test_every_recipe_has_both_forms(tmp_path):
    for name in train.names():
        module = train.open_recipe(name)
        recipes = module.get_chain() if hasattr(module, "get_chain") else {name: module.get_config()}
        assert all(recipe.run.steps > 1_000 for recipe in recipes.values())
        assert hasattr(module, "get_smoke_chain" if hasattr(module, "get_chain") else "get_smoke")
        assert f"--config={name}" in module.__doc__
    assert dataclasses.asdict(svd_multiview.get_config())["run"]["batch"] == 16
