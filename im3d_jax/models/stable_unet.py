"""One UNet for Stable Diffusion, Stable Video Diffusion, SV3D and Emu Video's layout at full size.

The walk down, through the middle and up again is the same for all; `StableUNetConfig.temporal` says how time
enters (see `stable_blocks`). `tiny_unet.TinyUNet` stays a network of its own: the small model's position
features, ring convolutions, first-frame and joint attention belong to no published network, and its weights and bytes
are fixed.

Parameter names are diffusers' (dots are part of a module's name), so that weights convert by transposing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.layers import Conv, Dense, GroupNorm, sinusoid
from im3d_jax.models.stable_attention import Transformer
from im3d_jax.models.stable_blocks import BlendedResBlock, SpatialResBlock, UpsampledConv
from im3d_jax.models.unet_walk import walk


TEMPORAL_LAYOUTS = ("none", "blended", "residual")


@dataclasses.dataclass(frozen=True)
class StableUNetConfig:
    """Sizes and switches; tuples have one entry a resolution level unless said otherwise.

    Attributes:
        in_channels: Of the noised latent together with what is concatenated to it.
        condition_channels: Of a condition that enters frame 0 by a convolution of its own (Emu Video's widened first
            convolution: latent and mask); 0 for none.
        vector_dims: Features of each scalar condition (fps, motion, noise level, angles); empty for none.
        context_dims: Features of each context; one set of attention layers each.
        temporal: ``none``, ``blended`` or ``residual``.
        down_eps, mid_eps, up_eps, out_eps: Of the residual blocks' and the last group norm. Stability AI's code has
            1e-5 throughout; diffusers' SVD has 1e-6 in some blocks, see `weights.presets`.
        transformer_eps: Of the group norm in front of every transformer.
    """

    in_channels: int = 8
    out_channels: int = 4
    condition_channels: int = 0
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    transformer_depth: int = 1
    context_dims: tuple[int, ...] = (1024,)
    vector_dims: tuple[int, ...] = (256, 256, 256)
    temporal: str = "blended"
    groups: int = 32
    down_eps: tuple[float, ...] = (1e-5,) * 4
    mid_eps: float = 1e-5
    up_eps: tuple[float, ...] = (1e-5,) * 4
    out_eps: float = 1e-5
    transformer_eps: float = 1e-6
    attention_implementation: str = "xla"

    def __post_init__(self):
        if self.temporal not in TEMPORAL_LAYOUTS:
            raise ValueError(f"temporal is {self.temporal!r}, expected one of {', '.join(TEMPORAL_LAYOUTS)}")
        for name in ("layers_per_block", "attention", "heads", "down_eps", "up_eps"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, expected one for each of the "
                    f"{len(self.channels)} levels of channels={self.channels}"
                )


class StableUNet(nn.Module):
    """The network of one evaluation, as stored (preconditioning is the caller's).

    Attributes:
        remat: Which activations the backward pass recomputes in place of keeping them: ``none``, those inside of each
            residual block and transformer (``blocks``), or those of both together (``full``).

    Call:
        x: [B, T, h, w, in_channels] noised latents, scaled for the network, conditioning latents concatenated.
        time: [B] in the network's own unit: 0..999 for discrete schedules, ln(sigma) / 4 for SVD's.
        context: [B, L, D], or a sequence of them where the network has several.
        vector: [B, n] or, one for each frame, [B, T, n] scalar conditions in the order of `vector_dims`.
        context_mask: Optional [B, L] booleans, or a sequence of them.
        condition: [B, h, w, condition_channels] for frame 0, zeros for none; ignored when not `temporal`.
        temporal: Whether the temporal layers run; False makes every frame a picture of its own.

    Returns:
        [B, T, h, w, out_channels] float32.

    Raises:
        ValueError: Latents that cannot be halved at every level, or conditions in another number than configured.
    """

    config: StableUNetConfig
    dtype: DTypeLike = jnp.float32
    remat: Literal["none", "blocks", "full"] = "none"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        context: jax.Array | Sequence[jax.Array],
        vector: jax.Array | None = None,
        *,
        context_mask: jax.Array | Sequence[jax.Array | None] | None = None,
        condition: jax.Array | None = None,
        temporal: bool = True,
    ) -> jax.Array:
        c = self.config
        contexts = tuple(context) if isinstance(context, Sequence) else (context,)
        masks = tuple(context_mask) if isinstance(context_mask, Sequence) else (context_mask,) * len(contexts)
        _check(c, x, contexts, masks, vector)
        temporal = temporal and c.temporal != "none"
        levels = len(c.channels)
        embedding = self.embed(time, vector)
        recomputed = self.remat != "none"
        resnet = nn.remat(BlendedResBlock, static_argnums=(3,)) if recomputed else BlendedResBlock
        plain_resnet = nn.remat(SpatialResBlock, static_argnums=(3,)) if recomputed else SpatialResBlock
        transformer = nn.remat(Transformer, static_argnums=(4,)) if recomputed else Transformer

        # `owner` is this module, or its stand-in inside of a recomputed function.
        def residual(owner: nn.Module, h: jax.Array, name: str, level: int, eps: float) -> jax.Array:
            features = c.channels[level]
            if c.temporal == "blended":
                site = resnet(features, c.groups, eps, eps, self.dtype, name=name, parent=owner)
            else:
                site = plain_resnet(features, c.groups, eps, self.dtype, name=name, parent=owner)
            return site(h, embedding, temporal)

        def attend(owner: nn.Module, h: jax.Array, name: str, level: int) -> jax.Array:
            site = transformer(
                c.heads[level], c.transformer_depth, c.groups, c.transformer_eps, c.temporal,
                c.attention_implementation, self.dtype, name=name, parent=owner,
            )  # fmt: skip
            return site(h, contexts, masks, temporal)

        def block(h: jax.Array, prefix: str, level: int, index: int) -> jax.Array:
            # The norms' eps of a level may differ on the two ways; on the way up they are counted from below.
            eps = c.down_eps[level] if prefix.startswith("down") else c.up_eps[levels - 1 - level]

            def both(owner: nn.Module, h: jax.Array) -> jax.Array:
                h = residual(owner, h, f"{prefix}resnets.{index}", level, eps)
                return attend(owner, h, f"{prefix}attentions.{index}", level) if c.attention[level] else h

            return (nn.remat(both) if self.remat == "full" else both)(self, h)

        def down(h: jax.Array, prefix: str, level: int) -> jax.Array:
            return Conv(c.channels[level], stride=2, dtype=self.dtype, name=prefix + "downsamplers.0.conv")(h)

        def middle(h: jax.Array) -> jax.Array:
            h = residual(self, h, "mid_block.resnets.0", levels - 1, c.mid_eps)
            h = attend(self, h, "mid_block.attentions.0", levels - 1)
            return residual(self, h, "mid_block.resnets.1", levels - 1, c.mid_eps)

        def up(h: jax.Array, prefix: str, level: int) -> jax.Array:
            return UpsampledConv(c.channels[level], self.dtype, name=prefix + "upsamplers.0.conv")(h)

        def join(h: jax.Array, skip: jax.Array) -> jax.Array:
            return jnp.concatenate([h, skip], axis=-1)

        h = Conv(c.channels[0], dtype=self.dtype, name="conv_in")(x)
        if temporal and c.condition_channels:
            if condition is None:
                raise ValueError(
                    f"no condition given, expected [B, h, w, {c.condition_channels}]; zeros stand for none"
                )
            widen = Conv(c.channels[0], 3, 1, False, True, self.dtype, name="conv_in_condition")
            # A concatenation, because an update in place is a scatter.
            h = jnp.concatenate([h[:, :1] + widen(condition)[:, None], h[:, 1:]], axis=1)
        h = walk(h, c.layers_per_block, block=block, down=down, middle=middle, up=up, join=join)
        h = GroupNorm(c.groups, c.out_eps, silu=True, name="conv_norm_out")(h)
        return Conv(c.out_channels, dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)

    def embed(self, time: jax.Array, vector: jax.Array | None) -> jax.Array:
        """Time [B] and scalars [B, n] or [B, T, n] to the blocks' embedding [B, 1 or T, 4 channels[0]]."""
        c = self.config
        width = 4 * c.channels[0]

        def two_layers(y: jax.Array, name: str) -> jax.Array:
            y = jax.nn.silu(Dense(width, dtype=self.dtype, name=f"{name}.linear_1")(y))
            return Dense(width, dtype=self.dtype, name=f"{name}.linear_2")(y)

        y = two_layers(sinusoid(time, c.channels[0]), "time_embedding")[:, None]
        if vector is None:
            return y
        vector = vector[:, None] if vector.ndim == 2 else vector
        parts = [sinusoid(vector[..., i], dim) for i, dim in enumerate(c.vector_dims)]
        return y + two_layers(jnp.concatenate(parts, axis=-1), "add_embedding")


def _check(c: StableUNetConfig, x: jax.Array, contexts: tuple, masks: tuple, vector) -> None:
    _, _, height, width, channels = x.shape
    step = 2 ** (len(c.channels) - 1)
    if height % step or width % step:
        raise ValueError(f"the latent is {height}x{width}, but both sides must be multiples of {step}")
    if channels != c.in_channels:
        raise ValueError(
            f"the latent has {channels} channels, expected {c.in_channels} (noised and condition together)"
        )
    dims = tuple(context.shape[-1] for context in contexts)
    if dims != c.context_dims or len(masks) != len(contexts):
        raise ValueError(f"got contexts of {dims} features and {len(masks)} masks, expected {c.context_dims}")
    given = 0 if vector is None else vector.shape[-1]
    if given != len(c.vector_dims):
        raise ValueError(f"got {given} scalar conditions, expected {len(c.vector_dims)}")
