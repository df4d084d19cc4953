"""The loss of each training stage, as `loss(params, held, batch, key)` on flat parameter dictionaries.

Stages follow IM-3D (arXiv 2402.08682) and Emu Video (arXiv 2311.10709): an autoencoder, a text-to-image
model, then the temporal layers on turntables.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from im3d_jax.diffusion import NoiseProcess, add_noise, prediction_target
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import RgbaAutoencoder, TextEncoder, TinyUNet
from im3d_jax.models.calls import apply
from im3d_jax.models.elevation import ElevationHead
from im3d_jax.training.state import merge
from im3d_jax.training.step import Loss


def autoencoder_loss(model: RgbaAutoencoder, unpack: Callable[[dict], dict], kl_weight: float) -> Loss:
    """L1 + squared error of the four channels, and the posterior's divergence from N(0, 1).

    Batch: {"rgba": [B, H, W, 4] uint8, straight alpha}. Half the pictures are mirrored.
    """

    def loss(params, held, batch, key):
        flip, draw = jax.random.split(key)
        images = composite_on_white(batch["rgba"].astype(jnp.float32) / 255.0)
        mirrored = jax.random.bernoulli(flip, 0.5, (images.shape[0], 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
        size, z = images.shape[1] // model.config.factor, model.config.latent_channels
        noise = jax.random.normal(draw, (images.shape[0], size, size, z))
        made, mean, log_variance = apply(model, unpack(merge(params, held)), images, noise, method="reconstruct")
        squared = jnp.square(made - images).mean()
        kl = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance).mean()
        value = jnp.abs(made - images).mean() + squared + kl_weight * kl
        return value, {"psnr": -10.0 * jnp.log10(squared), "kl": kl}

    return loss


def _velocity_error(unet, process, params, latents, time, context, mask, noise_key, **condition):
    noise = jax.random.normal(noise_key, latents.shape)
    target = prediction_target(latents, noise, time, process, "v")
    value = apply(unet, params, add_noise(latents, noise, time, process), time, context, mask, **condition)
    return jnp.square(value - target).mean((1, 2, 3, 4))


def _drop_prompt(tokens: jax.Array, drop: jax.Array) -> jax.Array:
    """Rows of `tokens` [B, L] where `drop` [B] become the empty prompt: its start word alone."""
    start = jnp.arange(tokens.shape[1]) == 0
    return jnp.where(drop[:, None] & ~start[None], 0, tokens)


def image_loss(unet: TinyUNet, text: TextEncoder, unpack: Callable, process: NoiseProcess, drop: float = 0.1) -> Loss:
    """Text-to-image: the UNet with its temporal layers skipped, on single frames; both networks are trained.

    Batch: {"latents": [B, h, w, z], "tokens": [B, L] int32}. `unpack(flat) -> (unet, text)` nested trees.
    """

    def loss(params, held, batch, key):
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        unet_params, text_params = unpack(merge(params, held))
        latents = batch["latents"].astype(jnp.float32)[:, None]
        time = jax.random.uniform(time_key, latents.shape[:1])
        dropped = jax.random.bernoulli(drop_key, drop, latents.shape[:1])
        context, mask = apply(text, text_params, _drop_prompt(batch["tokens"], dropped))
        errors = _velocity_error(unet, process, unet_params, latents, time, context, mask, noise_key, temporal=False)
        return errors.mean(), {}

    return loss


def video_loss(
    unet: TinyUNet,
    text: TextEncoder,
    unpack: Callable,
    process: NoiseProcess,
    *,
    drop: float = 0.1,
    condition_noise: float = 0.1,
    image_weight: float = 0.0,
    high_noise: float = 0.0,
) -> Loss:
    """Turntables given their first frame and caption.

    Conditions are dropped as Emu Video does for nested guidance: `drop` of the videos lose the prompt, `drop`
    the picture, `drop` both. The conditioning latent carries a little noise (up to `condition_noise`), because at
    test time it comes from an imperfect picture. With `image_weight` the first frame alone is learned as well
    (temporal layers skipped), which holds the text-to-image model in place while spatial layers are trained: in this
    share of the steps, at weight 1, which costs less than a little in every step. Times
    are uniform, but for a share `high_noise` that is drawn from [0.8, 1], where the shape of hidden sides is decided.

    Batch: {"latents": [B, T, h, w, z], "tokens": [B, L]}.
    """

    def loss(params, held, batch, key):
        keys = jax.random.split(key, 8)
        unet_params, text_params = unpack(merge(params, held))
        latents = batch["latents"].astype(jnp.float32)
        count = latents.shape[:1]
        time = jax.random.uniform(keys[0], count)
        late = jax.random.bernoulli(keys[6], high_noise, count)
        time = jnp.where(late, 0.8 + 0.2 * time, time)
        lot = jax.random.uniform(keys[1], count)
        no_prompt, no_image = (lot < drop) | (lot > 1 - drop), (lot > 1 - 2 * drop)
        context, mask = apply(text, text_params, _drop_prompt(batch["tokens"], no_prompt))
        first = latents[:, 0]
        strength = condition_noise * jax.random.uniform(keys[2], (*count, 1, 1, 1))
        errors = _velocity_error(
            unet, process, unet_params, latents, time, context, mask, keys[3],
            condition=first + strength * jax.random.normal(keys[4], first.shape),
            has_image=1.0 - no_image.astype(jnp.float32),
        )  # fmt: skip
        value = errors.mean()
        metrics = {"video": value}
        if image_weight:
            # Checkpointed, so that a step without it keeps nothing for its backward pass.
            @jax.checkpoint
            def image_error(unet_params, context):
                return _velocity_error(
                    unet, process, unet_params, latents[:, :1], time, context, mask, keys[5], temporal=False
                ).mean()  # fmt: skip

            chosen = jax.random.bernoulli(keys[7], image_weight)
            image = jax.lax.cond(chosen, image_error, lambda *_: jnp.float32(0.0), unet_params, context)
            metrics["image"] = image / image_weight
            value = value + image
        return value, metrics

    return loss


def elevation_loss(head: ElevationHead, unpack: Callable) -> Loss:
    """Mean squared error of the elevation in radians, from latents with a little noise.

    Batch: {"latents": [B, T, h, w, z], "elevation": [B]}.
    """

    def loss(params, held, batch, key):
        strength_key, noise_key = jax.random.split(key)
        latents = batch["latents"].astype(jnp.float32)
        strength = 0.3 * jax.random.uniform(strength_key, (latents.shape[0], 1, 1, 1, 1))
        latents = latents + strength * jax.random.normal(noise_key, latents.shape)
        error = apply(head, unpack(merge(params, held)), latents) - batch["elevation"]
        return jnp.square(error).mean(), {"degrees": jnp.rad2deg(jnp.abs(error).mean())}

    return loss
