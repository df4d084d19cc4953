"""SVD to a multiview model: temporal layers on turntables, EDM's loss, from a frame to the orbit around it.

    im3d render-dataset --meshes=MESHES --out=data/turntables --views=14 --size=576
    python -m experiments.encode --turntables=data/turntables --model=DIR_OF_SVD --out=data/encoded
    python -m experiments.train --config=svd_multiview --workdir=runs/multiview \
        --set stage.start=DIR_OF_SVD --set stage.data=data/encoded
    im3d generate --model=runs/multiview/model --image=shoe.png --out=runs/shoe

12,000 steps of 16 turntables at a rate of 1e-5, as SV3D's authors fine-tune (arXiv 2403.12008, section 3.3: batch 64).
Eight TPU v5e chips: `--set mesh.fsdp=8 --set run.micro_batches=2` compiles to 11.5 GiB a chip (docs/scaling.md).
Not run to its end: the weights of SVD were not available. docs/training.md has the measured seconds a step and the
hours that follow from them.
"""

import pathlib

from experiments.configs.small import small_svd
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.svd import SvdTraining


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        stage=SvdTraining(),
        optimizer=OptimizerSettings(b2=0.999, warmup=500, decay=0.0),
        run=RunSettings(steps=12_000, batch=16, micro_batches=1, ema=0.999, log_every=50, evaluate_every=1_000),
    )


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, from random weights and Toybox turntables written to `folder`."""
    return small_svd(get_config(), folder, "svd")
