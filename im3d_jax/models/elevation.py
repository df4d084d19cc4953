"""Elevation of an orbit from its views: a small head on the autoencoder's latents.

IM-3D (arXiv 2402.08682, appendix A.1) averages image features of four evenly spaced frames and regresses radians with
an MLP; here the features are the autoencoder's latents, folded three times into patches. Linear layers on patches
rather than strided convolutions, whose gradients XLA computes very slowly on CPUs.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from im3d_jax.models.layers import Dense


@dataclasses.dataclass(frozen=True)
class ElevationConfig:
    """Sizes of the head; `limit` is the largest elevation in radians (45 degrees)."""

    frames: int = 4
    patches: tuple[int, ...] = (4, 2, 2)
    width: int = 128
    hidden: int = 64
    limit: float = 0.7853981633974483


class ElevationHead(nn.Module):
    """Latents of a whole orbit [B, T, h, w, z] to elevations [B] in radians, between 0 and the limit.

    Fewer frames than `config.frames` are all used: training takes one frame of each of many objects.
    """

    config: ElevationConfig

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        c = self.config
        x = latents[:, :: max(1, latents.shape[1] // c.frames)][:, : c.frames]
        for i, side in enumerate(c.patches):
            batch, frames, height, width, _ = x.shape
            x = x.reshape(batch, frames, height // side, side, width // side, side, -1).swapaxes(3, 4)
            x = x.reshape(batch, frames, height // side, width // side, -1)
            x = jax.nn.silu(Dense(c.width, name=f"patch.{i}")(x))
        x = x.reshape(*x.shape[:2], -1)
        x = jax.nn.silu(Dense(c.hidden, name="linear_1")(x)).mean(1)
        x = jax.nn.silu(Dense(c.hidden, name="linear_2")(x))
        return c.limit * jax.nn.sigmoid(Dense(1, name="linear_3")(x)[..., 0])
