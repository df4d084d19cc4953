"""Camera models beyond the pinhole: image points and their derivatives.

EWA splatting (Zwicker et al. 2001) needs two things of a camera: the image point and its Jacobian at the gaussian's
mean. This module gives both in closed form for orthographic cameras, for OpenCV's rational and tangential distortion,
and for the equidistant fisheye with OpenCV's polynomial (Kannala and Brandt 2006). Points beyond the radius where the
distortion polynomial stops being monotonic would appear inside the image again: they count as unseen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splat.cameras import Cameras


# Derivative of one image coordinate by (x, y, z).
Row = tuple[Float[Array, "V N"], Float[Array, "V N"], Float[Array, "V N"]]
# Columns [V, 1] of the distortion coefficients.
Coefficients = list[Float[Array, "V 1"]]


class ImagePoints(NamedTuple):
    """Points of camera space in the image.

    Attributes:
        u: [V, N] column in pixels.
        v: [V, N] row in pixels.
        row_u: Derivative of u by (x, y, z), three arrays [V, N], pixels per world unit.
        row_v: Derivative of v by (x, y, z), three arrays [V, N], pixels per world unit.
        seen: [V, N] bool, the model maps the point into the image plane.
    """

    u: Float[Array, "V N"]
    v: Float[Array, "V N"]
    row_u: Row
    row_v: Row
    seen: Bool[Array, "V N"]


def image_points(
    cameras: Cameras, x: Float[Array, "V N"], y: Float[Array, "V N"], z: Float[Array, "V N"]
) -> ImagePoints:
    """Projects points of camera space by `cameras.model`.

    Args:
        cameras: V cameras of one scene.
        x: [V, N] in world units, to the right.
        y: [V, N] in world units, down.
        z: [V, N] in world units, forward; above 0.

    Returns:
        `ImagePoints`.
    """
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
    u, v = fx * u + cx, fy * v + cy
    row_u = fx * row_u[0], fx * row_u[1], fx * row_u[2]
    row_v = fy * row_v[0], fy * row_v[1], fy * row_v[2]
    return ImagePoints(u, v, row_u, row_v, seen)


def clamp_slope(
    slope: Float[Array, "V N"],
    focal: Float[Array, "V 1"],
    centre: Float[Array, "V 1"],
    size: int,
    widen: float | Float[Array, "V 1"] = 1.0,
) -> Float[Array, "V N"]:
    """Clamps x/z to the range of the image plus 0.3 of its half width on each side (gsplat 1.5.3).

    Args:
        slope: [V, N], x/z or y/z.
        focal: [V, 1] focal length along this axis in pixels.
        centre: [V, 1] principal point along this axis in pixels.
        size: Image size along this axis in pixels.
        widen: Factor on the limits, for lenses that see more than a pinhole.

    Returns:
        [V, N].
    """
    margin = 0.3 * size / (2.0 * focal)
    return jnp.clip(slope, -(centre / focal + margin) * widen, ((size - centre) / focal + margin) * widen)


def _coefficients(cameras: Cameras, most: int) -> Coefficients:
    """`most` columns of the distortion, zeros where it has fewer."""
    views = cameras.world_to_camera.shape[0]
    given = jnp.zeros((views, 0)) if cameras.distortion is None else cameras.distortion
    padded = jnp.concatenate([given, jnp.zeros((views, most - given.shape[-1]), given.dtype)], axis=-1)
    return [padded[:, i, None] for i in range(most)]


def _radial(k: Coefficients, squared: Float[Array, "#V M"]) -> tuple[Float[Array, "V M"], Float[Array, "V M"]]:
    """OpenCV's rational factor and its derivative by the squared radius."""
    k1, k2, _, _, k3, k4, k5, k6 = k
    top = 1.0 + squared * (k1 + squared * (k2 + squared * k3))
    bottom = 1.0 + squared * (k4 + squared * (k5 + squared * k6))
    factor = top / bottom
    top_slope = k1 + squared * (2.0 * k2 + squared * 3.0 * k3)
    bottom_slope = k4 + squared * (2.0 * k5 + squared * 3.0 * k6)
    return factor, (top_slope - factor * bottom_slope) / bottom


def _monotonic_limit(grid: Float[Array, "G"], slope: Float[Array, "V G"]) -> Float[Array, "V 1"]:
    """Largest grid value before which the slope stays positive, at most the grid's end."""
    turned = ~(slope > 0.0)  # a pole of the rational factor gives NaN or inf: it ends the range as well
    place = jnp.where(jnp.any(turned, axis=1), jnp.argmax(turned, axis=1), grid.shape[0])
    return jnp.where(place > 0, grid[jnp.maximum(place - 1, 0)], 0.0)[:, None]


def _opencv(
    x: Float[Array, "V N"], y: Float[Array, "V N"], z: Float[Array, "V N"], k: Coefficients, cameras: Cameras
) -> tuple[Float[Array, "V N"], Float[Array, "V N"], Row, Row, Bool[Array, "V N"]]:
    """u, v, their derivatives at unit focal length, and `seen`, with OpenCV's rational and tangential distortion."""
    grid = jnp.geomspace(1e-2, 1e3, 512)
    still = [jax.lax.stop_gradient(c) for c in k]
    factor, slope = _radial(still, (grid * grid)[None])
    limit = _monotonic_limit(grid, factor + 2.0 * (grid * grid)[None] * slope)
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

    def rows(u: Float[Array, "V N"], v: Float[Array, "V N"]) -> tuple[Row, Row]:
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
    row_u, row_v = rows(*slopes)
    return bent_u, bent_v, row_u, row_v, seen


def _fisheye(
    x: Float[Array, "V N"], y: Float[Array, "V N"], z: Float[Array, "V N"], k: Coefficients
) -> tuple[Float[Array, "V N"], Float[Array, "V N"], Row, Row, Bool[Array, "V N"]]:
    """u, v, their derivatives at unit focal length, and `seen`, with OpenCV's equidistant polynomial."""

    def bend(theta: Float[Array, "#V M"]) -> tuple[Float[Array, "V M"], Float[Array, "V M"]]:
        """Distorted angle over the angle, and the derivative of the distorted angle."""
        s = theta * theta
        k1, k2, k3, k4 = k
        ratio = 1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4)))
        return ratio, 1.0 + s * (3.0 * k1 + s * (5.0 * k2 + s * (7.0 * k3 + s * 9.0 * k4)))

    grid = jnp.linspace(0.0, 1.5707964, 256)
    limit = _monotonic_limit(grid, jax.lax.stop_gradient(bend(grid[None])[1]))

    squared = x * x + y * y
    near = squared < 1e-6 * z * z  # the closed form divides by the radius: take a series there
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
