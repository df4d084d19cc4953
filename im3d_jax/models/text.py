"""Text encoder of the small model: a pre-norm transformer over words."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.layers import Attention, Dense, LayerNorm


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder. Token 0 is padding, token 1 starts every prompt (alone: no prompt)."""

    vocabulary: int = 256
    length: int = 24
    width: int = 128
    layers: int = 3
    head_dim: int = 32
    eps: float = 1e-5


class TextEncoder(nn.Module):
    """Tokens [B, L] int32 to (context [B, L, width], mask [B, L]); the mask is False on padding."""

    config: TextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        mask = tokens != 0
        embed = nn.initializers.normal(0.02)
        words = self.param("embeddings.token_embedding", embed, (c.vocabulary, c.width))
        places = self.param("embeddings.position_embedding", embed, (c.length, c.width))
        x = (words[tokens] + places[None, : tokens.shape[1]]).astype(self.dtype)
        for i in range(c.layers):
            name = f"layers.{i}."
            y = LayerNorm(c.eps, name=name + "layer_norm1")(x)
            x = x + Attention(c.head_dim, dtype=self.dtype, name=name + "self_attn")(y, mask=mask)
            y = LayerNorm(c.eps, name=name + "layer_norm2")(x)
            y = jax.nn.gelu(Dense(4 * c.width, dtype=self.dtype, name=name + "mlp.fc1")(y), approximate=False)
            x = x + Dense(c.width, dtype=self.dtype, name=name + "mlp.fc2")(y)
        return LayerNorm(c.eps, name="final_layer_norm")(x), mask
