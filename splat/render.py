"""Rendering gaussians: the public entry."""

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp

from splat.binning import count_pairs as count_projected_pairs
from splat.cameras import Cameras
from splat.checks import check_extras, leading_axes
from splat.gaussians import Gaussians
from splat.rasterize import (
    DEFAULT_BLOCK,
    Rendering,
    make_grid,
    make_options,
    project_views,
    rasterize,
    select_used,
)
from splat.scenes import flat_background, flat_features, split_views


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: float | jax.Array = 0.0,
    capacity: int | None = None,
    active: jax.Array | None = None,
    mean2d_offset: jax.Array | None = None,
    absolute_offset: jax.Array | None = None,
    features: jax.Array | None = None,
    median_depth: bool = False,
    normals: bool = False,
    antialiased: bool = False,
    exact_tiles: bool = False,
    tile_size: int | None = None,
    block_size: int = DEFAULT_BLOCK,
    slab: int | None = None,
    unroll: int | None = None,
) -> Rendering:
    """Renders gaussians into every camera.

    Differentiable in gaussians, cameras, background, features and mean2d_offset. Gaussians [..., N, 3] and
    cameras [..., V, 4, 4] may have leading axes, one scene each; either may lack them and is then shared.

    Args:
      gaussians: N gaussians.
      cameras: V cameras with one image size.
      background: colour behind everything: a scalar, [3], [V, 3] or one image for each view [V, H, W, 3].
      capacity: room for (tile, gaussian) pairs over all views. Under jit or grad it must be given (see
        `count_pairs`) and the caller checks `Rendering.pairs`; otherwise `render` sizes it itself.
      active: [N] bool; inactive gaussians are not drawn and get zero gradients.
      mean2d_offset: [V, N, 2] pixels added to the projected means; its gradient is the screen-space gradient.
      absolute_offset: [V, N, 2], values unused: its "gradient" is the screen-space gradient with the absolute
        value of every pixel's part, which does not cancel inside a large gaussian (AbsGS, Ye et al. 2024).
      features: [N, C] or [V, N, C] channels composited beside the colour.
      median_depth: fill `Rendering.median_depth`.
      normals: fill `Rendering.normals` from each gaussian's shortest axis, turned towards the camera.
      antialiased: keep the light of gaussians smaller than a pixel (Mip-Splatting's 2D filter).
      exact_tiles: list only tiles that an ellipse touches: fewer pairs and the same image, some more work
        before the sort.
      tile_size: edge of a tile in pixels; the default depends on the backend.
      block_size: pairs in one block of a tile's list.
      slab: blocks evaluated together; the default depends on the backend.
      unroll: splats of a block that one step evaluates: 1 on CPUs, 8 on GPUs; 0, elsewhere, takes a whole
        block by small matrix products. Same image to rounding.

    Returns:
      `Rendering`.

    Raises:
      ValueError: capacity missing under jit or grad, or shapes that do not fit.
    """
    offsets = {"mean2d_offset": mean2d_offset, "absolute_offset": absolute_offset}
    check_extras(gaussians, cameras, background, active, features, offsets)
    inputs = gaussians, cameras, background, active, features, offsets
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs))
    if capacity is None:
        if traced:
            raise ValueError(
                "render got no capacity inside jit or grad; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras), pad it, and check Rendering.pairs against it"
            )
        pairs = count_pairs(
            gaussians, cameras, active=active, tile_size=tile_size, antialiased=antialiased, exact_tiles=exact_tiles
        )
        capacity = round_capacity(pairs)
    options = make_options(
        capacity,
        median_depth=median_depth,
        normals=normals,
        antialiased=antialiased,
        exact_tiles=exact_tiles,
        tile_size=tile_size,
        block_size=block_size,
        slab=slab,
        unroll=unroll,
    )
    out = _render(*inputs, options)
    if not traced:
        _warn(out)
    return out


def count_pairs(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    active: jax.Array | None = None,
    tile_size: int | None = None,
    antialiased: bool = False,
    exact_tiles: bool = False,
) -> int:
    """Number of (tile, gaussian) pairs that rendering with the same options needs room for; outside jit."""
    leading_axes(gaussians, cameras)
    options = make_options(1, antialiased=antialiased, tile_size=tile_size)
    pairs = int(_count(gaussians, cameras, active, options))
    if exact_tiles and 0 < pairs < 2**31 - 1:
        options = dataclasses.replace(options, capacity=round_capacity(pairs), exact_tiles=True)
        pairs = int(_count(gaussians, cameras, active, options))
    return pairs


def round_capacity(pairs: int, margin: float = 0.0) -> int:
    """`pairs` plus a margin, rounded up to one of eight sizes an octave: few sizes are ever compiled."""
    needed = max(256, int(pairs * (1.0 + margin)) + 1)
    step = 1 << max(0, needed.bit_length() - 4)
    return -(-needed // step) * step


def _warn(out: Rendering) -> None:
    invalid, pairs = int(out.invalid), int(out.pairs)
    if invalid:
        message = f"ignored {invalid} gaussians with non-finite numbers or a zero quaternion"
        warnings.warn(message, stacklevel=3)
    if pairs > out.capacity:
        warnings.warn(
            f"the image is incomplete: {pairs} tile-gaussian pairs, room for {out.capacity}; raise capacity",
            stacklevel=3,
        )


@partial(jax.jit, static_argnums=3)
def _count(gaussians, cameras, active, options):
    lead = leading_axes(gaussians, cameras)
    projected, _ = project_views(gaussians, cameras, select_used(gaussians, active)[0], None, lead, options)
    return count_projected_pairs(projected, make_grid(lead, cameras, options))


@partial(jax.jit, static_argnums=6)
def _render(gaussians, cameras, background, active, features, offsets, options):
    lead = leading_axes(gaussians, cameras)
    grid = make_grid(lead, cameras, options)
    used, invalid = select_used(gaussians, active)
    channels = 0 if features is None else features.shape[-1]
    if features is not None:
        features, finite = flat_features(features, used.shape[:-1], lead, grid.views)
        invalid += jnp.sum(used & ~finite, dtype=jnp.int32)
        used &= finite
    background = flat_background(background, grid.views, grid.height, grid.width)
    size = (grid.views, grid.height, grid.width)
    count = len(gaussians)
    if count == 0 or 0 in size:
        blank = jnp.zeros(size, jnp.float32)
        out = Rendering(
            rgb=jnp.broadcast_to(background, (*size, 3)),
            alpha=blank,
            depth=blank,
            pairs=jnp.int32(0),
            invalid=invalid,
            radii=jnp.zeros((grid.views, count, 2), jnp.float32),
            capacity=options.capacity,
            features=None if features is None else jnp.zeros((*size, channels), jnp.float32),
            median_depth=blank if options.median_depth else None,
            normals=jnp.zeros((*size, 3), jnp.float32) if options.normals else None,
        )
        return split_views(out, lead)

    projected, axes = project_views(gaussians, cameras, used, offsets["mean2d_offset"], lead, options)
    absolute = offsets["absolute_offset"]
    absolute = None if absolute is None else absolute.reshape(grid.views, count, 2)
    return split_views(rasterize(projected, features, axes, absolute, background, invalid, grid, options), lead)
