"""Cameras and the turntable rig.

Cameras follow OpenCV (x right, y down, z forward); pixel (column i, row j) has its centre at (i + 0.5, j + 0.5).
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from splat.math import inverse_3x3, safe_normalize
from splat.typing import AnyArray, LeafArray, Placeholder, Scalar


DEFAULT_DISTANCE = 3.44
DEFAULT_FOV = math.radians(33.8)


class Cameras(flax.struct.PyTreeNode):
    """V cameras that share one image size and one model; leading axes are scenes.

    Attributes:
        world_to_camera: [..., V, 4, 4] matrices, OpenCV.
        intrinsics: [..., V, 3, 3] in pixels (pixels per world unit for orthographic cameras).
        width: Image width in pixels (static).
        height: Image height in pixels (static).
        distortion: [..., V, 4], [..., V, 5] or [..., V, 8] of OpenCV's k1, k2, p1, p2, k3, k4, k5, k6 for pinhole
            cameras, [..., V, 4] of its k1 to k4 for fisheye cameras; None for none.
        model: "pinhole", "orthographic" or "fisheye" (equidistant, less than 180 degrees wide) (static).
    """

    world_to_camera: Float[LeafArray, "*scenes V 4 4"] | Placeholder
    intrinsics: Float[LeafArray, "*scenes V 3 3"] | Placeholder
    width: int = flax.struct.field(pytree_node=False)
    height: int = flax.struct.field(pytree_node=False)
    distortion: Float[LeafArray, "*scenes V coefficients"] | Placeholder | None = None
    model: str = flax.struct.field(pytree_node=False, default="pinhole")

    def __len__(self) -> int:
        """Views of one scene, V."""
        return self.world_to_camera.shape[-3]

    def __getitem__(self, index: int | slice | Int[AnyArray, "*n"]) -> "Cameras":
        """The cameras at `index` of the first axis; an integer gives a batch of one."""
        index = jnp.atleast_1d(index) if not isinstance(index, slice) else index
        return jax.tree.map(lambda leaf: leaf[index], self)

    @property
    def positions(self) -> Float[Array, "*scenes V 3"]:
        """Camera centres [..., V, 3] in the world."""
        return _positions(jnp.asarray(self.world_to_camera))


@jax.jit
def _positions(world_to_camera: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 3"]:
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    return -jnp.einsum("...ij,...j->...i", inverse_3x3(rotation), translation, precision="highest")


@jax.jit
def look_at(
    eye: Float[AnyArray, "*batch 3"],
    target: Float[AnyArray, "*#batch 3"] | None = None,
    up: Float[AnyArray, "*#batch 3"] | None = None,
) -> Float[Array, "*batch 4 4"]:
    """World-to-camera matrices that put `target` on the optical axis and `up` towards the top of the image.

    Args:
        eye: [..., 3] camera centres.
        target: [..., 3], the origin by default.
        up: [..., 3], +z by default; must not be parallel to the viewing direction.

    Returns:
        [..., 4, 4] OpenCV world-to-camera matrices.
    """
    eye = jnp.asarray(eye)
    target = jnp.zeros_like(eye) if target is None else jnp.broadcast_to(target, eye.shape)
    up = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 1.0] if up is None else up, eye.dtype), eye.shape)
    forward = safe_normalize(target - eye)
    right = safe_normalize(jnp.cross(forward, up))
    rotation = jnp.stack([right, jnp.cross(forward, right), forward], axis=-2)
    translation = -jnp.einsum("...ij,...j->...i", rotation, eye, precision="highest")
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 0.0, 1.0], eye.dtype), (*eye.shape[:-1], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def pinhole_intrinsics(fov: Scalar, width: int, height: int) -> Float[Array, "3 3"]:
    """Intrinsics of a pinhole camera with square pixels and the principal point at the image's centre.

    Args:
        fov: Horizontal field of view in radians, in (0, pi).
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        [3, 3] in pixels.
    """
    focal = 0.5 * width / jnp.tan(0.5 * jnp.asarray(fov, jnp.float32))
    zero, one = jnp.zeros_like(focal), jnp.ones_like(focal)
    return jnp.stack(
        [
            jnp.stack([focal, zero, jnp.full_like(focal, 0.5 * width)]),
            jnp.stack([zero, focal, jnp.full_like(focal, 0.5 * height)]),
            jnp.stack([zero, zero, one]),
        ]
    )


def orbit_cameras(
    elevation: Scalar | Float[AnyArray, "views"],
    *,
    views: int = 16,
    distance: Scalar = DEFAULT_DISTANCE,
    fov: Scalar = DEFAULT_FOV,
    width: int = 128,
    height: int = 128,
    azimuth_offset: Scalar = 0.0,
) -> Cameras:
    """Builds the turntable: cameras around +z that look at the origin.

    Camera i stands at azimuth a = azimuth_offset + i * 2 pi / views, counter-clockwise seen from +z, at
    eye = distance * (cos e cos a, cos e sin a, sin e).

    Args:
        elevation: e in radians, a scalar or [views], in (-pi/2, pi/2); may be traced.
        views: Number of cameras, V.
        distance: Distance of every camera from the origin in world units.
        fov: Horizontal field of view in radians.
        width: Image width in pixels.
        height: Image height in pixels.
        azimuth_offset: Azimuth of camera 0 in radians.

    Returns:
        `Cameras` with V = `views`.

    Raises:
        ValueError: `views` is below 1.
    """
    if views < 1:
        raise ValueError(f"views={views}: expected at least 1 camera, as in views=16")
    return _orbit(elevation, views, distance, fov, width, height, azimuth_offset)


@functools.partial(jax.jit, static_argnames=("views", "width", "height"))
def _orbit(
    elevation: Scalar | Float[AnyArray, "views"],
    views: int,
    distance: Scalar,
    fov: Scalar,
    width: int,
    height: int,
    azimuth_offset: Scalar,
) -> Cameras:
    azimuth = azimuth_offset + jnp.arange(views, dtype=jnp.float32) * (2.0 * math.pi / views)
    elevation = jnp.broadcast_to(jnp.asarray(elevation, jnp.float32), (views,))
    eye = distance * jnp.stack(
        [
            jnp.cos(elevation) * jnp.cos(azimuth),
            jnp.cos(elevation) * jnp.sin(azimuth),
            jnp.sin(elevation),
        ],
        axis=-1,
    )
    intrinsics = jnp.broadcast_to(pinhole_intrinsics(fov, width, height)[None], (views, 3, 3))
    return Cameras(look_at(eye), intrinsics, width, height)


def from_opengl(camera_to_world: Float[AnyArray, "*batch 4 4"]) -> Float[Array, "*batch 4 4"]:
    """Converts OpenGL/nerfstudio camera-to-world (x right, y up, z backward) to OpenCV world-to-camera matrices.

    Args:
        camera_to_world: [..., 4, 4] affine.

    Returns:
        [..., 4, 4].
    """
    camera_to_world = jnp.asarray(camera_to_world)
    flipped = camera_to_world * jnp.asarray([1.0, -1.0, -1.0, 1.0])[(None,) * (camera_to_world.ndim - 1)]
    return _inverse_affine(flipped)


def to_opengl(world_to_camera: Float[AnyArray, "*batch 4 4"]) -> Float[Array, "*batch 4 4"]:
    """Converts OpenCV world-to-camera to OpenGL/nerfstudio camera-to-world matrices; inverse of `from_opengl`.

    Args:
        world_to_camera: [..., 4, 4] affine.

    Returns:
        [..., 4, 4].
    """
    inverse = _inverse_affine(jnp.asarray(world_to_camera))
    return inverse * jnp.asarray([1.0, -1.0, -1.0, 1.0])[(None,) * (inverse.ndim - 1)]


def _inverse_affine(matrix: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 4 4"]:
    rotation = inverse_3x3(matrix[..., :3, :3])
    translation = -jnp.einsum("...ij,...j->...i", rotation, matrix[..., :3, 3], precision="highest")
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    return jnp.concatenate([top, matrix[..., 3:, :]], axis=-2)
