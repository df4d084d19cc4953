"""Attention sites of the large UNets: within frames, to the conditions, over frames.

Tokens are [B, T, H W, C] throughout; nothing regroups them but attention itself. Parameter names follow diffusers'
`Transformer2DModel` and `TransformerSpatioTemporalModel`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.attention import attend
from im3d_jax.models.layers import Attention, Dense, FeedForward, GroupNorm, LayerNorm, sinusoid
from im3d_jax.models.stable_blocks import MixFactor


def flash_where_possible(implementation: str, head_dim: int) -> str:
    """``xla`` for heads wider than 128, which flash attention does not take everywhere."""
    return "xla" if head_dim > 128 else implementation


class ContextAttention(nn.Module):
    """Attention of all tokens of a video to its context.

    A context of one token needs neither queries nor keys: the softmax over one score is 1, so every token receives
    the projected value. The unused projections keep their parameters.

    Args of the call:
        x: [B, N, C] normalised tokens; may be None once initialised where the context is one token.
        context: [B, L, D].
        mask: Optional [B, L] booleans.

    Returns:
        [B, N, C], or [B, 1, C] for a context of one token.
    """

    heads: int
    features: int
    implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | None, context: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        project = lambda name: Dense(self.features, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, self.features // self.heads)  # noqa: E731
        value = project("to_v")(context)
        out = Dense(self.features, dtype=self.dtype, name="to_out.0")
        one_token = context.shape[1] == 1
        if one_token and not self.is_initializing():
            return out(value)
        assert x is not None  # told apart by the context's length
        query, key = project("to_q")(x), project("to_k")(context)
        if one_token:
            return out(value)
        implementation = flash_where_possible(self.implementation, self.features // self.heads)
        y = attend(split(query), split(key), split(value), mask, implementation)
        return out(y.reshape(x.shape))


class SpatialBlock(nn.Module):
    """diffusers' `BasicTransformerBlock`: self-attention within frames, attention to contexts, GEGLU.

    Args of the call:
        x: [B, T, N, C] tokens.
        contexts: One [B, L, D] for each context; the second and later have layers of their own.
        masks: One [B, L] or None for each.
    """

    heads: int
    implementation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, contexts: tuple, masks: tuple) -> jax.Array:
        batch, frames, pixels, features = x.shape
        head_dim = features // self.heads
        z = LayerNorm(1e-5, name="norm1")(x).reshape(batch * frames, pixels, features)
        self_attention = Attention(
            head_dim, False, flash_where_possible(self.implementation, head_dim), self.dtype, name="attn1"
        )
        x = x + self_attention(z).reshape(x.shape)
        x = attend_to_contexts(self, x, contexts, masks)
        return x + FeedForward(4, dtype=self.dtype, name="ff")(LayerNorm(1e-5, name="norm3")(x))


class TemporalBlock(nn.Module):
    """diffusers' `TemporalBasicTransformerBlock`: GEGLU, attention over frames, attention to contexts, GEGLU.

    Args as `SpatialBlock`'s. The contexts are the video's (those of its first frame), the same for every pixel.
    """

    heads: int
    implementation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, contexts: tuple, masks: tuple) -> jax.Array:
        x = x + FeedForward(4, dtype=self.dtype, name="ff_in")(LayerNorm(1e-5, name="norm_in")(x))
        attention = FramesAttention(self.heads, False, self.dtype, name="attn1")
        x = x + attention(LayerNorm(1e-5, name="norm1")(x))
        x = attend_to_contexts(self, x, contexts, masks)
        return x + FeedForward(4, dtype=self.dtype, name="ff")(LayerNorm(1e-5, name="norm3")(x))


class FramesAttention(nn.Module):
    """Self-attention over the frames of each pixel of [B, T, N, C], parameters named as `layers.Attention`'s.

    Written on the tokens where they lie: regrouping them to [B N, T, C] first moves everything twice more. T is too
    short for flash attention to pay.
    """

    heads: int
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        project = lambda name: Dense(features, use_bias=False, dtype=self.dtype, name=name)(x)  # noqa: E731
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, features // self.heads)  # noqa: E731
        q, k, v = split(project("to_q")), split(project("to_k")), split(project("to_v"))
        scores = jnp.einsum("btnhd,bsnhd->bnhts", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * (features // self.heads) ** -0.5, axis=-1).astype(v.dtype)
        y = jnp.einsum("bnhts,bsnhd->btnhd", weights, v).reshape(x.shape)
        return Dense(features, zero_init=self.zero_init, dtype=self.dtype, name="to_out.0")(y)


def attend_to_contexts(block: SpatialBlock | TemporalBlock, x: jax.Array, contexts: tuple, masks: tuple) -> jax.Array:
    """Adds attention to each context to the tokens [B, T, N, C], with layers that belong to `block`."""
    batch, frames, pixels, features = x.shape
    for i, (context, mask) in enumerate(zip(contexts, masks, strict=True)):
        suffix = "2" if i == 0 else f"2_context{i}"
        attention = ContextAttention(block.heads, features, block.implementation, block.dtype, name="attn" + suffix)
        z = None
        if context.shape[1] > 1 or block.is_initializing():
            z = LayerNorm(1e-5, name="norm" + suffix)(x).reshape(batch, frames * pixels, features)
        y = attention(z, context, mask)
        # One value for the whole video, or one for each token.
        x = x + (y[:, None] if context.shape[1] == 1 else y.reshape(x.shape))
    return x


class ResidualTemporalBlock(nn.Module):
    """Emu Video's temporal layer: attention over the frames of each pixel, then GEGLU; the identity at initialisation.

    The frames' numbers enter as a sinusoid added to what attention reads; the paper does not say how its own do.
    """

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        attention = FramesAttention(self.heads, True, self.dtype, name="attn1")
        place = sinusoid(jnp.arange(x.shape[1]), features).astype(x.dtype)[None, :, None]
        x = x + attention(LayerNorm(1e-5, name="norm1")(x) + place)
        return x + FeedForward(4, True, self.dtype, name="ff")(LayerNorm(1e-5, name="norm3")(x))


def frame_position(frames: int, features: int, dtype: DTypeLike) -> jax.Array:
    """The embedded number of each frame, [1, T, 1, C]; makes the layers `time_pos_embed` of the calling module."""
    y = Dense(4 * features, dtype=dtype, name="time_pos_embed.linear_1")(sinusoid(jnp.arange(frames), features))
    y = Dense(features, dtype=dtype, name="time_pos_embed.linear_2")(jax.nn.silu(y))
    return y[None, :, None]


class Transformer(nn.Module):
    """One attention site: norm, projection, `depth` spatial blocks with their temporal ones, projection, plus input.

    Args of the call:
        x: [B, T, H, W, C].
        contexts, masks: As `SpatialBlock`'s.
        temporal: Whether the temporal layers run.
    """

    heads: int
    depth: int
    groups: int
    eps: float
    kind: str
    implementation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, contexts: tuple, masks: tuple, temporal: bool = True) -> jax.Array:
        batch, frames, height, width, features = x.shape
        tokens = GroupNorm(self.groups, self.eps, name="norm")(x).reshape(batch, frames, height * width, features)
        y = Dense(features, dtype=self.dtype, name="proj_in")(tokens)
        mixing = None
        if temporal and self.kind == "blended":
            mixing = frame_position(frames, features, self.dtype), MixFactor(name="time_mixer")
        for i in range(self.depth):
            kind = (self.heads, self.implementation, self.dtype)
            y = SpatialBlock(*kind, name=f"transformer_blocks.{i}")(y, contexts, masks)
            if mixing is not None:
                place, mixer = mixing
                z = TemporalBlock(*kind, name=f"temporal_transformer_blocks.{i}")(y + place, contexts, masks)
                y = mixer(y, z)
            elif temporal and self.kind == "residual":
                y = ResidualTemporalBlock(self.heads, self.dtype, name=f"temporal_blocks.{i}")(y)
        return x + Dense(features, dtype=self.dtype, name="proj_out")(y).reshape(x.shape)
