"""The autoencoders of Stable Diffusion (`AutoencoderKL`) and Stable Video Diffusion (`AutoencoderKLTemporalDecoder`).

The encoder works picture by picture; so does the image decoder. The temporal decoder follows every residual block by
one over frames and blends the two, the weight on the *temporal* one: the other way round than in the UNet.

Parameter names are diffusers'. Images are in [0, 1] outside and [-1, 1] inside; latents are the posterior's mean as it
is: diffusion models see them times `scaling_factor`, except SVD's conditioning latent, which is not scaled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from im3d_jax.models.layers import Conv, Dense, GroupNorm, attend
from im3d_jax.models.stable_blocks import (
    FrameConv,
    SpatialResBlock,
    UpsampledConv,
    VideoGroupNorm,
    blend,
    video_statistics,
)


@dataclasses.dataclass(frozen=True)
class KLAutoencoderConfig:
    """Sizes and switches; `channels` has one entry a resolution level.

    Attributes:
        temporal_decoder: SVD's decoder in place of Stable Diffusion's.
        quant_conv, post_quant_conv: The 1x1 convolutions on either side of the latent; SVD and SV3D lack the second.
        temporal_eps: Of the group norms over frames, 1e-5 in both public implementations.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    eps: float = 1e-6
    temporal_eps: float = 1e-5
    temporal_decoder: bool = False
    quant_conv: bool = True
    post_quant_conv: bool = True
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        return 2 ** (len(self.channels) - 1)


class PixelAttention(nn.Module):
    """One head of self-attention within each picture of [..., H, W, C], projections with biases, plus the input."""

    groups: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        y = GroupNorm(self.groups, self.eps, name="group_norm")(x).reshape(-1, x.shape[-3] * x.shape[-2], features)
        q, k, v = (Dense(features, dtype=self.dtype, name=f"to_{n}")(y)[:, :, None] for n in "qkv")
        y = attend(q, k, v)[:, :, 0]
        return x + Dense(features, dtype=self.dtype, name="to_out.0")(y).reshape(x.shape)


class KLEncoder(nn.Module):
    """Images [..., H, W, C] in [-1, 1] to moments [..., h, w, 2 z] before the 1x1 convolution."""

    config: KLAutoencoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        c = self.config
        x = Conv(c.channels[0], dtype=self.dtype, name="conv_in")(images)
        for level, features in enumerate(c.channels):
            name = f"down_blocks.{level}."
            for i in range(c.layers_per_block):
                x = SpatialResBlock(features, c.groups, c.eps, self.dtype, name=f"{name}resnets.{i}")(x, None)
            if level < len(c.channels) - 1:
                # Padded below and on the right only, unlike the UNet's.
                halve = Conv(features, 3, 2, dtype=self.dtype, padding=(0, 1), name=name + "downsamplers.0.conv")
                x = halve(x)
        features = c.channels[-1]
        x = SpatialResBlock(features, c.groups, c.eps, self.dtype, name="mid_block.resnets.0")(x, None)
        x = PixelAttention(c.groups, c.eps, self.dtype, name="mid_block.attentions.0")(x)
        x = SpatialResBlock(features, c.groups, c.eps, self.dtype, name="mid_block.resnets.1")(x, None)
        x = GroupNorm(c.groups, c.eps, silu=True, name="conv_norm_out")(x)
        return Conv(2 * c.latent_channels, dtype=self.dtype, name="conv_out")(x)


