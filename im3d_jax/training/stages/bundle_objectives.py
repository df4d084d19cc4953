"""What the stages of a bundle minimise: its autoencoder, its text-to-image model, its turntables, its elevation head.

Stages follow IM-3D (arXiv 2402.08682) and Emu Video (arXiv 2311.10709). Parameters are nested under the names of the
bundle's parts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import RgbaAutoencoder, TextEncoder, TinyUNet
from im3d_jax.models.calls import apply
from im3d_jax.models.elevation import ElevationHead
from im3d_jax.training.objectives import Denoising, Metrics, drop_conditions


def _normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _fold(keys: jax.Array, number: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _rows(values: jax.Array, ndim: int) -> jax.Array:
    """[B] with trailing axes, to multiply [B, ...]."""
    return values.reshape(values.shape + (1,) * (ndim - 1))


def drop_prompts(tokens: jax.Array, drop: jax.Array) -> jax.Array:
    """Rows of `tokens` [B, L] where `drop` [B] become the empty prompt: its start word alone."""
    start = jnp.arange(tokens.shape[1]) == 0
    return jnp.where(drop[:, None] & ~start[None], 0, tokens)


def draw_given(key: jax.Array, frames: int, more: float, most: int = 3) -> jax.Array:
    """Which frames of an orbit are given, [frames] of 0.0 and 1.0.

    Frame 0 always; with probability `more` also 1 to `most` others, each number as often.
    """
    lots = jax.random.split(key, 3)
    count = jax.random.randint(lots[0], (), 1, most + 1) * jax.random.bernoulli(lots[1], more)
    rank = jnp.argsort(jax.random.permutation(lots[2], frames - 1))
    return jnp.concatenate([jnp.ones(1), (rank < count).astype(jnp.float32)])


@dataclasses.dataclass(frozen=True)
class AutoencoderObjective:
    """L1 + squared error of the four channels, and the posterior's divergence from N(0, 1).

    Batch: {"rgba": [B, H, W, 4] uint8, straight alpha}. Half the pictures are mirrored.

    Attributes:
        model: The autoencoder.
        kl_weight: Of the divergence.
    """

    model: RgbaAutoencoder
    kl_weight: float = 1e-4

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        images = composite_on_white(batch["rgba"].astype(jnp.float32) / 255.0)
        mirrored = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(_fold(keys, 0))
        images = jnp.where(_rows(mirrored, images.ndim), images[:, :, ::-1], images)
        size, z = images.shape[1] // self.model.config.factor, self.model.config.latent_channels
        noise = _normals(_fold(keys, 1), (size, size, z))
        made, mean, log_variance = apply(self.model, params["autoencoder"], images, noise, method="reconstruct")
        axes = (1, 2, 3)
        squared = jnp.square(made - images).mean(axes)
        kl = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance).mean(axes)
        value = jnp.abs(made - images).mean(axes) + squared + self.kl_weight * kl
        return value, {"psnr": -10.0 * jnp.log10(squared), "kl": kl}


@dataclasses.dataclass(frozen=True)
class PictureObjective:
    """Text to image: the UNet with its temporal layers skipped, on single frames; both networks may be trained.

    Batch: {"latents": [B, 1 or T, h, w, z], of which the first frame counts, "tokens": [B, L] int32}.

    Attributes:
        unet, text: The networks.
        denoising: Times, target and weight.
        drop: Share of the examples without their prompt.
    """

    unet: TinyUNet
    text: TextEncoder
    denoising: Denoising
    drop: float = 0.1

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, self.drop))(_fold(keys, 0))
        tokens = drop_prompts(batch["tokens"], dropped)
        context, mask = apply(self.text, params["text_encoder"], tokens)

        def predict(noised, times):
            return apply(self.unet, params["unet"], noised, times, context, mask, temporal=False)

        errors, _ = self.denoising(predict, batch["latents"][:, :1].astype(jnp.float32), _fold(keys, 1))
        return errors, {}


@dataclasses.dataclass(frozen=True)
class TurntableObjective:
    """Turntables given their first frame and caption.

    Conditions are dropped as Emu Video does for nested guidance. The conditioning latent carries a little noise,
    because at test time it comes from an imperfect picture. Frames beside the first are given to a share `more_given`
    of the examples, one to three of them anywhere on the orbit. With `picture_weight` the first frame alone is learned
    too (temporal layers skipped), which holds the text-to-image model in place while spatial layers are trained.

    Batch: {"latents": [B, T, h, w, z], "tokens": [B, L] int32}.

    Attributes:
        unet, text: The networks.
        denoising: Times, target and weight.
        drop: Share of the examples that lose the prompt, the picture, and both, each.
        condition_noise: Most standard deviation of the noise on the conditioning latent.
        picture_weight: Of the loss of single frames.
        more_given: Share of the examples with further given frames.
    """

    unet: TinyUNet
    text: TextEncoder
    denoising: Denoising
    drop: float = 0.1
    condition_noise: float = 0.1
    picture_weight: float = 0.0
    more_given: float = 0.0

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        latents = batch["latents"].astype(jnp.float32)
        no_prompt, no_image = drop_conditions(_fold(keys, 0), self.drop)
        tokens = drop_prompts(batch["tokens"], no_prompt)
        context, mask = apply(self.text, params["text_encoder"], tokens)
        has_image = 1.0 - no_image.astype(jnp.float32)
        condition = latents[:, 0]
        if self.more_given:
            further = jax.vmap(lambda key: draw_given(key, latents.shape[1], self.more_given))(_fold(keys, 5))
            condition, has_image = latents, has_image[:, None] * further
        strength = self.condition_noise * jax.vmap(jax.random.uniform)(_fold(keys, 1))
        noise = _normals(_fold(keys, 2), condition.shape[1:])
        condition = condition + _rows(strength, condition.ndim) * noise

        def predict(noised, times):
            return apply(self.unet, params["unet"], noised, times, context, mask,
                condition=condition, has_image=has_image,
            )  # fmt: skip

        videos, _ = self.denoising(predict, latents, _fold(keys, 3))
        metrics = {"video": videos}
        if not self.picture_weight:
            return videos, metrics

        def predict_picture(noised, times):
            return apply(self.unet, params["unet"], noised, times, context, mask, temporal=False)

        pictures, _ = self.denoising(predict_picture, latents[:, :1], _fold(keys, 4))
        return videos + self.picture_weight * pictures, {**metrics, "picture": pictures}


@dataclasses.dataclass(frozen=True)
class ElevationObjective:
    """Squared error of the elevation in radians, from latents with a little noise.

    Batch: {"latents": [B, T, h, w, z], "elevation": [B] radians}.

    Attributes:
        head: The network.
        noise: Most standard deviation of the noise.
    """

    head: ElevationHead
    noise: float = 0.3

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        latents = batch["latents"].astype(jnp.float32)
        strength = self.noise * jax.vmap(jax.random.uniform)(_fold(keys, 0))
        latents = latents + _rows(strength, latents.ndim) * _normals(_fold(keys, 1), latents.shape[1:])
        error = apply(self.head, params["elevation"], latents) - batch["elevation"]
        return jnp.square(error), {"degrees": jnp.rad2deg(jnp.abs(error))}
