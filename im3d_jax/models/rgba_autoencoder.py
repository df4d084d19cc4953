"""The small autoencoder: four channels (colour composited on white, alpha) to a quarter-size latent and back.

Alpha is a channel like the others, so masks survive the round trip and a render can be encoded without
dividing by
alpha: all four channels are linear in it. Colours and alpha are in [0, 1] outside, [-1, 1] inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.layers import Conv, GroupNorm, upsample


@dataclasses.dataclass(frozen=True)
class RgbaAutoencoderConfig:
    """Sizes of the autoencoder; downsampling is 2 ** (len(channels) - 1)."""

    image_channels: int = 4
    latent_channels: int = 8
    encoder_channels: tuple[int, ...] = (24, 40, 96)
    decoder_channels: tuple[int, ...] = (32, 64, 128)
    encoder_blocks: tuple[int, ...] = (0, 1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2)
    groups: int = 8
    eps: float = 1e-6

    @property
    def factor(self) -> int:
        return 2 ** (len(self.encoder_channels) - 1)


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, twice, plus the input; 1x1 shortcut where the width changes."""

    features: int
    groups: int
    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.silu(GroupNorm(self.groups, self.eps, name="norm1")(x))
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        y = jax.nn.silu(GroupNorm(self.groups, self.eps, name="norm2")(y))
        y = Conv(self.features, dtype=self.dtype, zero_init=True, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class Encoder(nn.Module):
    """Images [B, H, W, 4] in [0, 1] to moments [B, h, w, 2 z], and the feature maps on the way."""

    config: RgbaAutoencoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, features_only: bool = False) -> Any:
        c = self.config
        block = lambda width, name: ResnetBlock(width, c.groups, c.eps, self.dtype, name=name)  # noqa: E731
        x = Conv(c.encoder_channels[0], dtype=self.dtype, name="conv_in")(2.0 * images - 1.0)
        features = []
        last = len(c.encoder_channels) - 1
        for level, width in enumerate(c.encoder_channels):
            if level > 0:
                x = Conv(width, stride=2, dtype=self.dtype, name=f"down_blocks.{level}.downsampler")(x)
            for i in range(c.encoder_blocks[level]):
                x = block(width, f"down_blocks.{level}.resnets.{i}")(x)
                if i == 0:
                    features.append(x)
                if features_only and level == last:
                    # What lies behind the first block of the last level only serves the latent.
                    return features
        y = jax.nn.silu(GroupNorm(c.groups, c.eps, name="conv_norm_out")(x))
        return Conv(2 * c.latent_channels, dtype=self.dtype, name="conv_out")(y)


class Decoder(nn.Module):
    """Latents [B, h, w, z] to images [B, H, W, 4]; values may leave [0, 1] slightly."""

    config: RgbaAutoencoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        c = self.config
        x = Conv(c.decoder_channels[-1], dtype=self.dtype, name="conv_in")(latents)
        for level in reversed(range(len(c.decoder_channels))):
            width = c.decoder_channels[level]
            if level < len(c.decoder_channels) - 1:
                x = Conv(width, dtype=self.dtype, name=f"up_blocks.{level}.upsampler")(upsample(x))
            for i in range(c.decoder_blocks[level]):
                x = ResnetBlock(width, c.groups, c.eps, self.dtype, name=f"up_blocks.{level}.resnets.{i}")(x)
        y = jax.nn.silu(GroupNorm(c.groups, c.eps, name="conv_norm_out")(x))
        return 0.5 * Conv(c.image_channels, dtype=self.dtype, name="conv_out")(y).astype(jnp.float32) + 0.5


class RgbaAutoencoder(nn.Module):
    """Variational autoencoder; latents are normalised per channel by constants found after training.

    Methods:
        encode: images [B, H, W, 4] -> normalised latents [B, h, w, z] (the posterior's mean).
        decode: normalised latents -> images [B, H, W, 4].
        moments: images -> (mean, log variance), not normalised: what training needs.
        features: images -> list of feature maps, for perceptual losses.
    """

    config: RgbaAutoencoderConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)
        z = self.config.latent_channels
        self.latent_mean = self.param("latent_mean", nn.initializers.zeros, (z,))
        self.latent_std = self.param("latent_std", nn.initializers.ones, (z,))

    def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_variance = jnp.split(self.encoder(images).astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -20.0, 10.0)

    def encode(self, images: jax.Array) -> jax.Array:
        mean, _ = self.moments(images)
        return (mean - self.latent_mean[None, None, None]) / self.latent_std[None, None, None]

    def decode(self, latents: jax.Array) -> jax.Array:
        return self.decoder(latents * self.latent_std[None, None, None] + self.latent_mean[None, None, None])

    def reconstruct(self, images: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(reconstruction, mean, log variance); noise [B, h, w, z] ~ N(0, 1) draws from the posterior."""
        mean, log_variance = self.moments(images)
        return self.decoder(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance

    def features(self, images: jax.Array) -> list[jax.Array]:
        return self.encoder(images, features_only=True)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.decode(self.encode(images))
