"""The bundled model's text-to-image part: first frames of Toybox turntables, spatial layers and text encoder.

python -m experiments.train --config=tiny_images --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="images",
        objects=100_000,
        frames=(0,),
        steps=22_000,
        batch=256,
        learning_rate=6e-4,
        ema=0.9995,
    )
