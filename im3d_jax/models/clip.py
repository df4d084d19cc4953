"""CLIP's text and image transformers as Stable Diffusion, SVD and SV3D use them, frozen.

Source: Radford et al. 2103.00020; parameters are named after the `transformers` modules `CLIPTextModelWithProjection`
and `CLIPVisionModelWithProjection` (`pre_layrnorm` is their spelling), without the prefixes `text_model.` and
`vision_model.`. Which files hold which sizes: `CLIP_TEXT_L14` Stable Diffusion 1.5, `OPENCLIP_TEXT_H` Stable Diffusion
2.1, `CLIP_VISION_H14` SVD and SV3D, `CLIP_VISION_L14` with `CLIP_TEXT_L14` the usual CLIP similarity.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.layers import KERNEL_INIT, Dense, LayerNorm


Activation = Literal["gelu", "quick_gelu"]
EMBEDDING_INIT = nn.initializers.normal(0.02)


def _check_transformer(width: int, heads: int, activation: str) -> None:
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}")
    if activation not in ("gelu", "quick_gelu"):
        raise ValueError(f"unknown activation {activation!r}: expected gelu or quick_gelu")


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a text transformer.

    Attributes:
        vocabulary: Number of tokens.
        length: Number of positions, all of which a prompt fills with padding.
        width: Features of a token.
        layers: Transformer layers in the weights.
        heads: Attention heads.
        hidden: Features inside the feed-forward.
        activation: ``quick_gelu`` (OpenAI's weights) or ``gelu`` (exact; OpenCLIP's).
        skip_last: Layers at the end that the context does not pass. OpenCLIP's own files hold 24 layers of which Stable
            Diffusion 2.1 takes the last but one (1); its diffusers files leave the last one out (23 layers, 0).
        projection: Features of the pooled embedding after its projection, or None for the bare state.
        end_token: The token whose state is pooled, at its first place.
        eps: Of all layer norms.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Activation = "quick_gelu"
    skip_last: int = 0
    projection: int | None = None
    end_token: int = 49407
    eps: float = 1e-5

    def __post_init__(self):
        if not 0 <= self.skip_last < self.layers:
            raise ValueError(
                f"skip_last must lie in 0..{self.layers - 1} for {self.layers} layers, got {self.skip_last}"
            )
        _check_transformer(self.width, self.heads, self.activation)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """Sizes of an image transformer; fields as in `CLIPTextConfig`.

    Attributes:
        image_size: Side of the square image in pixels, a multiple of `patch`.
        patch: Side of a patch in pixels.
    """

    image_size: int = 224
    patch: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    hidden: int = 5120
    activation: Activation = "gelu"
    projection: int = 1024
    eps: float = 1e-5

    def __post_init__(self):
        if self.image_size % self.patch:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch={self.patch}")
        _check_transformer(self.width, self.heads, self.activation)


CLIP_TEXT_L14 = CLIPTextConfig()
OPENCLIP_TEXT_H = CLIPTextConfig(width=1024, layers=23, heads=16, hidden=4096, activation="gelu")
CLIP_VISION_H14 = CLIPVisionConfig()
CLIP_VISION_L14 = CLIPVisionConfig(width=1024, layers=24, hidden=4096, activation="quick_gelu", projection=768)


@flax.struct.dataclass
class TextFeatures:
    """What a prompt becomes."""

    context: jax.Array
    """[B, length, width] states after the final layer norm: the context of a text-to-image UNet."""
    pooled: jax.Array
    """[B, projection or width] state of the end token after all layers, projected where there is a projection."""


@flax.struct.dataclass
class ImageFeatures:
    """What an image becomes."""

    tokens: jax.Array
    """[B, 1 + patches, width] states after the last layer, the class token first, without the final layer norm."""
    pooled: jax.Array
    """[B, projection] projected class token: the one context token of SVD and SV3D."""


def activate(x: jax.Array, kind: Activation) -> jax.Array:
    """The feed-forward's activation: exact GELU, or x · sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x) if kind == "quick_gelu" else jax.nn.gelu(x, approximate=False)


