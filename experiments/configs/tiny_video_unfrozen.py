"""The bundled model's second turntable stage: spatial layers too, at half the rate, with single first frames mixed in.

Starts from the bundle that `tiny_video` left, and sees more of the noisiest times, which decide where hidden parts go:

    python -m experiments.train --config=tiny_video_unfrozen --workdir=runs/tiny2 --init=runs/tiny/bundle
"""

from experiments.configs.training import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="video",
        optimizer="muon",
        objects=48_000,
        steps=50_000,
        batch=32,
        learning_rate=8e-4,
        warmup=500,
        decay=0.7,
        ema=0.9995,
        spatial_rate=0.5,
        image_weight=0.2,
        high_noise=0.4,
        log_every=500,
        evaluate_objects=0,
    )
