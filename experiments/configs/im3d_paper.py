"""IM-3D's own fine-tuning (arXiv 2402.08682, section 3.1): Emu Video's layout, temporal layers, batch 240, rate 1e-5.

    python -m experiments.train --config=im3d_paper --workdir=runs/im3d \
        --set stage.start=DIR --set stage.data=data/encoded --set mesh.fsdp=8

No weights of Emu Video are public. Without `stage.start` and `stage.data` the recipe trains a random network on noise,
which measures a machine. 240 turntables a step need a mesh whose size divides 240; 256 suits pods of 256 chips. Not run
to its end; see docs/scaling.md.
"""

import dataclasses
import pathlib

from experiments.configs.small import short_run
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.emu import EmuTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=EmuTraining(),
        optimizer=OptimizerSettings(weight_decay=0.01, b2=0.999, warmup=1_000, decay=0.0),
        run=RunSettings(steps=5_000, batch=240, ema=0.9999, log_every=50),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, on noise; `folder` stays empty."""
    return dataclasses.replace(
        short_run(get_config()), stage=EmuTraining(miniature=True, dtype="float32", remat="none")
    )
