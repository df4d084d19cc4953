"""The gaussians of a scene."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splat.typing import LeafArray, Placeholder


# The gradient to a quaternion grows as one over its length: shorter ones would leave float32.
MIN_QUATERNION = 1e-32


class Gaussians(flax.struct.PyTreeNode):
    """N anisotropic gaussians; leading axes are scenes.

    Attributes:
        means: [..., N, 3] world positions.
        quats: [..., N, 4] rotations, wxyz, of any length above zero.
        log_scales: [..., N, 3] natural logarithm of the standard deviation along each own axis, in world units.
        opacity_logits: [..., N]; opacity = sigmoid(logit).
        sh: [..., N, K, 3] spherical-harmonics coefficients, K = (degree + 1)^2, degree 0 to 4;
            colour = max(0, 0.5 + sum of coefficients times basis).
    """

    means: Float[LeafArray, "*scenes N 3"] | Placeholder
    quats: Float[LeafArray, "*scenes N 4"] | Placeholder
    log_scales: Float[LeafArray, "*scenes N 3"] | Placeholder
    opacity_logits: Float[LeafArray, "*scenes N"] | Placeholder
    sh: Float[LeafArray, "*scenes N K 3"] | Placeholder

    def __len__(self) -> int:
        """Gaussians of one scene, N."""
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return {1: 0, 4: 1, 9: 2, 16: 3, 25: 4}[self.sh.shape[-2]]

    @property
    def scales(self) -> Float[Array, "*scenes N 3"]:
        """Standard deviations [..., N, 3] in world units."""
        return jnp.exp(self.log_scales)

    @property
    def opacities(self) -> Float[Array, "*scenes N"]:
        """Opacities [..., N] in [0, 1]."""
        return jax.nn.sigmoid(self.opacity_logits)


def usable(gaussians: Gaussians) -> Bool[Array, "*scenes N"]:
    """Finds the gaussians that can be drawn.

    Args:
        gaussians: N rows.

    Returns:
        [..., N] bool: every number is finite, and some entry of the quaternion exceeds `MIN_QUATERNION` in magnitude.
    """
    finite = jnp.isfinite(gaussians.opacity_logits) & jnp.all(jnp.isfinite(gaussians.sh), axis=(-2, -1))
    for leaf in (gaussians.means, gaussians.quats, gaussians.log_scales):
        finite &= jnp.all(jnp.isfinite(leaf), axis=-1)
    return finite & jnp.any(jnp.abs(gaussians.quats) > MIN_QUATERNION, axis=-1)


def replace_unused(gaussians: Gaussians, used: Bool[Array, "N"]) -> Gaussians:
    """Puts harmless numbers into unused rows, so that no broken number reaches a gradient.

    Args:
        gaussians: N rows of one scene.
        used: [N] bool, rows to keep.

    Returns:
        N rows.
    """

    def pick(leaf: jax.Array, filler: float) -> jax.Array:
        mask = used.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.where(mask, leaf, filler)

    return Gaussians(
        means=pick(gaussians.means, 0.0),
        quats=pick(gaussians.quats, 0.5),
        log_scales=pick(gaussians.log_scales, 0.0),
        opacity_logits=pick(gaussians.opacity_logits, 0.0),
        sh=pick(gaussians.sh, 0.0),
    )
