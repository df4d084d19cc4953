"""The bundled model's text-to-image part: first frames of Toybox, spatial layers and text encoder. Stage 2 of `tiny`.

    python -m experiments.train --config=tiny_images --workdir=runs/images \
        --set stage.start.bundle=runs/autoencoder/bundle --set stage.attention=cudnn

Two H200: 12.9 ms a step, 4.7 min. Result: a loss of 0.185.
"""

import pathlib

from experiments.configs.small import small_bundle_stage
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import PictureTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=PictureTraining(),
        optimizer=OptimizerSettings(warmup=200, decay=0.4),
        run=RunSettings(steps=22_000, batch=256, ema=0.9995, log_every=250),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature; `folder` stays empty."""
    return small_bundle_stage(get_config())