class FrameLayers(nn.Module):
    """The two halves of a residual block over frames, each norm, SiLU and a 3-frame convolution.

    They mix frames but not pixels, all but the norms' statistics, which are given: any rows may go through alone.
    """

    features: int
    groups: int
    eps: float
    dtype: DTypeLike

    def setup(self) -> None:
        self.norm1, self.norm2 = (VideoGroupNorm(self.groups, self.eps) for _ in range(2))
        self.conv1, self.conv2 = (FrameConv(self.features, self.dtype) for _ in range(2))

    def first(self, x: jax.Array, statistics: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Rows [B, T, h, W, C] of a video, and `video_statistics` of all of it."""
        return self.conv1(self.norm1(x, statistics))

    def second(self, x: jax.Array, statistics: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The same, of what the first half made."""
        return self.conv2(self.norm2(x, statistics))


class MixLogit(nn.Module):
    """The parameter of `blend`, by itself."""

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("mix_factor", nn.initializers.zeros, (1,))


class KLDecoder(nn.Module):
    """Latents [B, T, h, w, z] to images [B, T, H, W, C] in [-1, 1]; both kinds of decoder.

    With `frames_at_once`, what lies between two temporal layers (everything, in the image decoder) runs on some frames
    at a time and the temporal layers on some rows of all frames: the result is the same, and beside the video's widest
    map and one copy of it, the widest activations exist for that many frames only.
    """

    config: KLAutoencoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, latents: jax.Array, frames_at_once: int | None = None) -> jax.Array:
        c = self.config
        segment, segments = [], []
        for step in self.steps():
            segment.append(step)
            if step[0] == "resnet" and c.temporal_decoder:
                segments.append((segment, step))
                segment = []
        segments.append((segment, None))
        x = latents
        # One frame at full resolution after an upsampling, the most that any segment holds.
        widest = math.prod(latents.shape[2:4]) * c.factor**2 * c.channels[min(1, len(c.channels) - 1)]
        for spatial, resnet in segments:
            x = self.by_frames(spatial, x, frames_at_once, widest)
            if resnet is not None:
                x = self.over_frames(x, resnet[1], frames_at_once, widest)
        if c.temporal_decoder:
            x = FrameConv(c.image_channels, self.dtype, name="time_conv_out")(x)
        return x.astype(jnp.float32)

    def steps(self) -> list[tuple[str, str, int]]:
        """(kind, name, features) of the spatial layers in order."""
        c = self.config
        last = c.channels[-1]
        steps = [("conv", "conv_in", last), ("resnet", "mid_block.resnets.0", last)]
        # diffusers' temporal decoder has `layers_per_block` blocks in its middle, which is 2 in every checkpoint.
        steps += [("attention", "mid_block.attentions.0", last), ("resnet", "mid_block.resnets.1", last)]
        for k, features in enumerate(reversed(c.channels)):
            steps += [("resnet", f"up_blocks.{k}.resnets.{i}", features) for i in range(c.layers_per_block + 1)]
            if k < len(c.channels) - 1:
                steps.append(("upsample", f"up_blocks.{k}.upsamplers.0.conv", features))
        return [*steps, ("norm", "conv_norm_out", c.channels[0]), ("conv", "conv_out", c.image_channels)]

    def run(self, steps: list[tuple[str, str, int]], x: jax.Array) -> jax.Array:
        """Applies spatial layers to [B, t, h, w, C]."""
        c = self.config
        for kind, name, features in steps:
            if kind == "resnet":
                name += ".spatial_res_block" if c.temporal_decoder else ""
                x = SpatialResBlock(features, c.groups, c.eps, self.dtype, name=name)(x, None)
            elif kind == "attention":
                x = PixelAttention(c.groups, c.eps, self.dtype, name=name)(x)
            elif kind == "norm":
                x = GroupNorm(c.groups, c.eps, silu=True, name=name)(x)
            elif kind == "upsample":
                x = UpsampledConv(features, self.dtype, name=name)(x)
            else:
                x = Conv(features, dtype=self.dtype, name=name)(x)
        return x

    def by_frames(
        self, steps: list[tuple[str, str, int]], x: jax.Array, frames_at_once: int | None, widest: int
    ) -> jax.Array:
        """`run` on as many frames of [B, T, h, w, C] at a time as are no larger than `frames_at_once` of the widest."""
        batch, frames, height, width, channels = x.shape
        scale = 2 ** sum(kind == "upsample" for kind, _, _ in steps)
        shape = batch, frames, scale * height, scale * width, steps[-1][2]
        parts = 1
        if frames_at_once is not None:
            size = math.prod(shape[2:4]) * max(channels, *(features for _, _, features in steps))
            # Attention within frames holds a score for every pair of pixels.
            room = 1 if any(kind == "attention" for kind, _, _ in steps) else max(1, widest // size)
            parts = parts_of(frames, frames / (frames_at_once * room))
        result = None if shape == x.shape and x.dtype == self.dtype else jax.ShapeDtypeStruct(shape, self.dtype)
        return by_parts(self, lambda module, y: module.run(steps, y), (x,), 1, parts, result)

    def over_frames(self, x: jax.Array, name: str, frames_at_once: int | None, widest: int) -> jax.Array:
        """The temporal block of the residual block `name`, and the blend: the share is the temporal one's."""
        c = self.config
        frames, height, width, features = x.shape[1:]
        parts = 1
        if frames_at_once is not None:
            parts = parts_of(height, 2 * frames * height * width * features / (frames_at_once * widest))
        block = FrameLayers(features, c.groups, c.temporal_eps, self.dtype, name=name + ".temporal_res_block")
        mix = MixLogit(name=name + ".time_mixer")()
        statistics = video_statistics(x, c.groups, c.temporal_eps)
        first = lambda block, x: block.first(x, statistics)  # noqa: E731
        y = by_parts(block, first, (x,), 2, parts, jax.ShapeDtypeStruct(x.shape, self.dtype))
        middle = video_statistics(y, c.groups, c.temporal_eps)
        second = lambda block, x, y: blend(mix, x + block.second(y, middle), x)  # noqa: E731
        return by_parts(block, second, (x, y), 2, parts)


def parts_of(length: int, least: float) -> int:
    """The smallest number of equal parts of `length` that is not below `least`."""
    return next(parts for parts in range(max(1, math.ceil(least)), length + 1) if length % parts == 0)


def by_parts(
    module: nn.Module,
    layers: Callable[..., jax.Array],
    inputs: tuple[jax.Array, ...],
    axis: int,
    parts: int,
    result: jax.ShapeDtypeStruct | None = None,
) -> jax.Array:
    """layers(module, *inputs), which treats places along `axis` alike, on equal parts of the inputs in turn.

    Args:
        result: What it gives for the whole inputs; by default it takes the place of the first input, part by part.
    """
    if parts == 1:
        return layers(module, *inputs)
    size = inputs[0].shape[axis] // parts
    if result is None:
        into, others = inputs[0], inputs[1:]
    else:
        # Filled with a value of the input because XLA made the zeros for all later loops at the very start.
        value = inputs[0][:, :1, :1, :1, :1].astype(result.dtype)
        into, others = jnp.broadcast_to(value, result.shape), inputs

    def one(module: nn.Module, into: jax.Array, part: jax.Array, others: tuple) -> tuple[jax.Array, None]:
        sources = others if result is not None else (into, *others)
        cut = (lax.dynamic_slice_in_dim(source, part * size, size, axis) for source in sources)
        return lax.dynamic_update_slice_in_dim(into, layers(module, *cut), part * size, axis), None

    scan = nn.scan(
        one,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]  # flax's stub knows one axis alone
    )
    return scan(module, into, jnp.arange(parts), others)[0]


