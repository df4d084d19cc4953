"""Recipes in miniature: small networks, few examples, two steps."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np

from im3d_jax.data.encoded import EncodedWriter
from im3d_jax.data.toybox import ALIASES, VOCABULARY
from im3d_jax.data.toybox.turntable_set import ToyboxTurntables
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.pipelines.svd import OrbitModel
from im3d_jax.progress import ProgressCalls
from im3d_jax.training.encode import EncodeSettings, encode_turntables
from im3d_jax.training.recipe import Recipe
from im3d_jax.training.stages.bundle import BundleStage, ElevationTraining, Rendered, Start
from im3d_jax.training.stages.svd import SvdTraining
from im3d_jax.weights import WordTokenizer, build_tokenizer, open_checkpoint, parameter_shapes, save_bundle
from im3d_jax.weights import miniature as miniature_weights
from im3d_jax.weights.miniature import SIDE, VIEWS, miniature, write_miniature


FRAMES = (0, 4, 8, 12)
# Smaller still: six stages compile their programs one after the other.
BUNDLE = dataclasses.replace(
    miniature_weights.BUNDLE,
    image_size=16,
    unet=dataclasses.replace(miniature_weights.BUNDLE.unet, channels=(8, 8)),
    elevation=dataclasses.replace(miniature_weights.BUNDLE.elevation, patches=(2, 2)),
)


def short_run(recipe: Recipe) -> Recipe:
    """Two steps of two examples; the mesh takes one group of devices."""
    run = dataclasses.replace(
        recipe.run, steps=2, batch=2, micro_batches=1, log_every=1, evaluate_every=0, fit_seconds=None, workers=2
    )
    return dataclasses.replace(
        recipe, run=run, optimizer=dataclasses.replace(recipe.optimizer, warmup=1), mesh=type(recipe.mesh)()
    )


def small_bundle_stage(recipe: Recipe, bundle: str = "") -> Recipe:
    """A stage of a bundle on three Toybox objects of 16 x 16 pixels, from a bundle's folder or from nothing."""
    stage = recipe.stage
    assert isinstance(stage, BundleStage)
    data = Rendered(3, FRAMES[: len(stage.data.frames)], 0)
    small = dataclasses.replace(stage, start=Start(bundle, BUNDLE), data=data)
    if not isinstance(small, ElevationTraining):  # which is float32 anyway
        small = dataclasses.replace(small, dtype="float32")
    return dataclasses.replace(short_run(recipe), stage=small)


def write_small_bundle(folder: pathlib.Path) -> str:
    """Writes `BUNDLE` with random weights, no layer of which is zero; returns the folder as text."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.normal(0.0, 0.1, leaf.shape).astype(np.float32) + (leaf.ndim == 1)

    tokenizer = WordTokenizer(build_tokenizer(VOCABULARY, ALIASES), BUNDLE.text.length)
    save_bundle(folder, BUNDLE, tokenizer, jax.tree.map(draw, parameter_shapes(BUNDLE)))
    return str(folder)


def small_svd(recipe: Recipe, folder: pathlib.Path, family: str) -> Recipe:
    """Fine-tuning of a family in miniature, from a file of random weights and Toybox turntables that it encoded."""
    assert isinstance(recipe.stage, SvdTraining)
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_miniature(folder / f"{family}.safetensors", miniature(family))
    model = OrbitModel(CheckpointSource(open_checkpoint(weights, preset=miniature(family))), MEMORIES["16gb"])
    encode_turntables(
        ToyboxTurntables("train", objects=3, size=SIDE, frames=VIEWS),
        model,
        lambda settings: EncodedWriter(folder / "encoded", settings),
        EncodeSettings(family=recipe.stage.family),
        ProgressCalls(None),
        miniature,
    )
    stage = dataclasses.replace(
        recipe.stage,
        start=str(weights),
        data=str(folder / "encoded"),
        miniature=True,
        dtype="float32",
        remat="none",
        rank=2,
        fixed=2,
    )
    return dataclasses.replace(short_run(recipe), stage=stage)
