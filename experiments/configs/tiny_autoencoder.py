"""The bundled model's autoencoder on single Toybox frames: stage 1 of `tiny`.

    python -m experiments.train --config=tiny_autoencoder --workdir=runs/autoencoder

Two H200: 11.0 ms a step, 1.5 min. Result: 40.6 dB on held-out objects.
"""

import pathlib

from experiments.configs.small import small_bundle_stage
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import AutoencoderTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=AutoencoderTraining(),
        optimizer=OptimizerSettings(warmup=200, decay=0.4),
        run=RunSettings(steps=8_000, batch=128, log_every=250, evaluate_every=2_500),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature; `folder` stays empty."""
    return small_bundle_stage(get_config())
