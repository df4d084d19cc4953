"""Leading axes of scenes: merged into one list of views for the rasterizer, and restored in the images.

`lead` are the axes of scenes that gaussians and cameras share, () for one scene; V' counts the views of all scenes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from splat.typing import AnyArray, Scalar


def one_axis(tree: Any, own: int, lead: tuple[int, ...]) -> Any:
    """Gives all leaves one axis of scenes.

    Args:
        tree: Leaves with `own` leading axes.
        own: Either all axes of `lead`, or 0: then every scene gets the same leaves.
        lead: Axes of scenes.

    Returns:
        Leaves [scenes, ...].
    """
    scenes = math.prod(lead)
    if own:
        return jax.tree.map(lambda leaf: leaf.reshape(scenes, *leaf.shape[own:]), tree)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (scenes, *leaf.shape)), tree)


def merge_views(tree: Any) -> Any:
    """Reshapes leaves [scenes, V, ...] to [V', ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def split_views(tree: Any, lead: tuple[int, ...]) -> Any:
    """Reshapes leaves [V', ...] to [*lead, V, ...]; scalars and the leaves of a single scene stay."""
    if not lead:
        return tree
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, -1, *leaf.shape[1:]) if leaf.ndim else leaf, tree)


def flat_background(
    background: Scalar | Num[AnyArray, "*shape 3"], views: int, height: int, width: int
) -> Float[Array, "_views _height _width 3"]:
    """Brings a background into the shape of the images.

    Args:
        background: A scalar, [3], [..., V, 3] or [..., V, H, W, 3].
        views: V'.
        height: H in pixels.
        width: W in pixels.

    Returns:
        [V' or 1, H or 1, W or 1, 3] float32.
    """
    background = jnp.asarray(background, jnp.float32)
    if background.ndim == 0:
        return jnp.broadcast_to(background, (1, 1, 1, 3))
    if background.ndim == 1:
        return background[None, None, None]
    return background.reshape((views, 1, 1, 3) if background.size == 3 * views else (views, height, width, 3))


def flat_features(
    features: Float[AnyArray, "*shape N C"], scenes: tuple[int, ...], lead: tuple[int, ...], views: int
) -> tuple[Float[Array, "_views N C"], Bool[Array, "*_scenes N"]]:
    """Brings features into one list of views.

    Args:
        features: [*scenes, N, C], or [*lead, V, N, C] for each view.
        scenes: Leading axes of the gaussians: `lead`, or () where all cameras see the same ones.
        lead: Axes of scenes.
        views: V'.

    Returns:
        [V', N, C] with zeros in place of numbers that are not finite, and [*scenes, N] bool: all features of the
        gaussian are finite.
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
