"""A bundled model of props and Toybox at 256 x 256 pixels, from nothing: five stages as one command.

    python -m experiments.train --config=tiny_props --workdir=runs/props \
        --set stage.data.pack=props.meshpack --set stage.attention=cudnn

docs/props.md says how to write the pack. Drawing needs moderngl (`pip install 'im3d-jax[data]'`) and EGL. The networks
are those of `tiny`; the autoencoder halves its pictures once more, so that latents stay 32 x 32. Turntables may be
given one to three frames beside the first.

Not run to its end yet.
"""

import pathlib

from experiments.configs.small import small_bundle_stage
from im3d_jax.models import RgbaAutoencoderConfig, TextConfig
from im3d_jax.training.loop import RunSettings
from im3d_jax.training.recipe import OptimizerSettings, Recipe
from im3d_jax.training.stages.bundle import (
    AutoencoderTraining,
    ElevationTraining,
    PictureTraining,
    Rendered,
    Start,
    TurntableTraining,
)
from im3d_jax.weights import BundleConfig


MODEL = BundleConfig(
    image_size=256,
    autoencoder=RgbaAutoencoderConfig(
        encoder_channels=(16, 24, 40, 96),
        decoder_channels=(16, 32, 64, 128),
        encoder_blocks=(0, 0, 1, 2),
        decoder_blocks=(0, 1, 2, 2),
    ),
    text=TextConfig(vocabulary=2048),
)
QUARTERS = (0, 4, 8, 12)


def get_chain() -> dict[str, Recipe]:
    """The stages in order, by name."""
    turntables = Rendered(16_000, held_out=32, props=48_000, held_out_props=64)
    return {
        "autoencoder": Recipe(
            stage=AutoencoderTraining(
                start=Start(model=MODEL, prop_words=True),
                data=Rendered(4_000, QUARTERS, 32, props=12_000, held_out_props=64),
            ),
            optimizer=OptimizerSettings(warmup=200, decay=0.5),
            run=RunSettings(steps=8_000, batch=64, log_every=250, evaluate_every=2_000),
        ),
        "images": Recipe(
            stage=PictureTraining(data=Rendered(50_000, (0,), 0, props=100_000)),
            optimizer=OptimizerSettings(warmup=200, decay=0.4),
            run=RunSettings(steps=22_000, batch=256, ema=0.9995, log_every=250),
        ),
        "video": Recipe(
            stage=TurntableTraining(data=turntables, more_given=0.2),
            optimizer=OptimizerSettings(warmup=200, decay=0.4),
            run=RunSettings(steps=10_000, batch=32, ema=0.9995, log_every=250, evaluate_every=5_000),
        ),
        "unfrozen": Recipe(
            stage=TurntableTraining(
                data=turntables, spatial_rate=0.5, picture_weight=0.2, high_noise=0.4, more_given=0.2
            ),
            optimizer=OptimizerSettings("muon", warmup=500, decay=0.7),
            run=RunSettings(steps=40_000, batch=32, ema=0.9995, log_every=500, evaluate_every=10_000),
        ),
        "elevation": Recipe(
            stage=ElevationTraining(data=Rendered(20_000, QUARTERS, 128, props=40_000, held_out_props=128)),
            optimizer=OptimizerSettings(weight_decay=0.1, warmup=200, decay=0.4),
            run=RunSettings(steps=8_000, batch=256, log_every=1_000, evaluate_every=2_000),
        ),
    }


def get_smoke_chain(folder: pathlib.Path) -> dict[str, Recipe]:
    """The stages in miniature, of Toybox alone; `folder` stays empty."""
    return {name: small_bundle_stage(recipe) for name, recipe in get_chain().items()}