class CLIPLayer(nn.Module):
    """One pre-norm transformer layer over [B, L, width]."""

    heads: int
    hidden: int
    activation: Activation
    causal: bool
    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = LayerNorm(self.eps, name="layer_norm1")(x)
        q, k, v = (
            Dense(width, dtype=self.dtype, name=f"self_attn.{name}_proj")(y).reshape(*y.shape[:-1], self.heads, -1)
            for name in "qkv"
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal, implementation="xla").reshape(x.shape)
        x = x + Dense(width, dtype=self.dtype, name="self_attn.out_proj")(y)
        y = LayerNorm(self.eps, name="layer_norm2")(x)
        y = activate(Dense(self.hidden, dtype=self.dtype, name="mlp.fc1")(y), self.activation)
        return x + Dense(width, dtype=self.dtype, name="mlp.fc2")(y)


class CLIPText(nn.Module):
    """Tokens [B, L] int32 to `TextFeatures`; attention is causal and, as in Stable Diffusion, sees padding."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> TextFeatures:
        c = self.config
        if tokens.ndim != 2 or tokens.shape[1] > c.length:
            raise ValueError(f"tokens must be [B, at most {c.length}], got shape {tokens.shape}")
        words = self.param("embeddings.token_embedding.weight", EMBEDDING_INIT, (c.vocabulary, c.width))
        places = self.param("embeddings.position_embedding.weight", EMBEDDING_INIT, (c.length, c.width))
        x = (words[tokens] + places[None, : tokens.shape[1]]).astype(self.dtype)
        context = x
        for i in range(c.layers):
            layer = CLIPLayer(c.heads, c.hidden, c.activation, True, c.eps, self.dtype, name=f"encoder.layers.{i}")
            x = layer(x)
            if i == c.layers - 1 - c.skip_last:
                context = x
        norm = LayerNorm(c.eps, name="final_layer_norm")
        end = jnp.argmax(tokens == c.end_token, axis=1)
        pooled = norm(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0])
        if c.projection is not None:
            pooled = Dense(c.projection, use_bias=False, dtype=self.dtype, name="text_projection")(pooled)
        return TextFeatures(norm(context), pooled)


class CLIPVision(nn.Module):
    """Normalised images [B, image_size, image_size, 3] (see `clip_images`) to `ImageFeatures`."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> ImageFeatures:
        c = self.config
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"images must be [B, {c.image_size}, {c.image_size}, 3], got shape {images.shape}: resize them first"
            )
        batch, side = images.shape[0], c.image_size // c.patch
        kernel = self.param("embeddings.patch_embedding.kernel", KERNEL_INIT, (c.patch, c.patch, 3, c.width))
        # Patches do not overlap, so the convolution is one matrix product.
        x = images.astype(self.dtype).reshape(batch, side, c.patch, side, c.patch, 3).swapaxes(2, 3)
        x = x.reshape(batch, side * side, -1) @ kernel.astype(self.dtype).reshape(-1, c.width)
        first = self.param("embeddings.class_embedding", EMBEDDING_INIT, (c.width,)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first[None, None], (batch, 1, c.width)), x], axis=1)
        places = self.param("embeddings.position_embedding.weight", EMBEDDING_INIT, (1 + side * side, c.width))
        x = LayerNorm(c.eps, name="pre_layrnorm")(x + places.astype(self.dtype)[None])
        for i in range(c.layers):
            layer = CLIPLayer(c.heads, c.hidden, c.activation, False, c.eps, self.dtype, name=f"encoder.layers.{i}")
            x = layer(x)
        pooled = LayerNorm(c.eps, name="post_layernorm")(x[:, 0])
        pooled = Dense(c.projection, use_bias=False, dtype=self.dtype, name="visual_projection")(pooled)
        return ImageFeatures(x, pooled)
