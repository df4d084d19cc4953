"""Projection of gaussians to screen-space ellipses (EWA splatting, Zwicker et al. 2001).

Every rule is gsplat 1.5.3's "classic" mode: near plane 0.01, low-pass of 0.3 square pixels, x/z and y/z clamped inside
the Jacobian only.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.harmonics import sh_colors
from splat.lenses import clamp_slope, image_points
from splat.math import quaternion_to_rotation, safe_normalize, safe_sqrt
from splat.typing import LeafArray, Placeholder


NEAR_PLANE = 0.01
FAR_PLANE = 1e10
LOW_PASS = 0.3
MAX_LOG_SCALE = 15.0
MAX_FOOTPRINT = 1e8  # pixels: standard deviation of an ellipse
MIN_ALPHA = 1.0 / 255.0


# Three [V, N] arrays: one row of a matrix of each gaussian in each view.
Row = tuple[Float[Array, "V N"], Float[Array, "V N"], Float[Array, "V N"]]


class Projected(flax.struct.PyTreeNode):
    """Gaussians as one screen-space ellipse for each view.

    Attributes:
        means: [V, N, 2] pixels.
        conics: [V, N, 3] entries (xx, xy, yy) of the inverse of the blurred 2D covariance, 1 / pixel^2.
        depths: [V, N] camera z in world units.
        colors: [V, N, 3], at least 0.
        opacities: [V, N] in [0, 1].
        extents: [V, N, 2] half sizes in pixels of the box outside which alpha < 1/255; 0 for unseen gaussians.
    """

    means: Float[LeafArray, "*scenes V N 2"] | Placeholder
    conics: Float[LeafArray, "*scenes V N 3"] | Placeholder
    depths: Float[LeafArray, "*scenes V N"] | Placeholder
    colors: Float[LeafArray, "*scenes V N 3"] | Placeholder
    opacities: Float[LeafArray, "*scenes V N"] | Placeholder
    extents: Float[LeafArray, "*scenes V N 2"] | Placeholder


def project(
    gaussians: Gaussians,
    cameras: Cameras,
    mean2d_offset: Float[Array, "V N 2"] | None = None,
    antialiased: bool = False,
) -> Projected:
    """Projects every gaussian into every view.

    Args:
        gaussians: N gaussians of one scene with finite numbers (see `splat.gaussians.replace_unused`).
        cameras: V cameras.
        mean2d_offset: [V, N, 2] pixels added to the projected means; its gradient is the screen-space gradient.
        antialiased: Multiply opacities by sqrt(det / det blurred), which compensates what the low-pass adds to the
            area of the ellipse (Mip-Splatting, Yu et al. 2024, eq. 9).

    Returns:
        `Projected`; differentiable in everything but `extents`.
    """
    rotation, translation = cameras.world_to_camera[:, :3, :3], cameras.world_to_camera[:, :3, 3]
    camera_space = jnp.einsum("vij,nj->vin", rotation, gaussians.means, precision="highest")
    camera_space = camera_space + translation[:, :, None]
    reachable = jnp.all(jnp.abs(camera_space) < FAR_PLANE, axis=1) & (camera_space[:, 2] > NEAR_PLANE)
    x, y, z = (jnp.where(reachable, camera_space[:, i], float(i == 2)) for i in range(3))

    # Rows of (Jacobian x camera rotation x principal axes): the 2D covariance is their Gram matrix.
    scales = jnp.exp(jnp.minimum(gaussians.log_scales, MAX_LOG_SCALE))
    axes = quaternion_to_rotation(gaussians.quats) * scales[:, None]
    if cameras.model == "pinhole" and cameras.distortion is None:
        fx, fy = cameras.intrinsics[:, 0, 0, None], cameras.intrinsics[:, 1, 1, None]
        cx, cy = cameras.intrinsics[:, 0, 2, None], cameras.intrinsics[:, 1, 2, None]
        inverse_z = 1.0 / z
        u, v = x * inverse_z, y * inverse_z
        means = jnp.stack([fx * u + cx, fy * v + cy], axis=-1)
        slope_x = clamp_slope(u, fx, cx, cameras.width)
        slope_y = clamp_slope(v, fy, cy, cameras.height)
        row_x = _pinhole_row(fx * inverse_z, slope_x, rotation[:, 0], rotation[:, 2], axes)
        row_y = _pinhole_row(fy * inverse_z, slope_y, rotation[:, 1], rotation[:, 2], axes)
    else:
        points = image_points(cameras, x, y, z)
        means = jnp.stack([points.u, points.v], axis=-1)
        reachable &= points.seen
        row_x, row_y = _row(points.row_u, rotation, axes), _row(points.row_v, rotation, axes)
    if mean2d_offset is not None:
        means = means + mean2d_offset
    covariance_xx = _dot(row_x, row_x) + LOW_PASS
    covariance_yy = _dot(row_y, row_y) + LOW_PASS
    conics, kept_area = _conics(row_x, row_y, covariance_xx, covariance_yy)

    degree = gaussians.sh_degree
    directions = view_directions(gaussians, cameras) if degree > 0 else None
    colors = jnp.broadcast_to(sh_colors(gaussians.sh, directions, degree), (*z.shape, 3))
    opacities = jnp.broadcast_to(gaussians.opacities[None], z.shape)
    if antialiased:
        opacities = opacities * safe_sqrt(kept_area)

    extents = jax.lax.stop_gradient(_extents(covariance_xx, covariance_yy, opacities))
    extents = jnp.where(reachable[..., None], extents, 0.0)
    return Projected(means, conics, z, colors, opacities, extents)


def view_directions(gaussians: Gaussians, cameras: Cameras) -> Float[Array, "V N 3"]:
    """Unit vectors [V, N, 3] from the cameras to the gaussians; orthographic cameras have one for all."""
    if cameras.model != "orthographic":
        return safe_normalize(gaussians.means[None] - cameras.positions[:, None])
    forward = safe_normalize(cameras.world_to_camera[:, 2, :3])
    return jnp.broadcast_to(forward[:, None], (forward.shape[0], *gaussians.means.shape))


def shortest_axes(gaussians: Gaussians, cameras: Cameras) -> Float[Array, "V N 3"]:
    """Normals [V, N, 3] in the world: each gaussian's shortest axis, turned towards each camera."""
    shortest = jnp.argmin(gaussians.log_scales, axis=-1)
    rotation = quaternion_to_rotation(gaussians.quats)
    axis = jnp.take_along_axis(rotation, shortest[:, None, None], axis=-1)[..., 0]
    facing = jnp.einsum("vnc,nc->vn", view_directions(gaussians, cameras), axis)
    return jnp.where(facing[..., None] > 0.0, -axis[None], axis[None])


