"""Camera models beyond the pinhole: where a point lands, and the derivative that carries ellipses there.

EWA splatting (Zwicker et al. 2001) needs nothing of a camera but the image point and its Jacobian at the
gaussian's mean. Both are given here in closed form for orthographic cameras, for OpenCV's rational and
tangential distortion, and for the equidistant fisheye with OpenCV's polynomial (Kannala and Brandt 2006).
Beyond the radius where a polynomial turns back, points would appear inside the image again: they count as
unseen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from splat.cameras import Cameras


class ImagePoints(NamedTuple):
    """Where points of camera space appear; every array is [V, N].

    Attributes:
      u, v: pixels.
      row_u, row_v: derivative of u and of v by (x, y, z), three arrays each, pixels per world unit.
      seen: whether the model maps the point at all.
    """

    u: jax.Array
    v: jax.Array
    row_u: tuple[jax.Array, jax.Array, jax.Array]
    row_v: tuple[jax.Array, jax.Array, jax.Array]
    seen: jax.Array


def image_points(cameras: Cameras, x: jax.Array, y: jax.Array, z: jax.Array) -> ImagePoints:
    """Projects points [V, N] of camera space (z > 0) by `cameras.model`."""
    fx, fy = cameras.intrinsics[:, 0, 0, None], cameras.intrinsics[:, 1, 1, None]
    cx, cy = cameras.intrinsics[:, 0, 2, None], cameras.intrinsics[:, 1, 2, None]
    if cameras.model == "orthographic":
        zero, one = jnp.zeros_like(x), jnp.ones_like(x)
        rows = (fx * one, zero, zero), (zero, fy * one, zero)
        return ImagePoints(fx * x + cx, fy * y + cy, *rows, jnp.ones_like(x, bool))
    if cameras.model == "fisheye":
        u, v, row_u, row_v, seen = _fisheye(x, y, z, _coefficients(cameras, 4))
    else:
        u, v, row_u, row_v, seen = _opencv(x, y, z, _coefficients(cameras, 8), cameras)
    return ImagePoints(fx * u + cx, fy * v + cy, tuple(fx * d for d in row_u), tuple(fy * d for d in row_v), seen)


def clamp_slope(
    slope: jax.Array, focal: jax.Array, centre: jax.Array, size: int, widen: float | jax.Array = 1.0
) -> jax.Array:
    """Clamps x/z to the image's own range and 0.3 of its half width beyond (gsplat 1.5.3), `widen` times."""
    margin = 0.3 * size / (2.0 * focal)
    return jnp.clip(slope, -(centre / focal + margin) * widen, ((size - centre) / focal + margin) * widen)


def _coefficients(cameras: Cameras, most: int) -> list[jax.Array]:
    """`most` columns [V, 1] of the distortion, zeros where it has fewer."""
    views = cameras.world_to_camera.shape[0]
    given = jnp.zeros((views, 0)) if cameras.distortion is None else cameras.distortion
    padded = jnp.concatenate([given, jnp.zeros((views, most - given.shape[-1]), given.dtype)], axis=-1)
    return [padded[:, i, None] for i in range(most)]


def _radial(k: list[jax.Array], squared: jax.Array) -> tuple[jax.Array, jax.Array]:
    """OpenCV's rational factor and its derivative by the squared radius."""
    k1, k2, _, _, k3, k4, k5, k6 = k
    top = 1.0 + squared * (k1 + squared * (k2 + squared * k3))
    bottom = 1.0 + squared * (k4 + squared * (k5 + squared * k6))
    factor = top / bottom
    top_slope = k1 + squared * (2.0 * k2 + squared * 3.0 * k3)
    bottom_slope = k4 + squared * (2.0 * k5 + squared * 3.0 * k6)
    return factor, (top_slope - factor * bottom_slope) / bottom


def _first_turn(grid: jax.Array, slope: jax.Array) -> jax.Array:
    """Largest grid value before which `slope` [V, G] stays positive: [V, 1], at most the grid's end."""
    turned = ~(slope > 0.0)  # a pole of the rational factor gives NaN or inf: it ends the range as well
    place = jnp.where(jnp.any(turned, axis=1), jnp.argmax(turned, axis=1), grid.shape[0])
    return jnp.where(place > 0, grid[jnp.maximum(place - 1, 0)], 0.0)[:, None]


