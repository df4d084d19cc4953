"""Rendering gaussians: the public entry."""
import dataclasses
import math
import warnings
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from splat.binning import build_bins
from splat.binning import count_pairs as count_projected_pairs
from splat.cameras import Cameras
from splat.checks import check_extras, leading_axes
from splat.compositing import composite, median_splats
from splat.gaussians import Gaussians, replace_unused, usable
from splat.math import safe_divide, safe_normalize
from splat.projection import project, shortest_axes
from splat.scenes import flat_background, flat_features, merge_views, one_axis, split_views
from splat.sums import take_rows
from splat.tiles import TileGrid


DEFAULT_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class _Options:
    """What is compiled in: sizes (see `TileGrid`) and the outputs asked for."""

    capacity: int
    tile: int
    block: int
    slab: int
    scan: bool
    antialiased: bool = False
    exact_tiles: bool = False
    median_depth: bool = False
    normals: bool = False


@flax.struct.dataclass
class Rendering:
    """Images of V cameras; with scenes as leading axes of the input, every image and `radii` have them too.

    Attributes:
      rgb: [V, H, W, 3] colour over the background.
      alpha: [V, H, W] coverage in [0, 1].
      depth: [V, H, W] expected camera z over the covered part; 0 where nothing covers the pixel.
      pairs: [] int32, true number of (tile, gaussian) pairs; more than `capacity` means that the image lacks
        some.
      invalid: [] int32, gaussians ignored for non-finite numbers or a zero quaternion.
      radii: [V, N, 2] half sizes in pixels of each gaussian's box, 0 where it touches no pixel.
      capacity: pairs that there was room for (static).
      features: [V, H, W, C] sums of blending weight * feature, where features were given.
      median_depth: [V, H, W] camera z of the gaussian that takes the transmittance to one half or below, 0
        where none does; where asked for.
      normals: [V, H, W, 3] unit normals in the world, 0 where nothing covers the pixel; where asked for.
    """

    rgb: jax.Array
    alpha: jax.Array
    depth: jax.Array
    pairs: jax.Array
    invalid: jax.Array
    radii: jax.Array
    capacity: int = flax.struct.field(pytree_node=False)
    features: jax.Array | None = None
    median_depth: jax.Array | None = None
    normals: jax.Array | None = None

    @property
    def overflow(self) -> jax.Array:
        """[] bool: pairs were left out; render again with a capacity of at least `pairs`."""
        return self.pairs > self.capacity

    @property
    def visible(self) -> jax.Array:
        """[V, N] bool: the gaussian touches a pixel of the view."""
        return self.radii[..., 0] > 0.0


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

    Returns:
      `Rendering`.

    Raises:
      ValueError: capacity missing under jit or grad, or shapes that do not fit.
    """
    offsets = {"mean2d_offset": mean2d_offset, "absolute_offset": absolute_offset}
    check_extras(gaussians, cameras, background, active, features, offsets)
    tile_size, slab, scan = _schedule(tile_size, slab)
    inputs = gaussians, cameras, background, active, features, offsets
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs))
    if capacity is None:
        if traced:
            raise ValueError(
                "render got no capacity inside jit or grad; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras), pad it, and check Rendering.pairs against it"
            )
        pairs = count_pairs(gaussians, cameras, active=active, tile_size=tile_size, antialiased=antialiased,
                            exact_tiles=exact_tiles)
        capacity = round_capacity(pairs)
    options = _Options(max(int(capacity), 1), tile_size, block_size, slab, scan, antialiased, exact_tiles,
                       median_depth, normals)
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
    options = _Options(1, _schedule(tile_size, None)[0], 1, 1, False, antialiased)
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


def _schedule(tile_size: int | None, slab: int | None) -> tuple[int, int, bool]:
    """Tile size, slab, and whether blocks are walked splat by splat: what suits the default backend."""
    on_cpu = jax.default_backend() == "cpu"
    return tile_size or (8 if on_cpu else 16), slab or (96 if on_cpu else 2048), on_cpu


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


def _used(gaussians: Gaussians, active: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    valid = usable(gaussians)
    wanted = jnp.ones_like(valid) if active is None else active.astype(bool)
    return valid & wanted, jnp.sum(wanted & ~valid, dtype=jnp.int32)


def _grid(lead: tuple[int, ...], cameras: Cameras, options: _Options) -> TileGrid:
    views = math.prod(lead) * len(cameras)
    return TileGrid(views, cameras.width, cameras.height, options.tile, options.block, options.slab,
                    options.capacity, options.scan, options.exact_tiles)


def _project(gaussians, cameras, used, offset, lead, options):
    """All scenes' `Projected` as if they were views of one, [V', N, ...], and normals [V', N, 3] or None."""

    def one(gaussians, cameras, used, offset):
        gaussians = replace_unused(gaussians, used)
        projected = project(gaussians, cameras, offset, options.antialiased)
        projected = projected.replace(extents=jnp.where(used[None, :, None], projected.extents, 0.0))
        return projected, shortest_axes(gaussians, cameras) if options.normals else None

    if not lead:
        return one(gaussians, cameras, used, offset)
    views, count = len(cameras), len(gaussians)
    cameras = one_axis(cameras, cameras.world_to_camera.ndim - 3, lead)
    offset = None if offset is None else offset.reshape(-1, views, count, 2)
    if gaussians.means.ndim == 2:  # one scene under all cameras
        return one(gaussians, merge_views(cameras), used, merge_views(offset))
    gaussians, used = (one_axis(tree, len(lead), lead) for tree in (gaussians, used))
    return merge_views(jax.vmap(one)(gaussians, cameras, used, offset))


@partial(jax.jit, static_argnums=3)
def _count(gaussians, cameras, active, options):
    lead = leading_axes(gaussians, cameras)
    projected, _ = _project(gaussians, cameras, _used(gaussians, active)[0], None, lead, options)
    return count_projected_pairs(projected, _grid(lead, cameras, options))


@partial(jax.jit, static_argnums=6)
def _render(gaussians, cameras, background, active, features, offsets, options):
    lead = leading_axes(gaussians, cameras)
    grid = _grid(lead, cameras, options)
    used, invalid = _used(gaussians, active)
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
            rgb=jnp.broadcast_to(background, (*size, 3)), alpha=blank, depth=blank, pairs=jnp.int32(0),
            invalid=invalid, radii=jnp.zeros((grid.views, count, 2), jnp.float32), capacity=options.capacity,
            features=None if features is None else jnp.zeros((*size, channels), jnp.float32),
            median_depth=blank if options.median_depth else None,
            normals=jnp.zeros((*size, 3), jnp.float32) if options.normals else None,
        )
        return split_views(out, lead)

    projected, axes = _project(gaussians, cameras, used, offsets["mean2d_offset"], lead, options)
    bins = build_bins(jax.lax.stop_gradient(projected), grid)
    table = [projected.colors, projected.depths[..., None]]
    table += [part for part in (features, axes) if part is not None]
    absolute = offsets["absolute_offset"]
    absolute = None if absolute is None else absolute.reshape(grid.views, count, 2)
    parts = composite(projected.means, projected.conics, projected.opacities,
                      jnp.concatenate(table, axis=-1), absolute, bins, grid)
    light, transmittance, alpha = (_untile(p.reshape(*p.shape[:2], -1), grid) for p in parts)
    alpha = alpha[..., 0]
    radii = jnp.where((bins.run_count > 0).reshape(grid.views, -1, 1), projected.extents, 0.0)
    median = None
    if options.median_depth:
        rows = median_splats(*jax.lax.stop_gradient((projected.means, projected.conics, projected.opacities)),
                             bins, grid)
        values = take_rows(projected.depths.reshape(-1), rows.reshape(-1))
        median = _untile(values.reshape(*rows.shape, 1), grid)[..., 0]
    out = Rendering(
        rgb=light[..., :3] + transmittance * background,
        alpha=alpha,
        depth=safe_divide(light[..., 3], alpha),
        pairs=bins.pairs,
        invalid=invalid,
        radii=radii,
        capacity=options.capacity,
        features=None if features is None else light[..., 4 : 4 + channels],
        median_depth=median,
        normals=safe_normalize(light[..., 4 + channels :]) if options.normals else None,
    )
    return split_views(out, lead)


def _untile(values: jax.Array, grid: TileGrid) -> jax.Array:
    """[tiles, P, C] to [V, H, W, C]."""
    shape = (grid.views, grid.rows, grid.columns, grid.tile, grid.tile, values.shape[-1])
    image = values.reshape(shape).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(grid.views, grid.rows * grid.tile, grid.columns * grid.tile, -1)
    return image[:, : grid.height, : grid.width]
