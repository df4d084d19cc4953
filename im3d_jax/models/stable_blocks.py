"""Residual blocks of the large UNets and autoencoders, and two ways of adding time to spatial blocks.

*Blended* (Stable Video Diffusion, arXiv 2311.15127, appendix D): every spatial block is followed by a temporal one on
its output, and a learned factor a = sigmoid(mix_factor) mixes the two, a of the spatial one and 1 - a of the temporal.
*Residual* (Emu Video, arXiv 2311.10709, section 3.2): temporal layers add to the spatial ones' output and are the
identity at initialisation. Both skip all of it with `temporal=False`, which leaves a text-to-image network.

Videos are [B, T, H, W, C]. Parameter names follow diffusers' `UNet2DConditionModel` and
`UNetSpatioTemporalConditionModel`; attention is in `stable_attention`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from im3d_jax.models.layers import (
    KERNEL_INIT,
    Conv,
    Dense,
    GroupNorm,
    TemporalConv,
    add_bias,
    convolve_frames,
)
from im3d_jax.models.norms import group_norm, group_norm_part, group_statistics


def blend(mix_factor: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """a first + (1 - a) second with a = sigmoid(mix_factor), in float32; `mix_factor` is [1]."""
    share = jax.nn.sigmoid(mix_factor.astype(jnp.float32)).reshape((1,) * first.ndim)
    return (share * first.astype(jnp.float32) + (1.0 - share) * second.astype(jnp.float32)).astype(first.dtype)


class MixFactor(nn.Module):
    """The learned factor of `blend`, called by its two arguments; `initial` before the sigmoid."""

    initial: float = 0.5

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        return blend(self.param("mix_factor", nn.initializers.constant(self.initial), (1,)), first, second)


class FrameConv(nn.Module):
    """Convolution over the frames of [B, T, H, W, C], kernel [3, in, out], zeros beyond the ends."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", KERNEL_INIT, (3, x.shape[-1], self.features))
        y = convolve_frames(x.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))


def video_statistics(x: jax.Array, groups: int, eps: float) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / deviation of each group of [B, T, H, W, C] over all frames, each [B, groups]."""
    return group_statistics(x.reshape(x.shape[0], -1, x.shape[-1]), groups, eps)


class VideoGroupNorm(nn.Module):
    """Group normalisation of [B, T, H, W, C] with statistics over all frames together, then SiLU.

    Of a part of a video's pixels with `video_statistics` of the whole, where these are given.
    """

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: jax.Array, statistics: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        batch, frames, height, width, channels = x.shape
        if statistics is not None:
            tokens = x.reshape(batch, -1, channels)
            return group_norm_part(tokens, statistics, scale, bias, silu=True).reshape(x.shape)
        tall = x.reshape(batch, frames * height, width, channels)
        return group_norm(tall, scale, bias, self.groups, self.eps, silu=True).reshape(x.shape)


class UpsampledConv(nn.Module):
    """Every pixel of [..., H, W, C] four times, then a 3x3 convolution: [..., 2 H, 2 W, features], kernel HWIO.

    Rows 2i and 2i + 1 see only rows i - 1, i and i, i + 1 of the input, so a 2x2 convolution with sums of the taps
    gives all four pixels: 4/9 of the arithmetic, and the repeated map is never written.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, height, width, channels = x.shape
        kernel = self.param("kernel", KERNEL_INIT, (3, 3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        taps = _taps_of_halves(_taps_of_halves(kernel, 0, 3), 1, 4)
        y = lax.conv_general_dilated(
            x.astype(self.dtype).reshape(-1, height, width, channels),
            taps.astype(self.dtype).reshape(2, 2, channels, 4 * self.features),
            (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        y = y.reshape(-1, height + 1, width + 1, 2, 2, self.features)
        pixels = [[y[:, i : i + height, j : j + width, i, j] for j in range(2)] for i in range(2)]
        y = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)
        return add_bias(y.reshape(*lead, 2 * height, 2 * width, self.features), bias)


def _taps_of_halves(kernel, axis, into):
    """Three taps along `axis` to the two of the first and of the second repeated place, side by side at axis `into`."""
    first, middle, last = jnp.split(kernel, 3, axis)
    pairs = (first, middle + last), (first + middle, last)
    return jnp.stack([jnp.concatenate(pair, axis) for pair in pairs], into)


class SpatialResBlock(nn.Module):
    """norm, SiLU, conv, plus the embedding, norm, SiLU, conv, plus the input.

    Args of the call:
        x: [B, T, H, W, C].
        embedding: [B, 1 or T, E] of time and vector conditions, before its SiLU; None in autoencoders.
        temporal_convs: Adds Emu Video's temporal convolution after each of the two.
    """

    features: int
    groups: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array | None, temporal_convs: bool = False) -> jax.Array:
        y = GroupNorm(self.groups, self.eps, silu=True, name="norm1")(x)
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        if temporal_convs:
            y = TemporalConv(False, self.dtype, name="temporal_conv1")(y)
        if embedding is not None:
            shift = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(jax.nn.silu(embedding))
            y = y + shift[:, :, None, None]
        y = GroupNorm(self.groups, self.eps, silu=True, name="norm2")(y)
        y = Conv(self.features, dtype=self.dtype, name="conv2")(y)
        if temporal_convs:
            y = TemporalConv(False, self.dtype, name="temporal_conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class TemporalResBlock(nn.Module):
    """The same over frames: 3-frame convolutions, norms over all frames together; keeps the width."""

    groups: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array | None) -> jax.Array:
        features = x.shape[-1]
        y = VideoGroupNorm(self.groups, self.eps, name="norm1")(x)
        y = FrameConv(features, self.dtype, name="conv1")(y)
        if embedding is not None:
            shift = Dense(features, dtype=self.dtype, name="time_emb_proj")(jax.nn.silu(embedding))
            y = y + shift[:, :, None, None]
        y = VideoGroupNorm(self.groups, self.eps, name="norm2")(y)
        return x + FrameConv(features, self.dtype, name="conv2")(y)


class BlendedResBlock(nn.Module):
    """A spatial block, a temporal one on its output, and their blend.

    `temporal_share` says what a weighs: the spatial output (UNets, False) or the temporal one (decoders, True).
    """

    features: int
    groups: int
    eps: float
    temporal_eps: float
    dtype: DTypeLike
    temporal_share: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array | None, temporal: bool = True) -> jax.Array:
        block = SpatialResBlock(self.features, self.groups, self.eps, self.dtype, name="spatial_res_block")
        x = block(x, embedding)
        if not temporal:
            return x
        y = TemporalResBlock(self.groups, self.temporal_eps, self.dtype, name="temporal_res_block")(x, embedding)
        mixer = MixFactor(0.0 if self.temporal_share else 0.5, name="time_mixer")
        return mixer(y, x) if self.temporal_share else mixer(x, y)