def _opencv(x, y, z, k, cameras):
    grid = jnp.geomspace(1e-2, 1e3, 512)
    still = [jax.lax.stop_gradient(c) for c in k]
    factor, slope = _radial(still, (grid * grid)[None])
    limit = _first_turn(grid, factor + 2.0 * (grid * grid)[None] * slope)
    inverse_z = 1.0 / z
    u, v = x * inverse_z, y * inverse_z
    seen = u * u + v * v < limit * limit
    u, v = jnp.where(seen, u, 0.0), jnp.where(seen, v, 0.0)

    # A lens that squeezes sees further than a pinhole of the same focal length: the clamp follows it.
    fx, fy = cameras.intrinsics[:, 0, 0, None], cameras.intrinsics[:, 1, 1, None]
    cx, cy = cameras.intrinsics[:, 0, 2, None], cameras.intrinsics[:, 1, 2, None]
    corner = jnp.hypot(jnp.maximum(cx, cameras.width - cx) / fx, jnp.maximum(cy, cameras.height - cy) / fy)
    reached = (grid[None] <= limit) & (factor * grid[None] <= corner)
    widest = jnp.max(jnp.where(reached, grid[None], 0.0), axis=1, keepdims=True)
    widen = jax.lax.stop_gradient(jnp.maximum(widest / corner, 1.0))
    slopes = clamp_slope(u, fx, cx, cameras.width, widen), clamp_slope(v, fy, cy, cameras.height, widen)

    def rows(u, v):
        _, _, p1, p2, *_ = k
        factor, slope = _radial(k, u * u + v * v)
        cross = 2.0 * (u * v * slope + p1 * u + p2 * v)
        uu = factor + 2.0 * u * u * slope + 2.0 * p1 * v + 6.0 * p2 * u
        vv = factor + 2.0 * v * v * slope + 6.0 * p1 * v + 2.0 * p2 * u
        row_u = uu * inverse_z, cross * inverse_z, -(uu * u + cross * v) * inverse_z
        return row_u, (cross * inverse_z, vv * inverse_z, -(cross * u + vv * v) * inverse_z)

    factor, _ = _radial(k, u * u + v * v)
    p1, p2 = k[2], k[3]
    bent_u = u * factor + 2.0 * p1 * u * v + p2 * (3.0 * u * u + v * v)
    bent_v = v * factor + p1 * (u * u + 3.0 * v * v) + 2.0 * p2 * u * v
    return bent_u, bent_v, *rows(*slopes), seen


def _fisheye(x, y, z, k):
    def bend(theta):
        """Distorted angle over the angle, and the derivative of the distorted angle."""
        s = theta * theta
        k1, k2, k3, k4 = k
        ratio = 1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4)))
        return ratio, 1.0 + s * (3.0 * k1 + s * (5.0 * k2 + s * (7.0 * k3 + s * 9.0 * k4)))

    grid = jnp.linspace(0.0, 1.5707964, 256)
    limit = _first_turn(grid, jax.lax.stop_gradient(bend(grid[None])[1]))

    squared = x * x + y * y
    near = squared < 1e-6 * z * z  # a series there: the closed form divides by the radius
    r = jnp.sqrt(jnp.where(near, z * z, squared))
    theta = jnp.arctan2(r, z)
    ratio, slope = bend(theta)
    length = r * r + z * z
    scale = jnp.where(near, (1.0 + (k[0] - 1.0 / 3.0) * squared / (z * z)) / z, theta * ratio / r)
    twist = jnp.where(near, 2.0 * (k[0] - 1.0 / 3.0) / (z * z * z), (slope * z / length - theta * ratio / r) / (r * r))
    inward = jnp.where(near, (1.0 + 3.0 * k[0] * squared / (z * z)) / (squared + z * z), slope / length)
    row_u = scale + x * x * twist, x * y * twist, -x * inward
    row_v = x * y * twist, scale + y * y * twist, -y * inward
    return x * scale, y * scale, row_u, row_v, near | (theta <= limit)
