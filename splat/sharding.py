"""Rendering over a mesh of devices: the views split, the gaussians replicated or split as well."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from splat.cameras import Cameras
from splat.checks import check_extras, leading_axes
from splat.gaussians import Gaussians
from splat.rasterize import Rendering, make_grid, make_options, project_views, rasterize, select_used
from splat.render import _render, _warn
from splat.scenes import flat_background, flat_features


def render_sharded(
    gaussians: Gaussians,
    cameras: Cameras,
    mesh: Mesh,
    axis: str | tuple[str, ...] = "data",
    *,
    capacity: int,
    split_gaussians: bool = False,
    background: float | jax.Array = 0.0,
    active: jax.Array | None = None,
    mean2d_offset: jax.Array | None = None,
    absolute_offset: jax.Array | None = None,
    features: jax.Array | None = None,
    **options: bool | int | None,
) -> Rendering:
    """`splat.render` with the views split over the D devices along `axis` of a mesh.

    Equal to `render` on one device, gradients too (to rounding); works inside and outside jit. Inputs are
    global arrays and need no sharding of their own, but must not be committed to devices outside the mesh.
    Every image and `radii` come back split by views. Other axes of the mesh repeat the work.

    With `split_gaussians` each device holds and projects N / D gaussians for all views, and one all-to-all
    of the projected rows gives it all gaussians of its own views; gradients take the way back, so
    parameters, their gradients and optimizer moments stay split. A row has 12 numbers (and the features), so
    this moves less than gathering the 14 + 3 K parameters of a gaussian wherever a device has few views.
    Without, gaussians are replicated and their gradients are summed over the devices.

    Args:
      gaussians: N gaussians, [..., N, 3]; without scenes as leading axes if they are split.
      cameras: V cameras, V divisible by D.
      mesh: of devices, with Auto axes.
      axis: the mesh axis, or several.
      capacity: room for (tile, gaussian) pairs on each single device, thus of V / D views.
      split_gaussians: split the gaussians as well; D must divide N (pad them and use `active`).
      background, active, mean2d_offset, absolute_offset, features: as for `render`, for all V views.
      **options: the other options of `render`: median_depth, normals, antialiased, exact_tiles, tile_size,
        block_size, slab, unroll.

    Returns:
      `Rendering`. `pairs` is the largest number on any one device, so that `overflow` says that some
      device's images lack pairs, and rendering again takes a capacity of at least `pairs`. `invalid` counts
      each gaussian once.

    Raises:
      ValueError: the mesh lacks the axis or is Explicit, D does not divide V or N, or shapes do not fit.
    """
    inputs = {
        "gaussians": gaussians,
        "cameras": cameras,
        "background": background,
        "active": active,
        "features": features,
        "offsets": {"mean2d_offset": mean2d_offset, "absolute_offset": absolute_offset},
    }
    check_extras(**inputs)
    split_gaussians = _check_split(gaussians, cameras, mesh, axis, split_gaussians)
    if features is not None and jnp.ndim(features) == len(leading_axes(gaussians, cameras)) + 3:
        inputs["features"] = _spread_invalid(features, bool(gaussians.means.shape[:-2]))
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs))
    out = _render_sharded(inputs, mesh, axis, split_gaussians, make_options(capacity, **options))
    if not traced:
        _warn(out)
    return out


def _check_split(gaussians, cameras, mesh, axis, split_gaussians) -> bool:
    """Whether to split the gaussians: not where there is nothing to exchange."""
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
    devices, views, count = math.prod(mesh.shape[name] for name in names), len(cameras), len(gaussians)
    if views % devices:
        raise ValueError(
            f"{views} views do not split over {devices} devices (mesh axis {axis!r}); expected a multiple of "
            f"{devices}: repeat some cameras or use fewer devices"
        )
    if not split_gaussians:
        return False
    lead = leading_axes(gaussians, cameras)
    if lead:
        raise ValueError(
            f"split_gaussians takes one scene, but gaussians or cameras have leading axes {lead}; replicate "
            f"the gaussians instead (split_gaussians=False)"
        )
    if count % devices:
        raise ValueError(
            f"{count} gaussians do not split over {devices} devices (mesh axis {axis!r}); expected a multiple "
            f"of {devices}: pad them and mark the padding in active"
        )
    return 0 not in (count, views, cameras.width, cameras.height)


def _spread_invalid(features: jax.Array, scenes: bool) -> jax.Array:
    """[..., V, N, C] with NaN in all views of a gaussian where one is not finite.

    `render` ignores such a gaussian in every view; a device that sees only some views would not know.
    """
    finite = jnp.all(jnp.isfinite(features), axis=-1)
    axes = (-2,) if scenes else tuple(range(finite.ndim - 1))
    return jnp.where(jnp.all(finite, axis=axes, keepdims=True)[..., None], features, jnp.nan)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _render_sharded(inputs, mesh, axis, split_gaussians, options):
    gaussians, cameras, background = inputs["gaussians"], inputs["cameras"], inputs["background"]
    lead = leading_axes(gaussians, cameras)
    features = inputs["features"]
    features_of_views = features is not None and jnp.ndim(features) == len(lead) + 3
    views = P(*[None] * len(lead), axis)
    specs = {"background": views if jnp.ndim(background) > 1 else P()}
    if split_gaussians:
        rows, rows_of_views = P(axis), P(None, axis)
        specs |= {"gaussians": rows, "cameras": P(), "active": rows, "offsets": rows_of_views}
        specs["features"] = rows_of_views if features_of_views else rows
    else:
        own = cameras.world_to_camera.ndim - 3
        specs |= {"gaussians": P(), "cameras": P(*[None] * own, axis), "active": P(), "offsets": views}
        specs["features"] = views if features_of_views else P()
    out_specs = Rendering(
        rgb=views,
        alpha=views,
        depth=views,
        pairs=P(),
        invalid=P(),
        radii=views,
        capacity=options.capacity,
        features=views,
        median_depth=views,
        normals=views,
    )
    body = partial(_exchange_and_render if split_gaussians else _render_views, axis=axis, options=options)
    # Loops in the rasterizer start from constants, which the check would want marked as varying.
    return jax.shard_map(body, mesh=mesh, in_specs=(specs,), out_specs=out_specs, check_vma=False)(inputs)


def _render_views(inputs, *, axis, options):
    names = ("gaussians", "cameras", "background", "active", "features", "offsets")
    out = _render(*(inputs[name] for name in names), options)
    return out.replace(pairs=jax.lax.pmax(out.pairs, axis), invalid=jax.lax.pmax(out.invalid, axis))


def _exchange_and_render(inputs, *, axis, options):
    """One device's views: its own gaussians [N / D] and all cameras are given."""
    gaussians, cameras = inputs["gaussians"], inputs["cameras"]
    used, invalid = select_used(gaussians, inputs["active"])
    features, absolute = inputs["features"], inputs["offsets"]["absolute_offset"]
    if features is not None:
        features, finite = flat_features(features, (), (), len(cameras))
        invalid += jnp.sum(used & ~finite, dtype=jnp.int32)
        used &= finite
    projected, axes = project_views(gaussians, cameras, used, inputs["offsets"]["mean2d_offset"], (), options)

    # [V, N / D, ...] to [V / D, N, ...]: the devices' order is that of the gaussians, so ties sort alike.
    exchange = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=1, tiled=True)
    projected, axes, features, absolute = jax.tree.map(exchange, (projected, axes, features, absolute))
    views = len(projected.depths)
    grid = dataclasses.replace(make_grid((), cameras, options), views=views)
    background = flat_background(inputs["background"], views, grid.height, grid.width)
    out = rasterize(projected, features, axes, absolute, background, invalid, grid, options)
    return out.replace(pairs=jax.lax.pmax(out.pairs, axis), invalid=jax.lax.psum(out.invalid, axis))
