"""Selects the gaussians that are drawn and projects them into the views of all scenes."""

import flax.struct
import jax
import jax.numpy as jnp

from splat.cameras import Cameras
from splat.gaussians import Gaussians, replace_unused, usable
from splat.inputs import Inputs
from splat.options import RenderOptions
from splat.projection import Projected, project, shortest_axes
from splat.scenes import flat_features, merge_views, one_axis


class Selection(flax.struct.PyTreeNode):
    """The gaussians that are drawn.

    Attributes:
        used: [..., N] bool, drawn.
        features: [V', N, C] of all scenes' views, finite; or None.
        invalid: [] int32, active gaussians left out for non-finite numbers or a zero quaternion.
    """

    used: jax.Array
    features: jax.Array | None
    invalid: jax.Array


class Splats(flax.struct.PyTreeNode):
    """What is drawn in each of the V' views of all scenes.

    Attributes:
        projected: [V', N, ...] ellipses.
        features: [V', N, C] or None.
        normals: [V', N, 3] unit vectors in the world, or None.
        absolute_offset: [V', N, 2] or None, see `splat.compositing.composite`.
    """

    projected: Projected
    features: jax.Array | None = None
    normals: jax.Array | None = None
    absolute_offset: jax.Array | None = None


def select(inputs: Inputs) -> Selection:
    """Leaves out inactive gaussians and those that no image can show."""
    valid = usable(inputs.gaussians)
    wanted = jnp.ones_like(valid) if inputs.active is None else inputs.active.astype(bool)
    used, invalid = valid & wanted, jnp.sum(wanted & ~valid, dtype=jnp.int32)
    if inputs.features is None:
        return Selection(used, None, invalid)
    features, finite = flat_features(inputs.features, used.shape[:-1], inputs.scenes, inputs.views)
    invalid += jnp.sum(used & ~finite, dtype=jnp.int32)
    return Selection(used & finite, features, invalid)


def project_inputs(inputs: Inputs, selection: Selection, options: RenderOptions) -> Splats:
    """Projects the selected gaussians into the views of all scenes."""

    def one(
        gaussians: Gaussians, cameras: Cameras, used: jax.Array, offset: jax.Array | None
    ) -> tuple[Projected, jax.Array | None]:
        gaussians = replace_unused(gaussians, used)
        projected = project(gaussians, cameras, offset, options.antialiased)
        projected = projected.replace(extents=jnp.where(used[None, :, None], projected.extents, 0.0))
        return projected, shortest_axes(gaussians, cameras) if options.normals else None

    gaussians, cameras, scenes = inputs.gaussians, inputs.cameras, inputs.scenes
    views, count = len(cameras), len(gaussians)
    used, offset = selection.used, inputs.mean2d_offset
    if not scenes:
        projected, normals = one(gaussians, cameras, used, offset)
    else:
        cameras = one_axis(cameras, cameras.world_to_camera.ndim - 3, scenes)
        offset = None if offset is None else offset.reshape(-1, views, count, 2)
        if gaussians.means.ndim == 2:  # one scene under all cameras
            projected, normals = one(gaussians, merge_views(cameras), used, merge_views(offset))
        else:
            gaussians, used = (one_axis(tree, len(scenes), scenes) for tree in (gaussians, used))
            projected, normals = merge_views(jax.vmap(one)(gaussians, cameras, used, offset))
    absolute = inputs.absolute_offset
    absolute = None if absolute is None else absolute.reshape(-1, count, 2)
    return Splats(projected, selection.features, normals, absolute)
