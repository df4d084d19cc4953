"""The gaussians of a scene."""

import flax.struct
import jax
import jax.numpy as jnp


# The gradient to a quaternion grows as one over its length: shorter ones would leave float32.
MIN_QUATERNION = 1e-32


@flax.struct.dataclass
class Gaussians:
    """N anisotropic gaussians.

    Attributes:
      means: [N, 3] world positions.
      quats: [N, 4] rotations, wxyz, of any length above zero.
      log_scales: [N, 3] natural logarithm of the standard deviation along each own axis.
      opacity_logits: [N]; opacity = sigmoid(logit).
      sh: [N, K, 3] spherical-harmonics coefficients, K = (degree + 1)^2, degree 0 to 4;
        colour = max(0, 0.5 + sum of coefficients times basis).
    """

    means: jax.Array
    quats: jax.Array
    log_scales: jax.Array
    opacity_logits: jax.Array
    sh: jax.Array

    def __len__(self) -> int:
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return {1: 0, 4: 1, 9: 2, 16: 3, 25: 4}[self.sh.shape[-2]]

    @property
    def scales(self) -> jax.Array:
        """Standard deviations [N, 3]."""
        return jnp.exp(self.log_scales)

    @property
    def opacities(self) -> jax.Array:
        """Opacities [N] in (0, 1)."""
        return jax.nn.sigmoid(self.opacity_logits)


def usable(gaussians: Gaussians) -> jax.Array:
    """[N] bool: every number finite and the quaternion not zero (no entry above `MIN_QUATERNION`)."""
    finite = jnp.isfinite(gaussians.opacity_logits) & jnp.all(jnp.isfinite(gaussians.sh), axis=(-2, -1))
    for leaf in (gaussians.means, gaussians.quats, gaussians.log_scales):
        finite &= jnp.all(jnp.isfinite(leaf), axis=-1)
    return finite & jnp.any(jnp.abs(gaussians.quats) > MIN_QUATERNION, axis=-1)


def replace_unused(gaussians: Gaussians, used: jax.Array) -> Gaussians:
    """Puts harmless numbers into rows where `used` [N] is False, so that nothing there reaches a gradient."""

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
