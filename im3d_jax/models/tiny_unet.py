"""The spatio-temporal UNet in Emu Video's layout (arXiv 2311.10709, sections 3.2-3.3).

A text-to-image UNet with temporal layers between its spatial ones: a temporal convolution after each spatial
convolution and temporal attention after each spatial attention, all of them the identity at initialisation.
The first frame conditions the video: its latent, zero-padded in time, and a mask channel enter beside the
noised latent. Further frames may be given the same way. With `temporal=False` every temporal layer is skipped and
the network is the text-to-image model, frame by frame.

At 22.5 degrees a frame, points move further than a per-pixel temporal attention sees, so two more temporal
layers can be switched on per level (off for foreign presets): attention from every frame to the first frame,
and joint attention over all frames and pixels.

Parameter names follow diffusers' UNets (dots are part of a module's name); `unet_walk.is_temporal_parameter` tells
those of temporal layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.layers import (
    Attention,
    Conv,
    Dense,
    FeedForward,
    GroupNorm,
    LayerNorm,
    TemporalConv,
    sinusoid,
    upsample,
)
from im3d_jax.models.unet_walk import walk


@dataclasses.dataclass(frozen=True)
class TinyUNetConfig:
    """Sizes and switches of the UNet; one entry per resolution level where a field is a tuple."""

    latent_channels: int = 8
    condition_channels: int = 9
    channels: tuple[int, ...] = (64, 128, 160)
    layers_per_block: int = 1
    attention: tuple[bool, ...] = (False, True, True)
    temporal_attention: tuple[bool, ...] = (False, True, False)
    first_frame_attention: tuple[bool, ...] = (False, True, False)
    joint_attention: tuple[bool, ...] = (False, False, True)
    temporal_position: bool = True
    cyclic: bool = True
    frames: int = 16
    context_dim: int = 128
    time_dim: int = 256
    head_dim: int = 32
    feed_forward_multiple: int = 2
    groups: int = 16
    resnet_eps: float = 1e-5
    transformer_eps: float = 1e-6
    attention_implementation: str = "xla"


def orbit_position(frames: int, height: int, width: int, cyclic: bool) -> jax.Array:
    """Position features of every token of a video: [frames, height, width, 24], values in [-1, 1].

    Frames are angles on the orbit (harmonics 1, 2, 4 and 8 of the turn) when `cyclic`, plain indices
    otherwise; rows and columns are harmonics of the picture's extent.
    """

    def harmonics(phase: jax.Array, count: int) -> jax.Array:
        angles = phase[:, None] * (2.0 ** jnp.arange(count))[None]
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

    turn = (2.0 if cyclic else 1.0) * jnp.pi * jnp.arange(frames) / frames
    frame = harmonics(turn, 4)[:, None, None]
    row = harmonics(jnp.pi * (jnp.arange(height) + 0.5) / height, 4)[None, :, None]
    column = harmonics(jnp.pi * (jnp.arange(width) + 0.5) / width, 4)[None, None]
    grid = (frames, height, width, 8)
    return jnp.concatenate([jnp.broadcast_to(a, grid) for a in (frame, row, column)], axis=-1)


class ResnetBlock(nn.Module):
    """Spatial residual block, the time embedding added between convolutions; a temporal one after each."""

    features: int
    config: TinyUNetConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, temporal: bool) -> jax.Array:
        c = self.config
        y = GroupNorm(c.groups, c.resnet_eps, silu=True, name="norm1")(x)
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        shift = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(time)
        if temporal:
            y = TemporalConv(c.cyclic, self.dtype, name="temporal_conv1")(y, shift)
        else:
            # In float32 for the sake of the shift's gradient, as in `layers.add_bias`.
            y = (y.astype(jnp.float32) + shift[:, None, None, None].astype(jnp.float32)).astype(y.dtype)
        y = GroupNorm(c.groups, c.resnet_eps, silu=True, name="norm2")(y)
        y = Conv(self.features, dtype=self.dtype, zero_init=True, name="conv2")(y)
        if temporal:
            y = TemporalConv(c.cyclic, self.dtype, name="temporal_conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class SpatialTransformer(nn.Module):
    """Self-attention within a frame, attention to the text, feed-forward: diffusers' `Transformer2DModel`."""

    config: TinyUNetConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, context_mask: jax.Array) -> jax.Array:
        c = self.config
        batch, frames, height, width, features = x.shape
        kind: dict[str, Any] = dict(head_dim=c.head_dim, implementation=c.attention_implementation, dtype=self.dtype)
        prefix = "transformer_blocks.0."
        y = GroupNorm(c.groups, c.transformer_eps, name="norm")(x)
        y = Dense(features, dtype=self.dtype, name="proj_in")(y).reshape(batch * frames, height * width, features)
        y = y + Attention(**kind, name=prefix + "attn1")(LayerNorm(name=prefix + "norm1")(y))
        # All frames of a video read the same words: one attention call with the frames' tokens side by side.
        z = LayerNorm(name=prefix + "norm2")(y).reshape(batch, frames * height * width, features)
        z = Attention(**kind, name=prefix + "attn2")(z, context, context_mask)
        y = y + z.reshape(y.shape)
        y = y + FeedForward(c.feed_forward_multiple, dtype=self.dtype, name=prefix + "ff")(
            LayerNorm(name=prefix + "norm3")(y)
        )
        return x + Dense(features, zero_init=True, dtype=self.dtype, name="proj_out")(y).reshape(x.shape)


