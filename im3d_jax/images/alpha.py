"""Straight, premultiplied and composited colour. Every function takes numpy and JAX arrays alike."""

from __future__ import annotations

from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


Array = TypeVar("Array", np.ndarray, jax.Array)

# A colour under less alpha is not defined: dividing by it only has to stay finite.
SMALLEST_ALPHA = 1e-6


def _numpy_of(array: np.ndarray | jax.Array) -> ModuleType:
    return np if isinstance(array, np.ndarray) else jnp


def composite(
    rgba: Float[Array, "*batch height width 4"], background: float | Float[Array, "..."] = 1.0
) -> Float[Array, "*batch height width 3"]:
    """Composites straight-alpha pictures over a background.

    Args:
        rgba: [..., H, W, 4] in [0, 1].
        background: A number, or an array that broadcasts against [..., H, W, 3]; 1.0 is white.

    Returns:
        [..., H, W, 3].
    """
    alpha = rgba[..., 3:4]
    return rgba[..., :3] * alpha + (1.0 - alpha) * background


def composite_on_white(rgba: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Straight-alpha colours [..., 4] to (colour on white, alpha), four channels that are linear in a render."""
    alpha = rgba[..., 3:4]
    return _numpy_of(rgba).concatenate([rgba[..., :3] * alpha + (1.0 - alpha), alpha], axis=-1)


def straight_from_white(channels: Float[Array, "*batch 4"], threshold: float = 1 / 512) -> Float[Array, "*batch 4"]:
    """Inverts `composite_on_white`; the result is clipped to [0, 1].

    Args:
        channels: (colour on white, alpha); values outside of [0, 1] may occur.
        threshold: Up to this alpha the colour is 0.
    """
    xp = _numpy_of(channels)
    alpha = xp.clip(channels[..., 3:], 0.0, 1.0)
    colour = (channels[..., :3] - (1.0 - alpha)) / xp.maximum(alpha, threshold)
    return xp.concatenate([xp.where(alpha > threshold, xp.clip(colour, 0.0, 1.0), 0.0), alpha], axis=-1)


def premultiply(rgba: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Straight alpha to premultiplied: resampling must average these, or background colours bleed in."""
    alpha = rgba[..., 3:4]
    return _numpy_of(rgba).concatenate([rgba[..., :3] * alpha, alpha], axis=-1)


def unpremultiply(premultiplied: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Premultiplied to straight alpha, clipped to [0, 1]; the colour is 0 where alpha is 0."""
    xp = _numpy_of(premultiplied)
    alpha = xp.clip(premultiplied[..., 3:4], 0.0, 1.0)
    colour = xp.where(alpha > 0.0, premultiplied[..., :3] / xp.maximum(alpha, SMALLEST_ALPHA), 0.0)
    return xp.concatenate([xp.clip(colour, 0.0, 1.0), alpha], axis=-1)
