"""The bundled model's temporal layers on Toybox turntables, spatial layers held. Stage 3 of `tiny`.

As in IM-3D (arXiv 2402.08682, section 3.1).

    python -m experiments.train --config=tiny_video --workdir=runs/video \
        --set stage.start.bundle=runs/images/bundle --set stage.attention=cudnn

Two H200: 23.3 ms a step, 4.7 min. Result: a loss of 0.160.
"""

import pathlib

from experiments.configs.small import small_bundle_stage, write_small_bundle
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import TurntableTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=TurntableTraining(),
        optimizer=OptimizerSettings(warmup=200, decay=0.4),
        run=RunSettings(steps=12_000, batch=32, ema=0.9995, log_every=250, evaluate_every=2_500),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, from a bundle of random weights in `folder`."""
    return small_bundle_stage(get_config(), write_small_bundle(folder / "start"))