class TemporalTransformer(nn.Module):
    """The temporal layers of one attention site; each adds nothing at initialisation.

    Per-pixel attention over frames (Emu Video), attention of all frames to the first, joint attention over
    frames and pixels (each if its switch is on at this level), then a feed-forward.
    """

    level: int
    config: TinyUNetConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        batch, frames, height, width, features = x.shape
        pixels = height * width
        kind: dict[str, Any] = dict(
            head_dim=c.head_dim, zero_init=True, implementation=c.attention_implementation, dtype=self.dtype
        )
        y = x.reshape(batch, frames * pixels, features)
        place = 0.0
        if c.temporal_position:
            features_in = orbit_position(frames, height, width, c.cyclic).reshape(1, frames * pixels, -1)
            place = Dense(features, dtype=self.dtype, name="position")(features_in)
        if c.temporal_attention[self.level]:
            z = LayerNorm(name="norm1")(y) + place
            z = z.reshape(batch, frames, pixels, features).swapaxes(1, 2).reshape(-1, frames, features)
            # Sequences of 16 are too short for flash attention to pay.
            z = Attention(**{**kind, "implementation": "xla"}, name="attn_frames")(z)
            y = y + z.reshape(batch, pixels, frames, features).swapaxes(1, 2).reshape(y.shape)
        if c.first_frame_attention[self.level]:
            z = LayerNorm(name="norm2")(y) + place
            y = y + Attention(**kind, name="attn_first_frame")(z, z[:, :pixels])
        if c.joint_attention[self.level]:
            y = y + Attention(**kind, name="attn_joint")(LayerNorm(name="norm3")(y) + place)
        ff = FeedForward(c.feed_forward_multiple, zero_init=True, dtype=self.dtype, name="ff")
        return (y + ff(LayerNorm(name="norm4")(y))).reshape(x.shape)


