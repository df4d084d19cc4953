"""Figures on held-out Toybox objects while a stage trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from experiments.configs.training import TrainConfig
from im3d_jax import pipeline
from im3d_jax.images import metrics
from im3d_jax.weights import Bundle, networks


def white_psnr(made: jax.Array, true: jax.Array) -> jax.Array:
    """Mean over pictures [..., H, W, 4] (straight alpha) of the PSNR on white, decibels."""
    return metrics.psnr(composite(made), composite(true)).mean()


def validate(config: TrainConfig, bundle: Bundle, test: dict) -> dict[str, float]:
    """Figures of the stage on the test set that `train.make_data` made.

    Autoencoder: ``test_psnr`` of reconstructions. Video: ``test_psnr`` of the views but the first (against decoded true
    latents), given the true first frame and caption, and ``repeat_psnr`` of repeating that frame. Elevation: mean error
    in degrees.
    """
    if config.stage == "elevation":
        head = networks(bundle.config)["elevation"]
        estimate = head.apply({"params": bundle.params["elevation"]}, test["latents"].astype(jnp.float32))
        return {"test_degrees": float(jnp.rad2deg(jnp.abs(estimate - test["elevation"]).mean()))}
    pipe = pipeline.Pipeline(bundle, jnp.dtype(config.dtype) if config.stage != "autoencoder" else jnp.float32)
    if config.stage == "autoencoder":
        rgba = test["rgba"][:256].astype(jnp.float32) / 255.0
        return {"test_psnr": float(white_psnr(pipe.decode(pipe.encode(rgba)), rgba))}
    if config.stage == "images":
        return {}
    latents = test["latents"].astype(jnp.float32)
    given = pipe.conditions_of_tokens(test["tokens"], latents[:, 0])
    true = jnp.stack([pipe.decode(row) for row in latents])
    figures = {"repeat_psnr": float(white_psnr(true[:, :1], true[:, 1:]))}
    noise = jax.random.normal(jax.random.key(0), latents.shape)
    sampling = pipeline.QUALITIES["standard"].views
    made = pipe.sample_batch(noise, given, sampling, temporal=True, prompt=True)
    views = jnp.stack([pipe.decode(row) for row in made])
    return figures | {"test_psnr": float(white_psnr(views[:, 1:], true[:, 1:]))}
