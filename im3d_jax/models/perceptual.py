"""The LPIPS form of a perceptual distance over any list of feature maps."""

from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp


Features = list[jax.Array]


@flax.struct.dataclass
class Perceptual:
    """A feature network with the weights of its channels: all that a perceptual distance needs.

    Attributes:
        features: Maps images [B, H, W, 4], (colour composited on white, alpha), to feature maps [B, h, w, c].
            Pass `jax.tree_util.Partial(apply, params)`: its arrays are then arguments of jitted functions.
        weights: One [c] array of channel weights per feature map, or None for ones.
    """

    features: Callable[[jax.Array], Features]
    weights: tuple[jax.Array, ...] | None = None


def as_perceptual(features: "Perceptual | Callable[[jax.Array], Features]") -> Perceptual:
    """Wraps a plain feature function; leaves a `Perceptual` as it is."""
    if isinstance(features, Perceptual):
        return features
    if not isinstance(features, jax.tree_util.Partial):
        features = jax.tree_util.Partial(features)
    return Perceptual(features)


def normalise_channels(feature: jax.Array, eps: float = 1e-10) -> jax.Array:
    """Feature vectors [..., c] scaled to unit length in float32.

    `eps` is added inside the root: the gradient at an all-zero vector (a blank background after a ReLU)
    is finite, where the usual `x / (|x| + eps)` gives NaN.
    """
    feature = feature.astype(jnp.float32)
    return feature * jax.lax.rsqrt(jnp.sum(feature * feature, axis=-1, keepdims=True) + eps)


def normalised(features: Sequence[jax.Array], eps: float = 1e-10) -> Features:
    """`normalise_channels` of every map; fixed targets are kept in this form."""
    return [normalise_channels(feature, eps) for feature in features]


def distance_between_normalised(
    a: Sequence[jax.Array], b: Sequence[jax.Array], weights: Sequence[jax.Array] | None = None
) -> jax.Array:
    """`distance` for maps that went through `normalised` already."""
    if len(a) != len(b) or (weights is not None and len(weights) != len(a)):
        count = "no" if weights is None else len(weights)
        raise ValueError(
            f"got {len(a)} and {len(b)} feature maps and {count} weights; expected equal counts: "
            "take both lists from the same network"
        )
    total = jnp.zeros(a[0].shape[0], jnp.float32)
    for level, (x, y) in enumerate(zip(a, b, strict=True)):
        squared = jnp.square(x - y)
        if weights is not None:
            squared = squared * weights[level].astype(jnp.float32)[None, None, None]
        total = total + jnp.mean(jnp.sum(squared, axis=-1), axis=(1, 2))
    return total


def distance(
    a: Sequence[jax.Array],
    b: Sequence[jax.Array],
    weights: Sequence[jax.Array] | None = None,
    eps: float = 1e-10,
) -> jax.Array:
    """Perceptual distance in the LPIPS form (Zhang et al. 2018, eq. 1).

    Each map's vectors are scaled to unit length over the channels, the squared difference is weighted by
    channel, summed over channels, averaged over space, and the levels are summed.

    Args:
        a: Feature maps [B, h, w, c] of one set of images, from fine to coarse.
        b: The maps of the other images, with the same shapes.
        weights: Channel weights [c] for each map; ones without.
        eps: Added to each squared length.

    Returns:
        Distances [B], 0 for equal features. Without weights each level lies in [0, 4].

    Raises:
        ValueError: The lists have different lengths.
    """
    return distance_between_normalised(normalised(a, eps), normalised(b, eps), weights)
