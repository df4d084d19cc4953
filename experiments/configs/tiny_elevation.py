"""The bundled model's elevation head on the latents of Toybox turntables.

python -m experiments.train --config=tiny_elevation --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="elevation",
        objects=10_000,
        frames=(0,),
        steps=4_000,
        batch=128,
        learning_rate=1e-3,
        weight_decay=0.1,
        dtype="float32",
    )
