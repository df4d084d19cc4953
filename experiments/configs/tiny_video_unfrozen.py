"""The bundled model's turntables with spatial layers too, at half the rate, first frames mixed in. Stage 5 of `tiny`.

Sees more of the noisiest times, which decide where hidden parts go.

    python -m experiments.train --config=tiny_video_unfrozen --workdir=runs/unfrozen \
        --set stage.start.bundle=runs/video/bundle --set stage.attention=cudnn

Two H200: 30.1 ms a step, 22 min for 43,756 steps. Result: views of held-out objects 10.2 dB above the first frame
repeated.
"""

import pathlib

from experiments.configs.small import small_bundle_stage
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import Rendered, TurntableTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=TurntableTraining(
            data=Rendered(48_000, held_out=0), spatial_rate=0.5, picture_weight=0.2, high_noise=0.4
        ),
        optimizer=OptimizerSettings("muon", warmup=500, decay=0.7),
        run=RunSettings(steps=43_756, batch=32, ema=0.9995, log_every=500),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature; `folder` stays empty."""
    return small_bundle_stage(get_config())
