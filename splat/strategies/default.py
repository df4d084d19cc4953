"""The default strategy of 3D Gaussian Splatting: clone, split, prune and reset opacities.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), section 5, under a static capacity.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splat.gaussians import Gaussians
from splat.math import quaternion_to_rotation
from splat.strategies.base import Refined, ScreenStatistics, Strategy
from splat.typing import Scalar


# Two children of one gaussian are each smaller by 0.8 times their number (Kerbl et al.'s code).
SPLIT_SHRINK = 1.6


@dataclasses.dataclass(frozen=True)
class DefaultStrategy(Strategy):
    """Clones or splits gaussians with large screen-space gradients, removes faint and huge ones.

    Attributes:
        name: "default".
        gradient_threshold: Mean screen-space gradient above which a gaussian grows, in units of half the image per
            view (2e-4 in 3DGS). It scales with the loss; 0 leaves the choice to `growth`.
        growth: At most this share of the active gaussians grows in one refinement: the largest gradients.
        split_scale: Gaussians whose largest standard deviation exceeds this share of the extent are split, the
            others cloned.
        min_opacity: Gaussians below are removed, in [0, 1].
        max_scale: Gaussians whose largest standard deviation exceeds this share of the extent are removed.
        reset_every: Steps between two opacity resets; 0 for none.
        reset_opacity: Opacities are lowered to at most this value in a reset, in (0, 1).
    """

    name: Literal["default"] = dataclasses.field(default="default", init=False)
    gradient_threshold: float = 2e-4
    growth: float = 1.0
    split_scale: float = 0.01
    min_opacity: float = 0.005
    max_scale: float = float("inf")
    reset_every: int = 0
    reset_opacity: float = 0.01

    def init_statistics(self, count: int) -> ScreenStatistics:
        """Statistics of N = `count` gaussians before the first step."""
        return ScreenStatistics(jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.float32))

    def accumulate(
        self,
        statistics: ScreenStatistics,
        gradients: Float[Array, "V N 2"],
        visible: Bool[Array, "V N"],
        width: int,
        height: int,
    ) -> ScreenStatistics:
        """Adds the lengths of the screen-space gradients of one step's views, see `Strategy.accumulate`."""
        views = gradients.shape[0]
        scale = jnp.asarray([0.5 * width * views, 0.5 * height * views], jnp.float32)[None, None]
        lengths = jnp.sqrt(jnp.sum(jnp.square(gradients * scale), axis=-1))
        return ScreenStatistics(
            gradients=statistics.gradients + jnp.sum(jnp.where(visible, lengths, 0.0), axis=0),
            counts=statistics.counts + jnp.sum(visible, axis=0, dtype=jnp.float32),
        )

    def refine(
        self,
        key: PRNGKeyArray,
        gaussians: Gaussians,
        active: Bool[Array, "N"],
        statistics: ScreenStatistics | None,
        extent: Scalar = 1.0,
    ) -> Refined:
        """Removes faint and huge gaussians, then clones or splits those with large screen-space gradients.

        Where free rows or the growth limit do not suffice, the largest gradients come first.

        Args:
            key: PRNG key for the places of split gaussians.
            gaussians: N rows.
            active: [N] bool.
            statistics: Since the last call.
            extent: Size of the scene in world units, to which the scales are compared.

        Returns:
            `Refined`, with at most N active rows by construction.

        Raises:
            ValueError: There are no statistics.
        """
        if statistics is None:
            raise ValueError("DefaultStrategy.refine got no statistics; expected those of init_statistics, accumulated")
        largest = jnp.exp(jnp.max(gaussians.log_scales, axis=-1))
        faint = jax.nn.sigmoid(gaussians.opacity_logits) < self.min_opacity
        active = active & ~faint & ~(largest > self.max_scale * extent)

        mean_gradient = statistics.gradients / jnp.maximum(statistics.counts, 1.0)
        candidate = active & (mean_gradient > self.gradient_threshold) & (statistics.counts > 0)
        order = jnp.argsort(jnp.where(candidate, -mean_gradient, jnp.inf))
        rank = jnp.argsort(order)
        allowed = jnp.floor(self.growth * jnp.sum(active)).astype(jnp.int32)
        births = jnp.minimum(jnp.minimum(jnp.sum(candidate), jnp.sum(~active)), allowed)
        parent = candidate & (rank < births)

        # The k-th free row takes the child of the k-th parent: gathers only, no scatter.
        free_rank = jnp.cumsum(~active) - 1
        born = ~active & (free_rank < births)
        source = jnp.where(born, order[jnp.clip(free_rank, 0, len(order) - 1)], jnp.arange(len(order)))
        split = (parent & (largest > self.split_scale * extent))[source] & (born | parent)

        moved = jax.tree.map(lambda leaf: leaf[source], gaussians)
        axes = jnp.exp(moved.log_scales) * jax.random.normal(key, moved.means.shape)
        rotation = quaternion_to_rotation(moved.quats)
        shift = jnp.einsum("nij,nj->ni", rotation, axes, precision="highest")
        moved = moved.replace(
            means=moved.means + jnp.where(split[:, None], shift, 0.0),
            log_scales=moved.log_scales - jnp.where(split, jnp.log(SPLIT_SHRINK), 0.0)[:, None],
        )
        return Refined(moved, active | born, born | split)

    def resets_opacities(self, step: int) -> bool:
        """Whether `step` is a positive multiple of `reset_every`."""
        return self.reset_every > 0 and step > 0 and step % self.reset_every == 0

    def reset_opacities(self, opacity_logits: Float[Array, "N"]) -> Float[Array, "N"]:
        """Logits [N] lowered to at most that of `reset_opacity`: gaussians that are not needed stay faint."""
        return jnp.minimum(opacity_logits, jnp.log(self.reset_opacity / (1.0 - self.reset_opacity)))
