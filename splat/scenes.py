"""Leading axes of scenes: everything becomes views of one flat list for the rasterizer, and images come back.

`lead` are the axes of scenes that gaussians and cameras share, () for one scene; V' counts all their views.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


def one_axis(tree: Any, own: int, lead: tuple[int, ...]) -> Any:
    """Leaves with `own` leading axes (all of `lead`, or none: then repeated) with one axis of scenes."""
    scenes = math.prod(lead)
    if own:
        return jax.tree.map(lambda leaf: leaf.reshape(scenes, *leaf.shape[own:]), tree)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (scenes, *leaf.shape)), tree)


def merge_views(tree: Any) -> Any:
    """Leaves [scenes, V, ...] as [V', ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def split_views(tree: Any, lead: tuple[int, ...]) -> Any:
    """Leaves [V', ...] as [*lead, V, ...]; scalars and everything of a single scene stay."""
    if not lead:
        return tree
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, -1, *leaf.shape[1:]) if leaf.ndim else leaf, tree)


def flat_background(background: float | jax.Array, views: int, height: int, width: int) -> jax.Array:
    """A scalar, [3], [..., V, 3] or [..., V, H, W, 3] as [V' or 1, H or 1, W or 1, 3]."""
    background = jnp.asarray(background, jnp.float32)
    if background.ndim == 0:
        return jnp.broadcast_to(background, (1, 1, 1, 3))
    if background.ndim == 1:
        return background[None, None, None]
    return background.reshape((views, 1, 1, 3) if background.size == 3 * views else (views, height, width, 3))


def flat_features(
    features: jax.Array, scenes: tuple[int, ...], lead: tuple[int, ...], views: int
) -> tuple[jax.Array, jax.Array]:
    """Features of each view, and whose are finite.

    Args:
      features: [*scenes, N, C], or [*lead, V, N, C] for each view.
      scenes: leading axes of the gaussians: `lead`, or () where all cameras see the same ones.
      lead: axes of scenes.
      views: V'.

    Returns:
      [V', N, C] with zeros for numbers that are not finite, and [*scenes, N] bool.
    """
    finite = jnp.all(jnp.isfinite(features), axis=-1)
    features = jnp.where(jnp.isfinite(features), features, 0.0)
    count, channels = features.shape[-2:]
    if features.ndim == len(lead) + 3:
        finite = jnp.all(finite, axis=-2 if scenes else tuple(range(finite.ndim - 1)))
        return features.reshape(views, count, channels), finite
    number = math.prod(scenes)
    each = jnp.broadcast_to(
        features.reshape(number, 1, count, channels), (number, views // max(number, 1), count, channels)
    )
    return each.reshape(views, count, channels), finite
