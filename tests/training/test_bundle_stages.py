"""Figures of the bundle's stages on held-out objects, against numpy and the model with the same parameters."""

import dataclasses

import numpy as np
import pytest

from experiments.configs import tiny
from im3d_jax.data import turntables
from im3d_jax.parallel import make_mesh
from im3d_jax.pipelines.bundle import BundleModel
from im3d_jax.progress import ProgressCalls
from im3d_jax.training.stages.bundle import Start
from im3d_jax.weights import load_bundle


OBJECTS = 2


@pytest.fixture(scope="module")
def evaluated(bundle, tmp_path_factory):
    """(bundle, {stage: (stage, its figures)}) with the bundle's own parameters."""
    made = {}
    for name, recipe in tiny.get_smoke_chain(tmp_path_factory.mktemp("smoke")).items():
        if name not in ("autoencoder", "video", "elevation"):
            continue
        data = dataclasses.replace(recipe.stage.data, held_out=OBJECTS)
        settings = dataclasses.replace(recipe.stage, start=Start(bundle=bundle), data=data)
        stage = settings.build(0, make_mesh(), ProgressCalls(None))
        made[name] = settings, stage.evaluate(stage.params)
    return load_bundle(bundle), made


def rendered(bundle, frames):
    """[N, F, H, W, 4] in [0, 1], and the elevations, of the held-out objects."""
    values, _, elevations = turntables.map_orbits(
        "test", range(OBJECTS), size=bundle.config.image_size, frames=frames, transform=turntables.to_bytes, chunk=8
    )
    return np.asarray(values, np.float32) / 255.0, elevations


def on_white(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


def mean_psnr(made, true):
    return np.mean(-10.0 * np.log10(np.square(on_white(made) - on_white(true)).mean((-3, -2, -1))))


def test_autoencoder(evaluated):
    bundle, made = evaluated
    settings, figures = made["autoencoder"]
    true, _ = rendered(bundle, settings.data.frames)
    true = true.reshape(-1, *true.shape[2:])
    model = BundleModel(bundle)
    latents = model._encode(model.params["autoencoder"], true)
    again = np.asarray(model._decode(model.params["autoencoder"], latents))
    assert figures == {"test_psnr": pytest.approx(mean_psnr(again, true), abs=1e-3)}


def test_views(evaluated):
    bundle, made = evaluated
    settings, figures = made["video"]
    true, _ = rendered(bundle, settings.data.frames)
    repeated = np.broadcast_to(true[:, :1], true[:, 1:].shape)
    assert figures["repeat_psnr"] == pytest.approx(mean_psnr(repeated, true[:, 1:]), abs=1e-3)
    assert np.isfinite(figures["test_psnr"]) and set(figures) == {"repeat_psnr", "test_psnr"}


def test_elevation(evaluated):
    bundle, made = evaluated
    settings, figures = made["elevation"]
    true, elevations = rendered(bundle, settings.data.frames)
    model = BundleModel(bundle)
    latents = np.stack([np.asarray(model._encode(model.params["autoencoder"], views)) for views in true])
    head = np.asarray(model._elevation(model.params["elevation"], latents))
    # The stage keeps its latents in bfloat16 and encodes unrounded renders.
    assert figures == {"test_degrees": pytest.approx(np.rad2deg(np.abs(head - elevations).mean()), rel=2e-2)}
