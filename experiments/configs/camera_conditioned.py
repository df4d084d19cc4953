"""SVD to a network that is told every camera: elevation and azimuth of each frame, as in SV3D_p (arXiv 2403.12008).

    im3d render-dataset --meshes=MESHES --out=data/turntables --views=21 --size=576 --elevation=dynamic:0:45
    python -m experiments.encode --turntables=data/turntables --model=DIR_OF_SVD --family=sv3d_p --out=data/encoded
    python -m experiments.train --config=camera_conditioned --workdir=runs/cameras \
        --set stage.start=DIR_OF_SVD --set stage.data=data/encoded

The embedding of the conditions is new and learned from nothing, all other layers start as SVD's. Not run to its end;
see docs/training.md.
"""

import pathlib

from experiments.configs.small import small_svd
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.svd import SvdTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=SvdTraining(family="sv3d_p", trained="temporal", learning_rate=1e-5),
        optimizer=OptimizerSettings(b2=0.999, warmup=500, decay=0.0),
        run=RunSettings(steps=20_000, batch=16, ema=0.999, log_every=50, evaluate_every=1_000),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, from random weights and Toybox turntables written to `folder`."""
    return small_svd(get_config(), folder, "svd")