def _pinhole_row(
    scale: Float[Array, "V N"],
    slope: Float[Array, "V N"],
    own: Float[Array, "V 3"],
    forward: Float[Array, "V 3"],
    axes: Float[Array, "N 3 3"],
) -> Row:
    """scale * (own - slope * forward) @ axes."""
    row = [scale * (own[:, i, None] - slope * forward[:, i, None]) for i in range(3)]
    return _along_axes((row[0], row[1], row[2]), axes)


def _row(derivative: Row, rotation: Float[Array, "V 3 3"], axes: Float[Array, "N 3 3"]) -> Row:
    """derivative @ rotation @ axes."""
    row = [_dot(derivative, tuple(rotation[:, j, i, None] for j in range(3))) for i in range(3)]
    return _along_axes((row[0], row[1], row[2]), axes)


def _along_axes(row: Row, axes: Float[Array, "N 3 3"]) -> Row:
    x, y, z = (_dot(row, tuple(axes[None, :, i, k] for i in range(3))) for k in range(3))
    return x, y, z


def _dot(a: tuple[Array, ...], b: tuple[Array, ...]) -> Float[Array, "V N"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _conics(
    row_x: Row, row_y: Row, covariance_xx: Float[Array, "V N"], covariance_yy: Float[Array, "V N"]
) -> tuple[Float[Array, "V N 3"], Float[Array, "V N"]]:
    """Inverse of the 2D covariance, and the determinant before the low-pass over that after it.

    The determinant is a sum of squares (Cauchy-Binet), so needle-shaped ellipses lose no digits to cancellation.
    """
    # The largest entry is divided out: it keeps huge gaussians inside float32 and cancels in the result.
    unit = jax.lax.stop_gradient(jax.lax.rsqrt(jnp.maximum(covariance_xx, covariance_yy)))
    px, py = tuple(r * unit for r in row_x), tuple(r * unit for r in row_y)
    # Footprints beyond this are drawn at this size: the gradient divides by the square of what follows.
    unit = jnp.maximum(unit, 1.0 / MAX_FOOTPRINT)
    blur = LOW_PASS * unit * unit
    minors = tuple(px[i] * py[j] - px[j] * py[i] for i, j in ((0, 1), (1, 2), (2, 0)))
    xx, yy = _dot(px, px), _dot(py, py)
    sharp = _dot(minors, minors)
    blurred = sharp + blur * (xx + yy) + blur * blur
    factor = unit * unit / blurred
    conics = jnp.stack([(yy + blur) * factor, -_dot(px, py) * factor, (xx + blur) * factor], axis=-1)
    return conics, sharp / blurred


def _extents(
    covariance_xx: Float[Array, "V N"], covariance_yy: Float[Array, "V N"], opacities: Float[Array, "V N"]
) -> Float[Array, "V N 2"]:
    """Half sizes of the box of alpha >= 1/255: sqrt(2 ln(255 opacity)) standard deviations."""
    visible = opacities >= MIN_ALPHA
    reach = jnp.sqrt(2.0 * jnp.log(jnp.where(visible, opacities * 255.0, 1.0)))
    sizes = jnp.sqrt(jnp.stack([covariance_xx, covariance_yy], axis=-1)) * reach[..., None]
    # Rounding must never drop a pixel whose alpha is exactly at the cut-off.
    return jnp.where(visible[..., None], sizes * 1.0001 + 1e-3, 0.0)
