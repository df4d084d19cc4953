"""Selects the gaussians that are drawn and projects them into the views of all scenes."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from splat.cameras import Cameras
from splat.gaussians import Gaussians, replace_unused, usable
from splat.inputs import Inputs
from splat.options import RenderOptions
from splat.projection import Projected, project, shortest_axes
from splat.scenes import flat_features, merge_views, one_axis
from splat.typing import Placeholder


class Selection(flax.struct.PyTreeNode):
    """The gaussians that are drawn.

    Attributes:
        used: [..., N] bool, drawn.
        features: [V', N, C] of all scenes' views, finite; or None.
        invalid: [] int32, active gaussians left out for non-finite numbers or a zero quaternion.
    """

    used: Bool[Array, "*scenes N"] | Placeholder
    features: Float[Array, "V N C"] | Placeholder | None
    invalid: Int32[Array, ""] | Placeholder


class Splats(flax.struct.PyTreeNode):
    """The gaussians in each of the V' views of all scenes, ready to be rasterized.

    Attributes:
        projected: [V', N, ...] ellipses.
        features: [V', N, C] or None.
        normals: [V', N, 3] unit vectors in the world, or None.
        absolute_offset: [V', N, 2] or None, see `splat.compositing.composite`.
    """

    projected: Projected | Placeholder
    features: Float[Array, "V N C"] | Placeholder | None = None
    normals: Float[Array, "V N 3"] | Placeholder | None = None
    absolute_offset: Float[Array, "V N 2"] | Placeholder | None = None


def select(inputs: Inputs) -> Selection:
    """Leaves out inactive and invalid gaussians.

    Args:
        inputs: Arrays that fit together.

    Returns:
        `Selection`.
    """
    valid = usable(inputs.gaussians)
    wanted = jnp.ones_like(valid) if inputs.active is None else jnp.asarray(inputs.active, bool)
    used, invalid = valid & wanted, jnp.sum(wanted & ~valid, dtype=jnp.int32)
    if inputs.features is None:
        return Selection(used, None, invalid)
    features, finite = flat_features(inputs.features, used.shape[:-1], inputs.scenes, inputs.views)
    invalid += jnp.sum(used & ~finite, dtype=jnp.int32)
    return Selection(used & finite, features, invalid)


def project_inputs(inputs: Inputs, selection: Selection, options: RenderOptions) -> Splats:
    """Projects the selected gaussians into the views of all scenes.

    Args:
        inputs: Arrays that fit together.
        selection: From `select`.
        options: `antialiased` and `normals` take effect here.

    Returns:
        `Splats`; unselected gaussians have no extent.
    """

    def one(
        gaussians: Gaussians, cameras: Cameras, used: Array, offset: Array | None
    ) -> tuple[Projected, Array | None]:
        gaussians = replace_unused(gaussians, used)
        projected = project(gaussians, cameras, offset, options.antialiased)
        projected = projected.replace(extents=jnp.where(used[None, :, None], projected.extents, 0.0))
        return projected, shortest_axes(gaussians, cameras) if options.normals else None

    gaussians, cameras, scenes = inputs.gaussians, inputs.cameras, inputs.scenes
    views, count = len(cameras), len(gaussians)
    used = selection.used
    offset, absolute = (
        None if each is None else jnp.asarray(each) for each in (inputs.mean2d_offset, inputs.absolute_offset)
    )
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
    absolute = None if absolute is None else absolute.reshape(-1, count, 2)
    return Splats(projected, selection.features, normals, absolute)
