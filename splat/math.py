"""Small numerical helpers whose values and gradients stay finite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from splat.typing import AnyArray


def safe_normalize(vector: Float[Array, "*batch D"], eps: float = 1e-20) -> Float[Array, "*batch D"]:
    """Scales vectors to length one; vectors of at most sqrt(eps) become zeros with zero gradient.

    Args:
        vector: [..., D].
        eps: Largest squared length that does not count as a direction.

    Returns:
        [..., D], of length one or zero.
    """
    squared = jnp.sum(vector * vector, axis=-1, keepdims=True)
    usable = squared > eps
    return jnp.where(usable, vector * jax.lax.rsqrt(jnp.where(usable, squared, 1.0)), 0.0)


def safe_divide(
    numerator: Float[Array, "*shape"], denominator: Float[Array, "*shape"], eps: float = 1e-10
) -> Float[Array, "*shape"]:
    """Divides where the denominator exceeds `eps`.

    Args:
        numerator: Any shape.
        denominator: The same shape.
        eps: Largest denominator that counts as zero.

    Returns:
        The quotient, 0 with zero gradient elsewhere.
    """
    usable = denominator > eps
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), 0.0)


def safe_sqrt(values: Float[Array, "*shape"], eps: float = 1e-12) -> Float[Array, "*shape"]:
    """Takes the square root where it has a finite gradient.

    Args:
        values: Any shape.
        eps: Largest value that counts as zero.

    Returns:
        The root, 0 with zero gradient where a value is at most `eps`.
    """
    usable = values > eps
    return jnp.where(usable, jnp.sqrt(jnp.where(usable, values, 1.0)), 0.0)


def quaternion_to_rotation(quats: Float[AnyArray, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Converts quaternions to rotation matrices.

    Args:
        quats: [..., 4], wxyz, of any length above zero.

    Returns:
        [..., 3, 3].
    """
    quats = jnp.asarray(quats)
    # A power of two brings the largest component near 1 first: squares of tiny or huge entries leave float32.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(quats), axis=-1, keepdims=True))
    w, x, y, z = jnp.moveaxis(safe_normalize(quats / jnp.where(largest > 0.0, largest, 1.0)), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def inverse_3x3(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """Inverts matrices by cofactors; differentiable.

    Args:
        matrix: [..., 3, 3]; a singular one gives infinities or NaN.

    Returns:
        [..., 3, 3].
    """
    a, b, c = jnp.moveaxis(matrix, -2, 0)
    cofactors = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
    determinant = jnp.sum(a * jnp.cross(b, c), axis=-1)
    return cofactors / determinant[..., None, None]
