"""The bundled model's elevation head on the latents of Toybox turntables.

python -m experiments.train --config=tiny_elevation --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="elevation",
        objects=1_500,
        frames=(0, 4, 8, 12),
        steps=4_000,
        batch=64,
        learning_rate=1e-3,
        weight_decay=0.05,
        dtype="float32",
    )
