"""SVD to a multiview model by low-rank adapters on the spatial attention; all else is held.

    python -m experiments.train --config=svd_multiview_lora --workdir=runs/lora \
        --set stage.start=DIR_OF_SVD --set stage.data=data/encoded

Data as for `svd_multiview`. Writes runs/lora/model, with the adapters merged in, and
runs/lora/pytorch_lora_weights.safetensors under diffusers' names. Not run to its end; see docs/training.md.
"""

import dataclasses
import pathlib

from experiments.configs import svd_multiview
from experiments.configs.small import small_svd
from im3d_jax.training.recipe import Recipe
from im3d_jax.training.stages.svd import SvdTraining


def get_config() -> Recipe:
    """The recipe."""
    base = svd_multiview.get_config()
    run = dataclasses.replace(base.run, steps=4_000)
    return dataclasses.replace(base, stage=SvdTraining(trained="lora", rank=16, learning_rate=1e-4), run=run)


def get_smoke(folder: pathlib.Path) -> Recipe:
    """The recipe in miniature, from random weights and Toybox turntables written to `folder`."""
    return small_svd(get_config(), folder, "svd")
