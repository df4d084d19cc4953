"""Adaptive density control under a static capacity: clone, split and prune with a mask of active slots.

The default strategy of 3D Gaussian Splatting (Kerbl et al. 2023, section 5), as pure functions: arrays keep
their length N, a boolean `active` [N] says which rows exist, and a new gaussian takes a free row.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from splat.gaussians import Gaussians
from splat.math import quaternion_to_rotation


# Two children of one gaussian are each smaller by 0.8 times their number (Kerbl et al.'s code).
SPLIT_SHRINK = 1.6


@dataclasses.dataclass(frozen=True)
class DensityConfig:
    """Rules of one call of `densify`.

    Attributes:
        gradient_threshold: Mean screen-space gradient above which a gaussian grows, in units of half the
            image per view (2e-4 in 3DGS). It scales with the loss; 0 leaves the choice to `growth`.
        growth: At most this share of the active gaussians grows in one call: the largest gradients.
        split_scale: Gaussians whose largest standard deviation exceeds this share of the extent are split,
            the others cloned.
        min_opacity: Gaussians below are removed.
        max_scale: Gaussians whose largest standard deviation exceeds this share of the extent are removed.
    """

    gradient_threshold: float = 2e-4
    growth: float = 1.0
    split_scale: float = 0.01
    min_opacity: float = 0.005
    max_scale: float = float("inf")


@flax.struct.dataclass
class DensityStatistics:
    """Screen-space gradients since the last call of `densify`.

    Attributes:
        gradients: [N] sum of the gradient lengths over the views that saw the gaussian.
        counts: [N] number of those views.
    """

    gradients: jax.Array
    counts: jax.Array


@flax.struct.dataclass
class Densified:
    """Result of `densify`.

    Attributes:
        gaussians: N rows, some replaced.
        active: [N] bool.
        fresh: [N] bool, rows that hold another gaussian than before: their optimizer moments must be zeroed.
    """

    gaussians: Gaussians
    active: jax.Array
    fresh: jax.Array


def no_statistics(count: int) -> DensityStatistics:
    """Statistics of `count` gaussians before the first step."""
    return DensityStatistics(jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.float32))


def accumulate(
    statistics: DensityStatistics, gradients: jax.Array, visible: jax.Array, width: int, height: int
) -> DensityStatistics:
    """Adds the views of one step.

    Args:
        statistics: So far.
        gradients: [V, N, 2] gradient of the loss, a mean over the V views, to the projected means in pixels.
        visible: [V, N] bool, the gaussian touches a pixel of the view.
        width: Of the images, in pixels.
        height: Of the images, in pixels.
    """
    views = gradients.shape[0]
    scale = jnp.asarray([0.5 * width * views, 0.5 * height * views], jnp.float32)[None, None]
    lengths = jnp.sqrt(jnp.sum(jnp.square(gradients * scale), axis=-1))
    return DensityStatistics(
        gradients=statistics.gradients + jnp.sum(jnp.where(visible, lengths, 0.0), axis=0),
        counts=statistics.counts + jnp.sum(visible, axis=0, dtype=jnp.float32),
    )


def densify(
    key: jax.Array,
    gaussians: Gaussians,
    active: jax.Array,
    statistics: DensityStatistics,
    config: DensityConfig,
    extent: float | jax.Array = 1.0,
) -> Densified:
    """Removes faint and huge gaussians, then clones or splits those with large screen-space gradients.

    Where free rows or the growth limit do not suffice, the largest gradients come first.

    Args:
        key: For the places of split gaussians.
        gaussians: N rows.
        active: [N] bool.
        statistics: Since the last call.
        config: The rules.
        extent: Size of the scene in world units, to which the scales are compared.

    Returns:
        `Densified`, with at most N active rows by construction.
    """
    largest = jnp.exp(jnp.max(gaussians.log_scales, axis=-1))
    faint = jax.nn.sigmoid(gaussians.opacity_logits) < config.min_opacity
    active = active & ~faint & ~(largest > config.max_scale * extent)

    mean_gradient = statistics.gradients / jnp.maximum(statistics.counts, 1.0)
    candidate = active & (mean_gradient > config.gradient_threshold) & (statistics.counts > 0)
    order = jnp.argsort(jnp.where(candidate, -mean_gradient, jnp.inf))
    rank = jnp.argsort(order)
    allowed = jnp.floor(config.growth * jnp.sum(active)).astype(jnp.int32)
    births = jnp.minimum(jnp.minimum(jnp.sum(candidate), jnp.sum(~active)), allowed)
    parent = candidate & (rank < births)

    # The k-th free row takes the child of the k-th parent: gathers only, no scatter.
    free_rank = jnp.cumsum(~active) - 1
    born = ~active & (free_rank < births)
    source = jnp.where(born, order[jnp.clip(free_rank, 0, len(order) - 1)], jnp.arange(len(order)))
    split = (parent & (largest > config.split_scale * extent))[source] & (born | parent)

    moved = jax.tree.map(lambda leaf: leaf[source], gaussians)
    axes = jnp.exp(moved.log_scales) * jax.random.normal(key, moved.means.shape)
    rotation = quaternion_to_rotation(moved.quats)
    shift = jnp.einsum("nij,nj->ni", rotation, axes, precision="highest")
    moved = moved.replace(
        means=moved.means + jnp.where(split[:, None], shift, 0.0),
        log_scales=moved.log_scales - jnp.where(split, jnp.log(SPLIT_SHRINK), 0.0)[:, None],
    )
    return Densified(moved, active | born, born | split)


def reset_opacities(opacity_logits: jax.Array, ceiling: float = 0.01) -> jax.Array:
    """Logits lowered to at most that of `ceiling`: those that are not needed stay faint."""
    return jnp.minimum(opacity_logits, jnp.log(ceiling / (1.0 - ceiling)))
