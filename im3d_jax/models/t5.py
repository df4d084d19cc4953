"""T5 1.1's text encoder (Raffel et al. 1910.10683), frozen: the second text context of the Emu layout.

Parameters are named after the `transformers` module `T5EncoderModel`. Differences from other transformers here: root
mean square norms without a bias, no scaling of the queries, a learned bias by relative position in place of position
embeddings (held by the first layer, used by all), a feed-forward gated by the tanh form of GELU.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from im3d_jax.models.layers import Dense


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder.

    Attributes:
        vocabulary: Number of tokens (the published weights pad theirs to a multiple of 128).
        width: Features of a token.
        head_dim: Features of a head; heads · head_dim need not be the width.
        heads: Attention heads.
        hidden: Features inside the feed-forward.
        layers: Transformer layers.
        buckets: Number of relative-position classes, half of them for each direction.
        max_distance: Distance in tokens from which on all share the last class.
        eps: Of all norms.
    """

    vocabulary: int = 32128
    width: int = 2048
    head_dim: int = 64
    heads: int = 32
    hidden: int = 5120
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


T5_XL = T5Config()
T5_XXL = T5Config(width=4096, heads=64, hidden=10240)


def position_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Class of each (query, key) pair, [length, length] int32, by the key's position relative to the query's.

    A quarter of the classes for exact distances up to `buckets` / 4, a quarter growing logarithmically up to
    `max_distance`, and the same again for keys behind the query.
    """
    relative = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    distance = np.abs(relative)
    # In float32, as the weights were trained: at a class's edge float64 may round to the other side.
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + growth.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + np.where(relative > 0, half, 0)).astype(np.int32)


class RMSNorm(nn.Module):
    """x / rms(x) · scale over the last axis, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class T5Encoder(nn.Module):
    """Tokens [B, L] int32 and mask [B, L] (False on padding) to the context [B, L, width]."""

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        c = self.config
        if tokens.shape != mask.shape or tokens.ndim != 2:
            raise ValueError(f"tokens and mask must both be [B, L], got {tokens.shape} and {mask.shape}")
        words = self.param("shared.weight", nn.initializers.normal(1.0), (c.vocabulary, c.width))
        relative = self.param(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            nn.initializers.normal(c.width**-0.5),
            (c.buckets, c.heads),
        )
        classes = position_buckets(tokens.shape[1], c.buckets, c.max_distance)
        bias = relative.astype(jnp.float32)[classes].transpose(2, 0, 1)[None]
        x = words[tokens].astype(self.dtype)
        for i in range(c.layers):
            name = f"encoder.block.{i}.layer."
            y = RMSNorm(c.eps, name=name + "0.layer_norm")(x)
            x = x + self._attention(y, bias, mask, name + "0.SelfAttention.")
            y = RMSNorm(c.eps, name=name + "1.layer_norm")(x)
            gate = jax.nn.gelu(self._linear(c.hidden, name + "1.DenseReluDense.wi_0")(y), approximate=True)
            y = gate * self._linear(c.hidden, name + "1.DenseReluDense.wi_1")(y)
            x = x + self._linear(c.width, name + "1.DenseReluDense.wo")(y)
        return RMSNorm(c.eps, name="encoder.final_layer_norm")(x)

    def _linear(self, features: int, name: str) -> Dense:
        return Dense(features, use_bias=False, dtype=self.dtype, name=name)

    def _attention(self, x: jax.Array, bias: jax.Array, mask: jax.Array, name: str) -> jax.Array:
        c = self.config
        q, k, v = (
            self._linear(c.heads * c.head_dim, name + part)(x).reshape(*x.shape[:-1], c.heads, c.head_dim)
            for part in "qkv"
        )
        y = jax.nn.dot_product_attention(
            q, k, v, bias=bias, mask=mask[:, None, None, :], scale=1.0, implementation="xla"
        )
        return self._linear(c.width, name + "o")(y.reshape(*x.shape[:-1], -1))
