"""Morton (z-order) sorting of gaussians: rows that are near in space come near in memory."""

import jax
import jax.numpy as jnp


BITS = 10

# One more than the largest code: rows without a place come last.
NOWHERE = 1 << (3 * BITS)

# Points in a smaller cube count as one: the reciprocal of its side would leave float32.
MIN_SIDE = 1e-30


def _spread(values: jax.Array) -> jax.Array:
    """Ten-bit integers with two zero bits before each bit: b9..b0 becomes 00b9 .. 00b0."""
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        values = (values | (values << shift)) & jnp.uint32(mask)
    return values


def morton_codes(means: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Morton codes of points in the cube that holds them: ten bits an axis, x the highest of each three.

    Args:
        means: [N, 3] positions.
        active: [N] bool, the points that count; all without it.

    Returns:
        [N] uint32 below 2^30; 2^30 for points that are not finite or not active.
    """
    placed = jnp.all(jnp.isfinite(means), axis=-1)
    if active is not None:
        placed &= active
    # Differences of finite float32 need not be finite, nor the reciprocal of a huge one a normal number.
    means = jnp.where(placed[:, None], 2.0**-8 * means, 0.0)
    low = jnp.min(jnp.where(placed[:, None], means, jnp.inf), axis=0, initial=jnp.inf)
    high = jnp.max(jnp.where(placed[:, None], means, -jnp.inf), axis=0, initial=-jnp.inf)
    side = jnp.max(high - low)
    cells = (means - low[None]) / jnp.where(side > MIN_SIDE, side, 1.0) * (1 << BITS)
    cells = jnp.where(placed[:, None], jnp.clip(cells, 0, (1 << BITS) - 1), 0.0)
    x, y, z = _spread(cells.astype(jnp.uint32)).T
    return jnp.where(placed, (x << 2) | (y << 1) | z, jnp.uint32(NOWHERE))


def morton_order(means: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Permutation [N] that sorts points along the z-order curve; equal codes keep their order.

    Gather every array that has a row for each gaussian with it, the optimizer's moments and masks included.

    Args:
        means: [N, 3] positions.
        active: [N] bool, the points that count; the others go behind them. All count without it.
    """
    return jnp.argsort(morton_codes(means, active), stable=True)
