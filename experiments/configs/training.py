"""The settings of a training run; each stage's file fills them in."""

from __future__ import annotations

import dataclasses

from im3d_jax.weights import BundleConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of one stage.

    Attributes:
        stage: ``autoencoder``, ``images``, ``video`` or ``elevation``.
        objects: Toybox training objects, by index from 0.
        frames: Frame numbers drawn of each.
        steps, batch: Updates, and rows a step over all devices.
        learning_rate: Peak; linear warm-up, then constant, then linear decay to 0 over the last `decay` of
            the steps.
        optimizer: ``adamw``, or ``muon`` (matrices; AdamW for the rest).
        spatial_rate: In the video stage, the share of the learning rate that spatial layers get; 0 holds
            them.
        image_weight: In the video stage, share of the steps that learn single frames too, below 1.
        high_noise: In the video stage, share of the times drawn from the noisiest fifth alone.
        dtype: Of the computation; parameters are float32.
        attention: ``xla``, or ``cudnn`` for flash attention on NVIDIA devices.
    """

    stage: str = "video"
    objects: int = 10_000
    frames: tuple[int, ...] = tuple(range(16))
    steps: int = 10_000
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 0.01
    ema: float = 0.999
    kl_weight: float = 1e-4
    drop: float = 0.1
    condition_noise: float = 0.1
    spatial_rate: float = 0.0
    image_weight: float = 0.0
    high_noise: float = 0.0
    optimizer: str = "adamw"
    dtype: str = "bfloat16"
    attention: str = "xla"
    log_every: int = 250
    evaluate_every: int = 2_500
    evaluate_objects: int = 32
    model: BundleConfig = BundleConfig()
