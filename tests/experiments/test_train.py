"""All four stages for two steps each on a very small model, through the program itself."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

from experiments import train
from experiments.configs.training import TrainConfig
from experiments.validation import validate
from im3d_jax.models import is_temporal_parameter
from im3d_jax.pipelines.bundle import BundleModel
from im3d_jax.weights import flatten, load_bundle


MODEL = [
    "model.image_size=16",
    "model.autoencoder.latent_channels=2",
    "model.autoencoder.encoder_channels=(8,8,8)",
    "model.autoencoder.decoder_channels=(8,8,8)",
    "model.autoencoder.encoder_blocks=(0,0,1)",
    "model.autoencoder.decoder_blocks=(0,0,1)",
    "model.text.width=8",
    "model.text.layers=1",
    "model.text.head_dim=8",
    "model.text.length=6",
    "model.unet.latent_channels=2",
    "model.unet.condition_channels=3",
    "model.unet.channels=(8,8)",
    "model.unet.layers_per_block=0",
    "model.unet.attention=(False,True)",
    "model.unet.temporal_attention=(False,True)",
    "model.unet.first_frame_attention=(False,False)",
    "model.unet.joint_attention=(False,False)",
    "model.unet.frames=4",
    "model.unet.context_dim=8",
    "model.unet.time_dim=8",
    "model.unet.head_dim=8",
    "model.unet.groups=4",
    "model.elevation.patches=(2,2)",
    "model.elevation.width=8",
    "model.elevation.hidden=8",
]
RUN = ["objects=3", "steps=2", "batch=2", "log_every=1", "warmup=1", "evaluate_objects=0", "dtype=float32"]


def run(stage, workdir, *extra, **flags):
    frames = "frames=(0,4,8,12)"
    overrides = [*MODEL, *RUN, frames, *extra]
    settings = flagsaver.flagsaver(config=f"tiny_{stage}", workdir=str(workdir), set=overrides, **flags)
    # This generator compiles in a fraction of the default one's time.
    with settings, jax.default_prng_impl("unsafe_rbg"):
        train.main(["train"])
    return load_bundle(str(workdir / "bundle"))


def changed(before, after):
    """Names of the parameters that differ, ``part.name``."""
    names = set()
    for part in before.params:
        a, b = flatten(before.params[part]), flatten(after.params[part])
        names |= {f"{part}.{name}" for name in a if not np.array_equal(a[name], b[name])}
    return names


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The bundle after each stage of a whole training, and its folder."""
    workdir = tmp_path_factory.mktemp("run")
    made = {}
    for stage in ("autoencoder", "images", "video", "elevation"):
        made[stage] = run(stage, workdir)
        shutil.copytree(workdir / "bundle", workdir / f"bundle_after_{stage}")
    return made, workdir


def test_each_stage_trains_its_part_alone(stages):
    made, _ = stages
    images = changed(made["autoencoder"], made["images"])
    assert {name.split(".")[0] for name in images} == {"unet", "text_encoder"}
    assert not any(is_temporal_parameter(name) for name in images)
    video = changed(made["images"], made["video"])
    assert video and all(name.startswith("unet.") and is_temporal_parameter(name) for name in video)
    assert any("conv_in_condition" in name for name in video)
    elevation = changed(made["video"], made["elevation"])
    assert elevation and all(name.startswith("elevation.") for name in elevation)


def test_latents_are_measured(stages):
    made, _ = stages
    params = made["autoencoder"].params["autoencoder"]
    assert (params["latent_std"] != 1).all() and (params["latent_std"] > 0).all()
    assert (params["latent_mean"] != 0).all()
    assert 0.3 < made["autoencoder"].config.target_fraction < 1


def test_a_run_records_its_settings_and_metrics(stages):
    _, workdir = stages
    for stage in ("autoencoder", "images", "video", "elevation"):
        settings = json.loads((workdir / stage / "config.json").read_text())
        assert settings["stage"] == stage and settings["batch"] == 2
        assert settings["model"]["unet"]["channels"] == [8, 8]
        lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(np.isfinite(line["loss"]) for line in lines)


def test_stopped_by_the_clock_and_continued(stages, tmp_path):
    """A run without time does nothing but save; a rerun ends where an uninterrupted one does."""
    made, workdir = stages
    shutil.copytree(workdir / "bundle_after_video", tmp_path / "bundle")
    before = run("elevation", tmp_path, max_seconds=0.0)
    assert (tmp_path / "elevation/metrics.jsonl").read_text() == ""
    assert not changed(before, made["video"])
    after = run("elevation", tmp_path)
    assert changed(before, after)
    jax.tree.map(np.testing.assert_array_equal, after.params, made["elevation"].params)