class KLAutoencoder(nn.Module):
    """Encoder and decoder.

    Methods:
        encode: images [..., H, W, C] in [0, 1] -> posterior means [..., h, w, z], not scaled.
        moments: images -> (mean, log variance clipped to [-30, 20]) of the posterior.
        decode: latents [B, T, h, w, z], not scaled -> images [B, T, H, W, C] in about [0, 1], not clipped.
    """

    config: KLAutoencoderConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.encoder = KLEncoder(c, self.dtype)
        self.decoder = KLDecoder(c, self.dtype)
        if c.quant_conv:
            self.quant_conv = Conv(2 * c.latent_channels, 1, dtype=self.dtype)
        if c.post_quant_conv:
            self.post_quant_conv = Conv(c.latent_channels, 1, dtype=self.dtype)

    def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of the posterior, float32."""
        factor = self.config.factor
        if images.shape[-3] % factor or images.shape[-2] % factor:
            raise ValueError(
                f"images are {images.shape[-3]}x{images.shape[-2]}, but sides must be multiples of {factor}"
            )
        y = self.encoder(2.0 * images - 1.0)
        y = (self.quant_conv(y) if self.config.quant_conv else y).astype(jnp.float32)
        mean, log_variance = jnp.split(y, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode(self, images: jax.Array) -> jax.Array:
        """The posterior's mean."""
        return self.moments(images)[0]

    def decode(self, latents: jax.Array, frames_at_once: int | None = None) -> jax.Array:
        """Images of latents.

        Args:
            latents: [B, T, h, w, z], divided by `scaling_factor` if they come from a diffusion model.
            frames_at_once: Frames whose widest activations are held together; None for all. The result is the same.
        """
        latents = self.post_quant_conv(latents) if self.config.post_quant_conv else latents
        return 0.5 * self.decoder(latents, frames_at_once) + 0.5

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [B, T, H, W, C] there and back."""
        return self.decode(self.encode(images))
