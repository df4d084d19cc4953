"""Refinement of camera poses: a small rigid motion of each camera, fitted with the gaussians.

The first camera stays where it is: with all of them free, the scene could turn and drift under held-out views.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from splat import Cameras
from splat.math import quaternion_to_rotation


class Poses(flax.struct.PyTreeNode):
    """Motions of V cameras and their optimizer.

    Attributes:
        motions: [V, 6] rotation vector in radians (exact for small angles) and translation in units of the scene's
            extent, both in the camera's own axes.
        first_moments: [V, 6] Adam's running means.
        second_moments: [V, 6] Adam's running means of squares.
    """

    motions: jax.Array
    first_moments: jax.Array
    second_moments: jax.Array


def still(views: int) -> Poses:
    """Cameras that have not moved."""
    none = jnp.zeros((views, 6), jnp.float32)
    return Poses(none, none, none)


def moved(cameras: Cameras, motions: jax.Array, extent: jax.Array) -> Cameras:
    """The cameras after their motions [V, 6]; differentiable in them."""
    half = jnp.concatenate([jnp.ones_like(motions[:, :1]), 0.5 * motions[:, :3]], axis=-1)
    rotation = quaternion_to_rotation(half)
    old = cameras.world_to_camera
    turned = jnp.einsum("vij,vjk->vik", rotation, old[:, :3], precision="highest")
    shift = jnp.pad((extent * motions[:, 3:])[:, :, None], ((0, 0), (0, 0), (3, 0)))
    poses = jnp.concatenate([turned + shift, old[:, 3:]], axis=1)
    return dataclasses.replace(cameras, world_to_camera=poses)