def test_other_settings_and_arguments_are_refused(stages):
    _, workdir = stages
    with pytest.raises(ValueError, match="other settings.*learning_rate"):
        run("elevation", workdir, "learning_rate=0.5")
    with flagsaver.flagsaver(config="tiny_video", workdir=str(workdir)):
        with pytest.raises(app.UsageError, match="extra"):
            train.main(["train", "extra"])


def test_vocabulary_must_fit(tmp_path):
    with pytest.raises(ValueError, match="model.text.vocabulary=20"):
        run("images", tmp_path, "model.text.vocabulary=20")


@pytest.mark.parametrize("stage", ["autoencoder", "images", "video", "elevation"])
def test_shapes_announced_are_those_made(stage, stages):
    """Compiling ahead uses `data_shapes`; the data must then fit."""
    made, _ = stages
    config = train.apply_overrides(TrainConfig(stage=stage), [*MODEL, *RUN, "frames=(0,4,8,12)"])
    data = train.make_data(config, made["elevation"], "train", 3)
    shapes = train.data_shapes(config, made["elevation"].config)
    assert {k: (v.shape, v.dtype) for k, v in data.items()} == {k: (v.shape, v.dtype) for k, v in shapes.items()}


def test_schedule():
    """Warm-up, plateau, decay to nothing; the length is an argument."""
    config = TrainConfig(warmup=10, decay=0.5)
    schedule = jax.jit(train.make_schedule(config))
    made = [float(schedule(step, 100)) for step in (0, 5, 10, 49, 75, 99, 100)]
    np.testing.assert_allclose(made, [0, 0.5, 1, 1, 0.5, 0.02, 0], atol=1e-6)
    assert float(schedule(75, 200)) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rates(optimizer):
    """Spatial layers learn at their share of the rate in the video stage."""
    names = ["unet.a.temporal_conv1.conv.kernel", "unet.b.conv.kernel"]
    config = TrainConfig(stage="video", weight_decay=0.0, learning_rate=1.0, spatial_rate=0.1, optimizer=optimizer)
    params = {name: np.ones((2, 2), np.float32) for name in names}
    stacks, transformation = train.make_optimizer(config, params)
    stacked = stacks.stack(params)
    change, _ = jax.jit(transformation.update)(stacked, transformation.init(stacked), stacked)
    change = stacks.unstack(change)
    temporal, spatial = (np.asarray(change[name]) for name in names)
    assert (temporal < 0).all()
    np.testing.assert_allclose(spatial, 0.1 * temporal, rtol=1e-3, atol=1e-6)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="expected adamw or muon"):
        train.make_optimizer(TrainConfig(optimizer="sgd"), {"a.kernel": np.ones((2, 2), np.float32)})


def test_figures_on_held_out_objects(stages):
    """Against the model that draws with the same parameters, in numpy."""
    made, _ = stages
    bundle = made["elevation"]
    config = train.apply_overrides(TrainConfig(stage="video"), [*MODEL, *RUN, "frames=(0,4,8,12)"])
    test = train.make_data(config, bundle, "test", 2)
    figures = validate(config, bundle, test)
    model = BundleModel(bundle)
    decoded = np.stack([np.asarray(model._decode(model.params["autoencoder"], row)) for row in test["latents"]])
    on_white = decoded[..., :3] * decoded[..., 3:] + 1 - decoded[..., 3:]
    errors = np.square(on_white[:, 1:] - on_white[:, :1]).mean((2, 3, 4))
    assert figures["repeat_psnr"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=1e-3)
    assert np.isfinite(figures["test_psnr"]) and set(figures) == {"repeat_psnr", "test_psnr"}
    elevation = {"latents": test["latents"], "elevation": np.float32([0.3, -0.2])}
    head = model._elevation(model.params["elevation"], test["latents"].astype(np.float32))
    wanted = np.rad2deg(np.abs(np.asarray(head) - elevation["elevation"])).mean()
    found = validate(dataclasses.replace(config, stage="elevation"), bundle, elevation)
    assert found == {"test_degrees": pytest.approx(wanted, rel=1e-4)}
    pictures = train.make_data(dataclasses.replace(config, stage="autoencoder"), bundle, "test", 1)
    latents = model._encode(model.params["autoencoder"], pictures["rgba"] / np.float32(255))
    again = np.asarray(model._decode(model.params["autoencoder"], latents))
    true = np.asarray(pictures["rgba"]) / 255
    pair = [views[..., :3] * views[..., 3:] + 1 - views[..., 3:] for views in (again, true)]
    wanted = np.mean(-10 * np.log10(np.square(pair[0] - pair[1]).mean((1, 2, 3))))
    found = validate(dataclasses.replace(config, stage="autoencoder"), bundle, pictures)
    assert found == {"test_psnr": pytest.approx(wanted, abs=1e-3)}
    assert validate(dataclasses.replace(config, stage="images"), bundle, test) == {}
