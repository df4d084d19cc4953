"""The way back from pixels to directions: the inverse of `splat.lenses`, for every lens by Newton's method."""

import jax
import jax.numpy as jnp

from splat import Cameras
from splat.lenses import image_points


_STEPS = 12
# Pixels: a direction whose image is farther than this from where it should be was not found.
_CLOSE = 0.1
# Fisheye lenses: the search stays this far from 90 degrees, in radians, where slopes are infinite.
_WIDEST = 1.5


@jax.jit
def pixel_rays(cameras: Cameras) -> tuple[jax.Array, jax.Array]:
    """Directions of all pixel centres.

    Args:
        cameras: V pinhole or fisheye cameras.

    Returns:
        Directions [V, H * W, 3] in the space of each camera, with z = 1 for pinhole cameras and of length 1 for
        fisheye cameras; found [V, H * W] bool: elsewhere the lens shows nothing and the direction means nothing.
    """
    column, row = jnp.meshgrid(jnp.arange(cameras.width) + 0.5, jnp.arange(cameras.height) + 0.5)
    column, row = column.reshape(1, -1), row.reshape(1, -1)
    focal = cameras.intrinsics[:, 0, 0, None], cameras.intrinsics[:, 1, 1, None]
    x, y = (column - cameras.intrinsics[:, 0, 2, None]) / focal[0], (row - cameras.intrinsics[:, 1, 2, None]) / focal[1]
    fisheye = cameras.model == "fisheye"
    if fisheye:
        angle = jnp.hypot(x, y)
        stretch = jnp.tan(jnp.minimum(angle, _WIDEST)) / jnp.maximum(angle, 1e-6)
        stretch = jnp.where(angle < 1e-3, 1.0, stretch)
        x, y = x * stretch, y * stretch
    ones = jnp.ones_like(x)

    def improve(_, slopes: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, y = slopes
        image = image_points(cameras, x, y, ones)
        (a, b, _), (c, d, _) = image.row_u, image.row_v
        right, down = column - image.u, row - image.v
        determinant = a * d - b * c
        dx, dy = (d * right - b * down) / determinant, (a * down - c * right) / determinant
        # Where the lens folds the step means nothing: such pixels stay where they are and fail the test below.
        usable = image.seen & jnp.isfinite(dx) & jnp.isfinite(dy)
        # A step across the picture's half would overshoot: slopes grow without bound towards 90 degrees.
        longest = 0.5 * (1.0 + jnp.hypot(x, y))
        shorten = jnp.where(usable, jnp.minimum(1.0, longest / jnp.maximum(jnp.hypot(dx, dy), 1e-12)), 0.0)
        return x + jnp.where(usable, dx, 0.0) * shorten, y + jnp.where(usable, dy, 0.0) * shorten

    x, y = jax.lax.fori_loop(0, _STEPS, improve, (x, y))
    image = image_points(cameras, x, y, ones)
    found = image.seen & (jnp.hypot(image.u - column, image.v - row) < _CLOSE)
    directions = jnp.stack([x, y, ones], axis=-1)
    if fisheye:
        directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    return directions, found
