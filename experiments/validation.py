"""Figures on held-out Toybox objects while a stage trains."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from experiments.configs.training import TrainConfig
from im3d_jax.diffusion import sample_scan, time_grid
from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite, composite_on_white, straight_from_white
from im3d_jax.pipelines.bundle import QUALITIES, Conditions, denoiser
from im3d_jax.weights import Bundle, networks


MOST_PICTURES = 256  # of the autoencoder's test set


def white_psnr(made: jax.Array, true: jax.Array) -> jax.Array:
    """Mean over pictures [..., H, W, 4] (straight alpha) of the PSNR on white, dB."""
    return metrics.psnr(composite(made), composite(true)).mean()


def validate(config: TrainConfig, bundle: Bundle, test: Mapping[str, jax.Array]) -> dict[str, float]:
    """Figures of a stage on held-out objects.

    Args:
        config: Of the stage.
        bundle: With the parameters to measure.
        test: From `train.make_data`.

    Returns:
        Autoencoder: ``test_psnr`` of reconstructions, dB. Images: nothing. Video, given the true first frame and
        caption: ``test_psnr`` of the views but the first against decoded true latents, and ``repeat_psnr`` of the first
        frame in place of all others. Elevation: ``test_degrees``, the mean error.
    """
    if config.stage == "images":
        return {}
    params = jax.tree.map(jnp.asarray, bundle.params)
    # The small networks in float32, whatever the activations of the training are.
    nets = networks(bundle.config, jnp.dtype(config.dtype if config.stage == "video" else "float32"))
    if config.stage == "elevation":
        head = nets["elevation"]
        estimate = head.apply({"params": params["elevation"]}, test["latents"].astype(jnp.float32))
        return {"test_degrees": float(jnp.rad2deg(jnp.abs(estimate - test["elevation"]).mean()))}

    @jax.jit
    def decode(params: dict, latents: jax.Array) -> jax.Array:
        return straight_from_white(nets["autoencoder"].apply({"params": params}, latents, method="decode"))

    if config.stage == "autoencoder":

        @jax.jit
        def encode(params: dict, rgba: jax.Array) -> jax.Array:
            return nets["autoencoder"].apply({"params": params}, composite_on_white(rgba), method="encode")

        rgba = test["rgba"][:MOST_PICTURES].astype(jnp.float32) / 255.0
        made = decode(params["autoencoder"], encode(params["autoencoder"], rgba))
        return {"test_psnr": float(white_psnr(made, rgba))}

    sampling = QUALITIES["standard"].views
    guidance = sampling.guidance(image=True, prompt=True)

    @jax.jit
    def sample(params: dict, noise: jax.Array, tokens: jax.Array, picture: jax.Array) -> jax.Array:
        read = lambda tokens: nets["text_encoder"].apply({"params": params["text_encoder"]}, tokens)  # noqa: E731
        (context, mask), (no_context, no_mask) = read(tokens), read(jnp.asarray(bundle.tokenizer([""] * len(tokens))))
        given = Conditions(context, mask, no_context, no_mask, picture)
        denoise = denoiser(nets["unet"], bundle.config.process, params["unet"], guidance, given, True)
        return sample_scan(denoise, noise, time_grid(sampling.steps, start=sampling.start), bundle.config.process)

    latents = test["latents"].astype(jnp.float32)
    noise = jax.random.normal(jax.random.key(0), latents.shape)
    drawn = sample(params, noise, test["tokens"], latents[:, 0])
    # One object at a time: the decoder's maps of all would be large.
    true, views = (jnp.stack([decode(params["autoencoder"], row) for row in rows]) for rows in (latents, drawn))
    repeated = jnp.broadcast_to(true[:, :1], true[:, 1:].shape)
    return {
        "repeat_psnr": float(white_psnr(repeated, true[:, 1:])),
        "test_psnr": float(white_psnr(views[:, 1:], true[:, 1:])),
    }
