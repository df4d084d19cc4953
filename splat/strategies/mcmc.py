"""Gaussians as samples of a Markov chain: relocation, growth, noise and regularizers under a static capacity.

The strategy of "3D Gaussian Splatting as Markov Chain Monte Carlo" (Kheradmand et al. 2024, arXiv 2404.09591). Nothing
is pruned: a gaussian that has become transparent moves onto a visible one, and all copies of a gaussian get a lower
opacity and another size, so that together they draw what it drew alone.
"""

import dataclasses
import math
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splat.gaussians import Gaussians, usable
from splat.math import quaternion_to_rotation
from splat.strategies.base import Refined, ScreenStatistics, Strategy
from splat.typing import LeafArray, Placeholder, Scalar


# Nodes of a trapezoid rule whose relative error against the binomial sum of eq. 9 is below 5e-9.
QUADRATURE_STEP = 0.25
QUADRATURE_NODES = 20

# sigmoid(16) is 1 to float32's rounding: beyond it the optical depth has no meaning in a render.
MAX_LOGIT = 16.0

# Above exp(20) a standard deviation is a runaway; its exponential must not overflow the loss.
MAX_LOG_SCALE = 20.0


class Shares(flax.struct.PyTreeNode):
    """Opacity and size of each of several copies of one gaussian.

    Attributes:
        opacity_logits: [N] of one copy.
        log_scale_shift: [N] to add to its three log_scales.
    """

    opacity_logits: Float[LeafArray, "N"] | Placeholder
    log_scale_shift: Float[LeafArray, "N"] | Placeholder


def share(opacity_logits: Float[Array, "N"], copies: Int[Array, "N"]) -> Shares:
    """Computes opacity and size with which `copies` gaussians at one place draw what one drew (eq. 9 of the paper).

    A copy's opacity is x = 1 - (1 - o)^(1/n), which keeps the opacity at the centre; its scale is multiplied by
    o / sum_{i=1..n} sum_{k=0..i-1} C(i-1, k) (-1)^k x^(k+1) / sqrt(k+1), which keeps the integral of the opacity along
    a line through it. That alternating sum loses all of float32 beyond about 50 copies. It is the integral of
    1 - (1 - x exp(-t^2))^n over t / sqrt(pi), whose terms are positive and which the trapezoid rule gives to rounding
    for any number of copies.

    Args:
        opacity_logits: [N], any value but NaN; treated as within ±`MAX_LOGIT`.
        copies: [N] integers of at least 1, the gaussian itself included; rows with 1 do not change.

    Returns:
        `Shares`.
    """
    several = copies > 1
    count = jnp.maximum(copies, 1).astype(jnp.float32)
    depth = jax.nn.softplus(jnp.clip(opacity_logits, -MAX_LOGIT, MAX_LOGIT))  # -log(1 - o)
    each = depth / count
    opacity = -jnp.expm1(-each)
    logits = jnp.log(opacity) + each

    nodes = QUADRATURE_STEP * np.arange(QUADRATURE_NODES)
    weights = np.full(QUADRATURE_NODES, QUADRATURE_STEP * 2.0 / math.sqrt(math.pi))
    weights[0] *= 0.5
    profile = jnp.asarray(np.exp(-(nodes**2)), jnp.float32)[None]
    covered = -jnp.expm1(count[:, None] * jnp.log1p(-opacity[:, None] * profile))
    integral = jnp.sum(covered * jnp.asarray(weights, jnp.float32)[None], axis=-1)
    shift = jnp.log(-jnp.expm1(-depth)) - jnp.log(integral)
    return Shares(jnp.where(several, logits, opacity_logits), jnp.where(several, shift, 0.0))


def _draw(key: PRNGKeyArray, weights: Float[Array, "N"]) -> Int[Array, "N"]:
    """N row numbers with replacement, in proportion to `weights` [N] in [0, 1]; rows of weight 0 never come.

    The weights become integers: a float32 running sum over a million rows would not resolve the faint ones, and
    would differ between devices.
    """
    count = len(weights)
    steps = (2**31 - 1) // max(count, 1) - 1
    # Floats near 2^31 are coarse: 24 bits are all that a float32 weight has.
    steps = min(steps, 2**24)
    parts = jnp.where(weights > 0, jnp.maximum(jnp.floor(weights * steps), 1.0), 0.0).astype(jnp.int32)
    ends = jnp.cumsum(parts)
    spots = jax.random.randint(key, (count,), 0, jnp.maximum(jnp.max(ends, initial=0), 1))
    return jnp.minimum(jnp.searchsorted(ends, spots, side="right"), count - 1)


