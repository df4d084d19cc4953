"""Small numerical helpers whose values and gradients stay finite."""

import jax
import jax.numpy as jnp


def safe_normalize(vector: jax.Array, eps: float = 1e-20) -> jax.Array:
    """Scales vectors to length one; vectors shorter than sqrt(eps) come back as zeros with zero gradient.

    Args:
      vector: [..., D].
      eps: smallest squared length that counts as a direction.

    Returns:
      [..., D], of length one or zero.
    """
    squared = jnp.sum(vector * vector, axis=-1, keepdims=True)
    usable = squared > eps
    return jnp.where(usable, vector * jax.lax.rsqrt(jnp.where(usable, squared, 1.0)), 0.0)


def safe_divide(numerator: jax.Array, denominator: jax.Array, eps: float = 1e-10) -> jax.Array:
    """numerator / denominator where denominator > eps, else 0; no NaN in the gradient either."""
    usable = denominator > eps
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), 0.0)


def safe_sqrt(values: jax.Array, eps: float = 1e-12) -> jax.Array:
    """Square root of values above eps, else 0 with zero gradient."""
    usable = values > eps
    return jnp.where(usable, jnp.sqrt(jnp.where(usable, values, 1.0)), 0.0)


def quaternion_to_rotation(quats: jax.Array) -> jax.Array:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] in wxyz order; they need not be of length one."""
    # A power of two brings the largest component near 1 first: squares of tiny or huge entries leave float32.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(quats), axis=-1, keepdims=True))
    w, x, y, z = jnp.moveaxis(safe_normalize(quats / jnp.where(largest > 0.0, largest, 1.0)), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def inverse_3x3(matrix: jax.Array) -> jax.Array:
    """Inverse of [..., 3, 3] by cofactors, differentiable; a singular matrix gives inf or NaN."""
    a, b, c = jnp.moveaxis(matrix, -2, 0)
    cofactors = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
    determinant = jnp.sum(a * jnp.cross(b, c), axis=-1)
    return cofactors / determinant[..., None, None]
