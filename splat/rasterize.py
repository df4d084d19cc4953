"""From projected gaussians to images: what `render` and `render_sharded` have in common."""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

from splat.binning import build_bins
from splat.cameras import Cameras
from splat.compositing import composite, median_splats
from splat.gaussians import Gaussians, replace_unused, usable
from splat.math import safe_divide, safe_normalize
from splat.projection import Projected, project, shortest_axes
from splat.scenes import merge_views, one_axis
from splat.sums import take_rows
from splat.tiles import TileGrid


DEFAULT_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled in: sizes (see `TileGrid`) and the outputs asked for."""

    capacity: int
    tile: int
    block: int
    slab: int
    unroll: int
    antialiased: bool = False
    exact_tiles: bool = False
    median_depth: bool = False
    normals: bool = False


def make_options(
    capacity: int,
    *,
    median_depth: bool = False,
    normals: bool = False,
    antialiased: bool = False,
    exact_tiles: bool = False,
    tile_size: int | None = None,
    block_size: int = DEFAULT_BLOCK,
    slab: int | None = None,
    unroll: int | None = None,
) -> Options:
    """The options of `render`, with what suits the default backend where nothing is said."""
    tile, blocks, steps = {"cpu": (8, 96, 1), "gpu": (8, 8192, 8)}.get(jax.default_backend(), (16, 2048, 0))
    return Options(
        max(int(capacity), 1),
        tile_size or tile,
        block_size,
        slab or blocks,
        steps if unroll is None else unroll,
        antialiased,
        exact_tiles,
        median_depth,
        normals,
    )


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


def select_used(gaussians: Gaussians, active: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """[..., N] which gaussians are drawn, and [] how many that should be are ignored."""
    valid = usable(gaussians)
    wanted = jnp.ones_like(valid) if active is None else active.astype(bool)
    return valid & wanted, jnp.sum(wanted & ~valid, dtype=jnp.int32)


def make_grid(lead: tuple[int, ...], cameras: Cameras, options: Options) -> TileGrid:
    """Sizes of one rasterization of all scenes' views."""
    views = math.prod(lead) * len(cameras)
    return TileGrid(
        views,
        cameras.width,
        cameras.height,
        options.tile,
        options.block,
        options.slab,
        options.capacity,
        options.unroll,
        options.exact_tiles,
    )


def project_views(gaussians, cameras, used, offset, lead, options):
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


def rasterize(
    projected: Projected,
    features: jax.Array | None,
    axes: jax.Array | None,
    absolute: jax.Array | None,
    background: jax.Array,
    invalid: jax.Array,
    grid: TileGrid,
    options: Options,
) -> Rendering:
    """Bins, composites and puts the tiles together.

    Args:
      projected: of all views, [V, N, ...].
      features: [V, N, C] or None.
      axes: [V, N, 3] normals or None.
      absolute: [V, N, 2] or None, see `splat.compositing.composite`.
      background: [V or 1, H or 1, W or 1, 3].
      invalid: [] int32, handed through.
      grid: static sizes of the same V views.
      options: static options.

    Returns:
      `Rendering` of V views.
    """
    channels = 0 if features is None else features.shape[-1]
    bins = build_bins(jax.lax.stop_gradient(projected), grid)
    table = [projected.colors, projected.depths[..., None]]
    table += [part for part in (features, axes) if part is not None]
    parts = composite(
        projected.means, projected.conics, projected.opacities, jnp.concatenate(table, axis=-1), absolute, bins, grid
    )
    light, transmittance, alpha = (_untile(p.reshape(len(p), -1, p.shape[-1]), grid) for p in parts)
    alpha = alpha[..., 0]
    median = None
    if options.median_depth:
        rows = median_splats(
            *jax.lax.stop_gradient((projected.means, projected.conics, projected.opacities)), bins, grid
        )
        values = take_rows(projected.depths.reshape(-1), rows.reshape(-1))
        median = _untile(values.reshape(len(rows), 1, -1), grid)[..., 0]
    return Rendering(
        rgb=light[..., :3] + transmittance * background,
        alpha=alpha,
        depth=safe_divide(light[..., 3], alpha),
        pairs=bins.pairs,
        invalid=invalid,
        radii=jnp.where((bins.run_count > 0).reshape(grid.views, -1, 1), projected.extents, 0.0),
        capacity=options.capacity,
        features=None if features is None else light[..., 4 : 4 + channels],
        median_depth=median,
        normals=safe_normalize(light[..., 4 + channels :]) if options.normals else None,
    )


def _untile(values: jax.Array, grid: TileGrid) -> jax.Array:
    """[tiles, C, P] to [V, H, W, C]."""
    shape = (grid.views, grid.rows, grid.columns, values.shape[1], grid.tile, grid.tile)
    image = values.reshape(shape).transpose(0, 1, 4, 2, 5, 3)
    image = image.reshape(grid.views, grid.rows * grid.tile, grid.columns * grid.tile, -1)
    return image[:, : grid.height, : grid.width]
