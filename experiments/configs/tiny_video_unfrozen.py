"""The bundled model's second turntable stage: spatial layers too, at a low rate, with single first frames mixed in.

Starts from the bundle that `tiny_video` left:

    python -m experiments.train --config=tiny_video_unfrozen --workdir=runs/tiny2 --init=runs/tiny/bundle
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="video",
        objects=16_000,
        steps=6_000,
        batch=32,
        learning_rate=6e-4,
        warmup=250,
        decay=0.7,
        ema=0.9995,
        spatial_rate=0.3,
        image_weight=0.2,
    )