def mean_opacity(gaussians: Gaussians, active: Bool[Array, "N"]) -> Float[Array, ""]:
    """Mean opacity [] of the N active gaussians, in [0, 1]; 0 where none is active."""
    opacities = jax.nn.sigmoid(jnp.where(active, gaussians.opacity_logits, 0.0))
    return jnp.sum(jnp.where(active, opacities, 0.0)) / jnp.maximum(jnp.sum(active), 1)


def mean_scale(gaussians: Gaussians, active: Bool[Array, "N"]) -> Float[Array, ""]:
    """Mean standard deviation [] over the axes of the N active gaussians, in world units; 0 where none is active."""
    log_scales = jnp.where(active[:, None], gaussians.log_scales, 0.0)
    scales = jnp.exp(jnp.minimum(log_scales, MAX_LOG_SCALE))
    return jnp.sum(jnp.where(active[:, None], scales, 0.0)) / jnp.maximum(3 * jnp.sum(active), 1)


@dataclasses.dataclass(frozen=True)
class McmcStrategy(Strategy):
    """Relocates transparent gaussians, grows up to a cap and explores with noise; the defaults are the paper's.

    Attributes:
        name: "mcmc".
        cap: Most gaussians that `grow` makes, at least 1; None leaves it to the capacity.
        growth: Share of the active gaussians that one call of `grow` adds, at least 0.
        min_opacity: Gaussians at or below are dead and move, in (0, 1).
        noise: Factor of the learning rate of the means in the noise, in 1 / world units.
        gate_steepness: k of the gate of the noise.
        gate_transparency: t of it: half of the noise reaches gaussians of opacity 1 - t, hardly any the opaque.
        opacity_weight: Weight of the mean opacity in `regularizer`.
        scale_weight: Weight of the mean standard deviation in `regularizer`, in 1 / world units.

    Raises:
        ValueError: A cap below 1, a negative growth or a minimal opacity outside (0, 1).
    """

    name: Literal["mcmc"] = dataclasses.field(default="mcmc", init=False)
    cap: int | None = None
    growth: float = 0.05
    min_opacity: float = 0.005
    noise: float = 5e5
    gate_steepness: float = 100.0
    gate_transparency: float = 0.995
    opacity_weight: float = 0.01
    scale_weight: float = 0.01

    def __post_init__(self):
        if (self.cap is not None and self.cap < 1) or self.growth < 0 or not 0 < self.min_opacity < 1:
            raise ValueError(
                f"got cap={self.cap}, growth={self.growth}, min_opacity={self.min_opacity}; expected a cap of at "
                "least 1 (or None for the capacity), a growth of at least 0 and a minimal opacity in (0, 1)"
            )

    def relocate(self, key: PRNGKeyArray, gaussians: Gaussians, active: Bool[Array, "N"]) -> Refined:
        """Moves dead gaussians (transparent, or with a NaN or an infinity) onto living ones, drawn by opacity.

        Args:
            key: PRNG key for the draw.
            gaussians: N rows.
            active: [N] bool.

        Returns:
            `Refined` with the same active rows; fresh are the moved ones and those they moved onto. Nothing changes
            where no gaussian is alive.
        """
        alive = self._alive(gaussians, active)
        dead = active & ~alive & jnp.any(alive)
        moved, fresh = self._copy(key, gaussians, alive, dead)
        return Refined(moved, active, fresh)

    def grow(self, key: PRNGKeyArray, gaussians: Gaussians, active: Bool[Array, "N"]) -> Refined:
        """Adds a share of the active count as copies of the living, up to the cap and the capacity.

        Args:
            key: PRNG key for the draw.
            gaussians: N rows.
            active: [N] bool.

        Returns:
            `Refined`; the new gaussians take the first free rows. Fewer than 1 / growth gaussians do not grow.
        """
        count = jnp.sum(active, dtype=jnp.int32)
        cap = len(active) if self.cap is None else min(self.cap, len(active))
        target = jnp.minimum(count + jnp.floor(self.growth * count).astype(jnp.int32), cap)
        alive = self._alive(gaussians, active)
        free_rank = jnp.cumsum(~active) - 1
        born = ~active & (free_rank < target - count) & jnp.any(alive)
        grown, fresh = self._copy(key, gaussians, alive, born)
        return Refined(grown, active | born, fresh)

    def refine(
        self,
        key: PRNGKeyArray,
        gaussians: Gaussians,
        active: Bool[Array, "N"],
        statistics: ScreenStatistics | None = None,
        extent: Scalar = 1.0,
    ) -> Refined:
        """`relocate`, then `grow`.

        Args:
            key: PRNG key for the draws.
            gaussians: N rows.
            active: [N] bool.
            statistics: Not used.
            extent: Not used.

        Returns:
            `Refined`, with at most N active rows.
        """
        del statistics, extent
        first, second = jax.random.split(key)
        moved = self.relocate(first, gaussians, active)
        grown = self.grow(second, moved.gaussians, moved.active)
        return Refined(grown.gaussians, grown.active, moved.fresh | grown.fresh)

    def perturb(self, key: PRNGKeyArray, gaussians: Gaussians, learning_rate: Scalar) -> Float[Array, "N 3"]:
        """Means after one step of exploration: Sigma eta, as strong as the gaussian is transparent (section 3.1).

        mean + learning_rate * noise * sigmoid(k ((1 - o) - t)) * Sigma eta with eta ~ N(0, I) and Sigma the gaussian's
        covariance, so that the noise has covariance proportional to Sigma squared.

        Args:
            key: PRNG key, a new one each step.
            gaussians: N rows after the optimizer's step; rows with a NaN or an infinity stay.
            learning_rate: Learning rate of the means at this step, in world units.

        Returns:
            [N, 3].
        """
        gate = jax.nn.sigmoid(
            self.gate_steepness * (jax.nn.sigmoid(-gaussians.opacity_logits) - self.gate_transparency)
        )
        rotation = quaternion_to_rotation(gaussians.quats)
        eta = jax.random.normal(key, gaussians.means.shape)
        along = jnp.exp(2.0 * gaussians.log_scales) * jnp.einsum("nji,nj->ni", rotation, eta, precision="highest")
        shift = jnp.einsum("nij,nj->ni", rotation, along, precision="highest")
        moved = gaussians.means + (learning_rate * self.noise) * gate[:, None] * shift
        return jnp.where(jnp.all(jnp.isfinite(moved), axis=-1, keepdims=True), moved, gaussians.means)

    def regularizer(self, gaussians: Gaussians, active: Bool[Array, "N"]) -> Float[Array, ""]:
        """Weighted `mean_opacity` and `mean_scale` [], to add to the loss: what is not needed fades and shrinks."""
        return self.opacity_weight * mean_opacity(gaussians, active) + self.scale_weight * mean_scale(gaussians, active)

    def _alive(self, gaussians: Gaussians, active: Bool[Array, "N"]) -> Bool[Array, "N"]:
        return active & usable(gaussians) & (gaussians.opacities > self.min_opacity)

    def _copy(
        self, key: PRNGKeyArray, gaussians: Gaussians, source: Bool[Array, "N"], receives: Bool[Array, "N"]
    ) -> tuple[Gaussians, Bool[Array, "N"]]:
        """Fills the rows `receives` [N] with copies of rows `source` [N], drawn by opacity.

        Returns:
            The gaussians, and [N] bool: the rows that changed, receivers and givers.
        """
        rows = jnp.arange(len(receives))
        drawn = _draw(key, jnp.where(source, gaussians.opacities, 0.0))
        drawn = jnp.where(receives, drawn, rows)
        # Integers: the order in which a device adds them does not matter.
        copies = jnp.zeros(len(rows), jnp.int32).at[drawn].add(receives.astype(jnp.int32))
        gives = copies > 0
        shares = share(gaussians.opacity_logits, copies + 1)
        floor = math.log(self.min_opacity / (1.0 - self.min_opacity))
        shared = dataclasses.replace(
            gaussians,
            opacity_logits=jnp.where(gives, jnp.maximum(shares.opacity_logits, floor), gaussians.opacity_logits),
            log_scales=gaussians.log_scales + shares.log_scale_shift[:, None],
        )
        return jax.tree.map(lambda leaf: leaf[drawn], shared), gives | receives
