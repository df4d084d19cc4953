"""The z-order of gaussians in files that compress neighbours together."""

import numpy as np
from jaxtyping import Float, Int


_BITS = 16


def z_order(means: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Permutation along the z-order curve of the bounding box, 16 bits an axis; equal codes keep their order.

    Args:
        means: [N, 3] finite positions.

    Returns:
        [N] integers.
    """
    low = means.min(axis=0, initial=np.inf).astype(np.float64)
    side = means.max(axis=0, initial=-np.inf) - low
    cells = (means - low[None]) / np.where(side > 0, side, 1.0)[None] * ((1 << _BITS) - 1)
    codes = np.zeros(len(means), np.uint64)
    for axis in range(3):
        codes |= _spread(cells[:, axis].astype(np.uint64)) << np.uint64(axis)
    return np.argsort(codes, kind="stable")


def _spread(values: np.ndarray) -> np.ndarray:
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
