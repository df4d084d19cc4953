"""SV3D further on own objects: all layers at a small rate.

    im3d render-dataset --meshes=MESHES --out=data/turntables --views=21 --size=576
    python -m experiments.encode --turntables=data/turntables --model=DIR_OF_SV3D --out=data/encoded
    python -m experiments.train --config=sv3d_finetune --workdir=runs/own \
        --set stage.start=DIR_OF_SV3D --set stage.data=data/encoded --set mesh.fsdp=8

The state of all 1.5 billion parameters takes 23 GiB; `mesh.fsdp` splits it. Not run to its end; see docs/training.md.
"""

import pathlib

from experiments.configs.small import small_svd
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.svd import SvdTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=SvdTraining(trained="all", learning_rate=5e-6),
        optimizer=OptimizerSettings(b2=0.999, warmup=200, decay=0.0),
        run=RunSettings(steps=5_000, batch=16, ema=0.999, log_every=50, evaluate_every=500),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, from random weights and Toybox turntables written to `folder`."""
    return small_svd(get_config(), folder, "sv3d_u")
