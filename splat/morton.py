"""Morton (z-order) sorting of gaussians: neighbours in space become neighbours in memory."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from splat.typing import AnyArray


BITS, _FILE_BITS = 10, 16

# One more than the largest code: rows that are not sorted come last.
NOWHERE = 1 << (3 * BITS)

# Points in a smaller cube count as one: the reciprocal of its side would leave float32.
MIN_SIDE = 1e-30


def _spread(values: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Ten-bit integers with two zero bits before each bit: b9..b0 becomes 00b9 .. 00b0."""
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        values = (values | (values << shift)) & jnp.uint32(mask)
    return values


@jax.jit
def morton_codes(means: Float[AnyArray, "N 3"], active: Bool[AnyArray, "N"] | None = None) -> UInt32[Array, "N"]:
    """Morton codes of points in their bounding cube: ten bits an axis, x the highest of each three.

    Args:
        means: [N, 3] positions.
        active: [N] bool, the points to sort; None for all.

    Returns:
        [N] uint32 below 2^30; 2^30 for points that are not finite or not active.
    """
    means = jnp.asarray(means)
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


@jax.jit
def morton_order(means: Float[AnyArray, "N 3"], active: Bool[AnyArray, "N"] | None = None) -> Int[Array, "N"]:
    """Permutation that sorts points along the z-order curve; equal codes keep their order.

    Gather every array with a row for each gaussian by it, the optimizer's moments and masks included.

    Args:
        means: [N, 3] positions.
        active: [N] bool, the points to sort; the others go to the end. None for all.

    Returns:
        [N] integers.
    """
    return jnp.argsort(morton_codes(means, active), stable=True)


def z_order(means: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Permutation along the z-order curve of the bounding box: 16 bits an axis, x the lowest; equal codes keep order.

    For files, in numpy: the ten bits of `morton_codes` leave few cells to a scene in whose box strays lie far away.

    Args:
        means: [N, 3] finite positions.

    Returns:
        [N] integers.
    """
    low = means.min(axis=0, initial=np.inf).astype(np.float64)
    side = means.max(axis=0, initial=-np.inf) - low
    cells = (means - low[None]) / np.where(side > 0, side, 1.0)[None] * ((1 << _FILE_BITS) - 1)
    codes = np.zeros(len(means), np.uint64)
    for axis in range(3):
        codes |= _spread_wide(cells[:, axis].astype(np.uint64)) << np.uint64(axis)
    return np.argsort(codes, kind="stable")


def _spread_wide(values: np.ndarray) -> np.ndarray:
    """16-bit integers with two zero bits before each bit."""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values
