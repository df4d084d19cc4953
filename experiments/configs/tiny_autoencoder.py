"""The bundled model's autoencoder on single Toybox frames.

python -m experiments.train --config=tiny_autoencoder --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="autoencoder",
        objects=12_000,
        frames=(0, 3, 6, 9, 13),
        steps=8_000,
        batch=128,
        learning_rate=1e-3,
        ema=0.999,
    )
