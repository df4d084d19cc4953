"""The bundled model's elevation head on the latents of Toybox turntables.

python -m experiments.train --config=tiny_elevation --workdir=runs/tiny
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="elevation",
        objects=50_000,
        frames=(0, 4, 8, 12),
        steps=8_000,
        batch=256,
        log_every=1_000,
        evaluate_every=2_000,
        evaluate_objects=256,
        learning_rate=1e-3,
        weight_decay=0.1,
        dtype="float32",
    )
