"""Rendering over a mesh of devices: the views split, the gaussians replicated or split as well."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Num

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.inputs import Inputs, check_inputs
from splat.options import RenderOptions, ResolvedOptions, resolve
from splat.rasterize import Rendering, rasterize, warn_about
from splat.render import render_inputs
from splat.scenes import flat_background
from splat.tiles import TileGrid
from splat.typing import AnyArray, Scalar
from splat.views import project_inputs, select


# What a rendering has of each view.
_IMAGES = ("rgb", "alpha", "depth", "radii", "features", "median_depth", "normals")


def render_sharded(
    gaussians: Gaussians,
    cameras: Cameras,
    mesh: Mesh | AbstractMesh,
    axis: str | tuple[str, ...] = "data",
    *,
    capacity: int,
    split_gaussians: bool = False,
    background: Scalar | Num[AnyArray, "*background 3"] = 0.0,
    active: Bool[AnyArray, "*scenes N"] | None = None,
    mean2d_offset: Float[AnyArray, "*views N 2"] | None = None,
    absolute_offset: Float[AnyArray, "*views N 2"] | None = None,
    features: Float[AnyArray, "*features N C"] | None = None,
    options: RenderOptions = RenderOptions(),
) -> Rendering:
    """`splat.render` with the views split over the D devices along `axis` of a mesh.

    Equal to `render` on one device, gradients too (to rounding); works inside and outside jit. Inputs are
    global arrays and need no sharding of their own, but must not be committed to devices outside the mesh.
    Every image and `radii` come back split by views. Other axes of the mesh repeat the work.

    With `split_gaussians` each device holds and projects N / D gaussians for all views, and one all-to-all
    of the projected rows gives it all gaussians of its own views; gradients take the way back, so
    parameters, their gradients and optimizer moments stay split. A row has 12 numbers (and the features), so
    this moves less than gathering the 14 + 3 K parameters of a gaussian wherever a device has few views.
    Without it, gaussians are replicated and their gradients are summed over the devices.

    Args:
        gaussians: N gaussians, [..., N, 3]; one scene, without leading axes, if they are split.
        cameras: V cameras, V divisible by D.
        mesh: Devices, with Auto axes.
        axis: The mesh axis, or several.
        capacity: Room for (tile, gaussian) pairs on each single device, thus of V / D views.
        split_gaussians: Split the gaussians as well; D must divide N (pad them and use `active`).
        background: As for `render`.
        active: As for `render`.
        mean2d_offset: As for `render`, for all V views.
        absolute_offset: As for `render`, for all V views.
        features: As for `render`, for all V views.
        options: As for `render`.

    Returns:
        `Rendering`. `pairs` is the largest number on any one device, so that `overflow` says that some
        device's images lack pairs, and rendering again takes a capacity of at least `pairs`. `invalid` counts
        each gaussian once.

    Raises:
        ValueError: The mesh lacks the axis or is Explicit, D does not divide V or N, or a shape does not fit.
    """
    inputs = Inputs(gaussians, cameras, background, active, mean2d_offset, absolute_offset, features)
    check_inputs(inputs)
    split_gaussians = _check_split(inputs, mesh, axis, split_gaussians)
    traced = inputs.traced
    if features is not None and _features_of_views(inputs):
        inputs = inputs.replace(features=_spread_invalid(features, bool(gaussians.means.shape[:-2])))
    out = _render_sharded(inputs, mesh, axis, split_gaussians, max(int(capacity), 1), resolve(options))
    if not traced:
        warn_about(out)
    return out


def _features_of_views(inputs: Inputs) -> bool:
    """Whether the inputs have features [..., V, N, C] of each view."""
    return inputs.features is not None and jnp.ndim(inputs.features) == len(inputs.scenes) + 3


def _check_split(inputs: Inputs, mesh: Mesh | AbstractMesh, axis: str | tuple[str, ...], split_gaussians: bool) -> bool:
    """Checks that the inputs split over the mesh; returns whether to split the gaussians, which empty inputs do not."""
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    missing = [name for name in names if name not in mesh.shape]
    if missing or not names:
        raise ValueError(
            f"render_sharded got axis {axis!r}, but the mesh has {tuple(mesh.axis_names)}; expected one or "
            f"several of these"
        )
    if AxisType.Explicit in mesh.axis_types:
        raise ValueError(
            f"the mesh has axes of types {mesh.axis_types}; expected Auto axes, which jax.make_mesh makes with "
            f"axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}"
        )
    devices, views, count = math.prod(mesh.shape[name] for name in names), len(inputs.cameras), len(inputs.gaussians)
    if views % devices:
        raise ValueError(
            f"{views} views do not split over {devices} devices (mesh axis {axis!r}); expected a multiple of "
            f"{devices}: repeat some cameras or use fewer devices"
        )
    if not split_gaussians:
        return False
    if inputs.scenes:
        raise ValueError(
            f"split_gaussians takes one scene, but gaussians or cameras have leading axes {inputs.scenes}; replicate "
            f"the gaussians instead (split_gaussians=False)"
        )
    if count % devices:
        raise ValueError(
            f"{count} gaussians do not split over {devices} devices (mesh axis {axis!r}); expected a multiple "
            f"of {devices}: pad them and mark the padding in active"
        )
    return 0 not in (count, views, inputs.cameras.width, inputs.cameras.height)


def _spread_invalid(features: Float[AnyArray, "*views N C"], scenes: bool) -> Float[Array, "*views N C"]:
    """Features with NaN in all views of a gaussian where one is not finite.

    `render` ignores such a gaussian in every view; a device that sees only some views would not know.
    """
    finite = jnp.all(jnp.isfinite(features), axis=-1)
    axes = (-2,) if scenes else tuple(range(finite.ndim - 1))
    return jnp.where(jnp.all(finite, axis=axes, keepdims=True)[..., None], features, jnp.nan)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _render_sharded(
    inputs: Inputs,
    mesh: Mesh | AbstractMesh,
    axis: str | tuple[str, ...],
    split_gaussians: bool,
    capacity: int,
    options: ResolvedOptions,
) -> Rendering:
    views = P(*[None] * len(inputs.scenes), axis)
    specs: dict[str, Any] = {"background": views if jnp.ndim(inputs.background) > 1 else P()}
    if split_gaussians:
        rows, rows_of_views = P(axis), P(None, axis)
        specs |= {"gaussians": rows, "cameras": P(), "active": rows}
        specs |= dict.fromkeys(("mean2d_offset", "absolute_offset"), rows_of_views)
        specs["features"] = rows_of_views if _features_of_views(inputs) else rows
    else:
        own = inputs.cameras.world_to_camera.ndim - 3
        specs |= {"gaussians": P(), "cameras": P(*[None] * own, axis), "active": P()}
        specs |= dict.fromkeys(("mean2d_offset", "absolute_offset"), views)
        specs["features"] = views if _features_of_views(inputs) else P()
    out_specs: dict[str, Any] = {name: views for name in _IMAGES} | {"pairs": P(), "invalid": P()}
    body = partial(
        _exchange_and_render if split_gaussians else _render_views, axis=axis, capacity=capacity, options=options
    )
    sharded = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(Inputs(**specs),),
        out_specs=Rendering(**out_specs, capacity=capacity),
        # Loops in the rasterizer start from constants, which the check would want marked as varying.
        check_vma=False,
    )
    return sharded(inputs)


def _render_views(inputs: Inputs, *, axis: str | tuple[str, ...], capacity: int, options: ResolvedOptions) -> Rendering:
    out = render_inputs(inputs, capacity, options)
    return out.replace(pairs=jax.lax.pmax(out.pairs, axis), invalid=jax.lax.pmax(out.invalid, axis))


def _exchange_and_render(
    inputs: Inputs, *, axis: str | tuple[str, ...], capacity: int, options: ResolvedOptions
) -> Rendering:
    """One device's views: its own gaussians [N / D] and all cameras are given."""
    selection = select(inputs)
    splats = project_inputs(inputs, selection, options)

    # [V, N / D, ...] to [V / D, N, ...]: the devices' order is that of the gaussians, so ties sort alike.
    exchange = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=1, tiled=True)
    splats = jax.tree.map(exchange, splats)
    views, cameras = len(splats.projected.depths), inputs.cameras
    grid = TileGrid(views, cameras.width, cameras.height, capacity, options)
    background = flat_background(inputs.background, views, grid.height, grid.width)
    out = rasterize(splats, background, selection.invalid, grid)
    return out.replace(pairs=jax.lax.pmax(out.pairs, axis), invalid=jax.lax.psum(out.invalid, axis))