class TinyUNet(nn.Module):
    """Predicts the velocity of a noised video (or of single frames).

    Call:
        x: [B, T, h, w, z] noised latents (T = 1 and `temporal=False`: text-to-image).
        time: [B] in [0, 1]; 1 is pure noise.
        context, context_mask: [B, L, D] and [B, L] from the text encoder.
        condition: [B, h, w, z] latent of the first frame, or [B, T, h, w, z] latents of given frames; ignored
            when not `temporal`.
        has_image: [B], or [B, T] beside latents of frames: 1.0 where `condition` is given, else 0.0, where its
            values are not read (the mask channel).
        temporal: Whether the temporal layers run.

    Returns:
        [B, T, h, w, z] float32.

    Raises:
        ValueError: If the latent's size cannot be halved `len(channels) - 1` times.
    """

    config: TinyUNetConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        context: jax.Array,
        context_mask: jax.Array,
        condition: jax.Array | None = None,
        has_image: jax.Array | None = None,
        temporal: bool = True,
    ) -> jax.Array:
        c = self.config
        batch, frames, height, width, _ = x.shape
        step = 2 ** (len(c.channels) - 1)
        if height % step or width % step:
            raise ValueError(f"the latent is {height}x{width}, but both sides must be multiples of {step}")

        embedding = sinusoid(1000.0 * time, c.channels[0])
        embedding = jax.nn.silu(Dense(c.time_dim, dtype=self.dtype, name="time_embedding.linear_1")(embedding))
        embedding = Dense(c.time_dim, dtype=self.dtype, name="time_embedding.linear_2")(embedding)
        embedding = jax.nn.silu(embedding)

        h = Conv(c.channels[0], dtype=self.dtype, name="conv_in")(x)
        if temporal and c.condition_channels:
            # Emu Video widens the first convolution; the new columns are a convolution of their own here, so
            # that they can be trained while the old ones are held. Only given frames of their input are not zero.
            assert condition is not None and has_image is not None  # as the arguments' documentation says
            given = jnp.expand_dims(has_image, tuple(range(has_image.ndim, condition.ndim))).astype(condition.dtype)
            mask = jnp.broadcast_to(given, (*condition.shape[:-1], 1))
            entered = jnp.concatenate([condition * given, mask], axis=-1)
            entered = Conv(c.channels[0], use_bias=False, zero_init=True, dtype=self.dtype, name="conv_in_condition")(
                entered
            )
            h = h + entered if condition.ndim == 5 else h.at[:, 0].add(entered)

        def residual(h: jax.Array, name: str, level: int) -> jax.Array:
            return ResnetBlock(c.channels[level], c, self.dtype, name=name)(h, embedding, temporal)

        def attend(h: jax.Array, prefix: str, level: int, index: int) -> jax.Array:
            h = SpatialTransformer(c, self.dtype, name=f"{prefix}attentions.{index}")(h, context, context_mask)
            if temporal:
                h = TemporalTransformer(level, c, self.dtype, name=f"{prefix}temporal_attentions.{index}")(h)
            return h

        def block(h: jax.Array, prefix: str, level: int, index: int) -> jax.Array:
            h = residual(h, f"{prefix}resnets.{index}", level)
            return attend(h, prefix, level, index) if c.attention[level] else h

        def down(h: jax.Array, prefix: str, level: int) -> jax.Array:
            name = prefix + "downsamplers.0.conv"
            return Conv(c.channels[level], stride=2, dtype=self.dtype, name=name)(h)

        def middle(h: jax.Array) -> jax.Array:
            last = len(c.channels) - 1
            h = residual(h, "mid_block.resnets.0", last)
            h = attend(h, "mid_block.", last, 0)
            return residual(h, "mid_block.resnets.1", last)

        def up(h: jax.Array, prefix: str, level: int) -> jax.Array:
            return Conv(c.channels[level], dtype=self.dtype, name=prefix + "upsamplers.0.conv")(upsample(h))

        def join(h: jax.Array, skip: jax.Array) -> jax.Array:
            # Left to itself, XLA concatenates anew in each pass of the norm and then keeps float32 products of it.
            return jax.lax.optimization_barrier(jnp.concatenate([h, skip], axis=-1))

        layers = (c.layers_per_block,) * len(c.channels)
        h = walk(h, layers, block=block, down=down, middle=middle, up=up, join=join)
        h = GroupNorm(c.groups, c.resnet_eps, silu=True, name="conv_norm_out")(h)
        return Conv(c.latent_channels, dtype=self.dtype, zero_init=True, name="conv_out")(h).astype(jnp.float32)
