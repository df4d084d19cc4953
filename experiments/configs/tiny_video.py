"""The bundled model's temporal layers on Toybox turntables, spatial layers held.

As in IM-3D (arXiv 2402.08682, section 3.1).

python -m experiments.train --config=tiny_video --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="video",
        objects=16_000,
        steps=12_000,
        batch=32,
        learning_rate=8e-4,
        ema=0.9995,
    )
