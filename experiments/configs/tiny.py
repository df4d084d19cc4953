"""The bundled model from nothing: six stages, each from the bundle of the one before, as one command.

    python -m experiments.train --config=tiny --workdir=runs/tiny

Two H200: about 40 min; BUILD.md has the stages' times and figures. WORKDIR/bundle then holds the files that ship,
rounded to bfloat16. The shipped weights learned the elevation head before the last turntable stage; the two share no
parameter.
"""

import dataclasses
import pathlib

from experiments.configs import tiny_autoencoder, tiny_elevation, tiny_images, tiny_video, tiny_video_unfrozen
from experiments.configs.small import small_bundle_stage
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import Rendered, TurntableTraining


def get_chain() -> dict[str, Recipe]:
    """The stages in order, by name."""
    video = tiny_video.get_config()
    assert isinstance(video.stage, TurntableTraining)
    mixed = dataclasses.replace(
        video,
        stage=dataclasses.replace(
            video.stage, data=Rendered(16_000, held_out=0), spatial_rate=0.3, picture_weight=0.2, learning_rate=6e-4
        ),
        optimizer=OptimizerSettings(warmup=250, decay=0.7),
        run=dataclasses.replace(video.run, steps=6_000, evaluate_every=0),
    )
    return {
        "autoencoder": tiny_autoencoder.get_config(),
        "images": tiny_images.get_config(),
        "video": video,
        "mixed": mixed,
        "unfrozen": tiny_video_unfrozen.get_config(),
        "elevation": tiny_elevation.get_config(),
    }


def get_smoke_chain(folder: pathlib.Path) -> dict[str, Recipe]:
    """The stages in miniature; `folder` stays empty."""
    return {name: small_bundle_stage(recipe) for name, recipe in get_chain().items()}
