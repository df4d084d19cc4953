"""From splats in each view to images: tile lists, compositing, and tiles put together."""

import warnings

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from splat.binning import build_bins
from splat.compositing import Images, composite, median_splats
from splat.math import safe_divide, safe_normalize
from splat.sums import take_rows
from splat.tiles import TileGrid
from splat.typing import Placeholder
from splat.views import Splats


class Rendering(flax.struct.PyTreeNode):
    """Images of V cameras; axes of scenes come before V in every image and in `radii`.

    Attributes:
        rgb: [V, H, W, 3] colour over the background.
        alpha: [V, H, W] coverage in [0, 1].
        depth: [V, H, W] expected camera z over the covered part; 0 where alpha is 0.
        pairs: [] int32, true number of (tile, gaussian) pairs; the image is incomplete where it exceeds `capacity`.
        invalid: [] int32, gaussians ignored for non-finite numbers or a zero quaternion.
        radii: [V, N, 2] half sizes in pixels of each gaussian's box, 0 where it touches no pixel.
        capacity: Pairs that there was room for (static).
        features: [V, H, W, C] sums of blending weight * feature; None without features.
        median_depth: [V, H, W] camera z of the gaussian that takes the transmittance to one half or below, 0
            where none does; None unless asked for.
        normals: [V, H, W, 3] unit normals in the world, 0 where alpha is 0; None unless asked for.
    """

    rgb: Float[Array, "*views H W 3"] | Placeholder
    alpha: Float[Array, "*views H W"] | Placeholder
    depth: Float[Array, "*views H W"] | Placeholder
    pairs: Int32[Array, ""] | Placeholder
    invalid: Int32[Array, ""] | Placeholder
    radii: Float[Array, "*views N 2"] | Placeholder
    capacity: int = flax.struct.field(pytree_node=False)
    features: Float[Array, "*views H W C"] | Placeholder | None = None
    median_depth: Float[Array, "*views H W"] | Placeholder | None = None
    normals: Float[Array, "*views H W 3"] | Placeholder | None = None

    @property
    def overflow(self) -> Bool[Array, ""]:
        """[] bool: pairs were left out; render again with a capacity of at least `pairs`."""
        return self.pairs > self.capacity

    @property
    def visible(self) -> Bool[Array, "*views N"]:
        """[..., V, N] bool: the gaussian touches a pixel of the view."""
        return self.radii[..., 0] > 0.0


def rasterize(
    splats: Splats, background: Float[Array, "#V #H #W 3"], invalid: Int32[Array, ""], grid: TileGrid
) -> Rendering:
    """Bins the splats, composites them and puts the tiles together.

    Args:
        splats: Gaussians in the grid's V views.
        background: [V or 1, H or 1, W or 1, 3].
        invalid: [] int32, goes into the result.
        grid: Geometry and options.

    Returns:
        `Rendering` of V views.
    """
    projected, features, normals = splats.projected, splats.features, splats.normals
    channels = 0 if features is None else features.shape[-1]
    bins = build_bins(jax.lax.stop_gradient(projected), grid)
    table = [projected.colors, projected.depths[..., None]]
    table += [part for part in (features, normals) if part is not None]
    parts: Images = composite(
        projected.means,
        projected.conics,
        projected.opacities,
        jnp.concatenate(table, axis=-1),
        splats.absolute_offset,
        bins,
        grid,
    )
    light, transmittance, alpha = (_untile(p.reshape(p.shape[0], -1, p.shape[-1]), grid) for p in parts)
    alpha = alpha[..., 0]
    median = None
    if grid.options.median_depth:
        still = jax.lax.stop_gradient(projected)
        rows = median_splats(still.means, still.conics, still.opacities, bins, grid)
        values = take_rows(projected.depths.reshape(-1), rows.reshape(-1))
        median = _untile(values.reshape(len(rows), 1, -1), grid)[..., 0]
    return Rendering(
        rgb=light[..., :3] + transmittance * background,
        alpha=alpha,
        depth=safe_divide(light[..., 3], alpha),
        pairs=bins.pairs,
        invalid=invalid,
        radii=jnp.where((bins.run_count > 0).reshape(grid.views, -1, 1), projected.extents, 0.0),
        capacity=grid.capacity,
        features=None if features is None else light[..., 4 : 4 + channels],
        median_depth=median,
        normals=None if normals is None else safe_normalize(light[..., 4 + channels :]),
    )


def blank(
    background: Float[Array, "#V #H #W 3"],
    count: int,
    channels: int | None,
    invalid: Int32[Array, ""],
    grid: TileGrid,
) -> Rendering:
    """The rendering of no gaussians, or of images without pixels.

    Args:
        background: [V or 1, H or 1, W or 1, 3].
        count: N, gaussians given.
        channels: C of the features, None without features.
        invalid: [] int32, goes into the result.
        grid: Geometry and options.

    Returns:
        `Rendering` of V views.
    """
    size = (grid.views, grid.height, grid.width)
    empty = jnp.zeros(size, jnp.float32)
    return Rendering(
        rgb=jnp.broadcast_to(background, (*size, 3)),
        alpha=empty,
        depth=empty,
        pairs=jnp.int32(0),
        invalid=invalid,
        radii=jnp.zeros((grid.views, count, 2), jnp.float32),
        capacity=grid.capacity,
        features=None if channels is None else jnp.zeros((*size, channels), jnp.float32),
        median_depth=empty if grid.options.median_depth else None,
        normals=jnp.zeros((*size, 3), jnp.float32) if grid.options.normals else None,
    )


def warn_about(rendering: Rendering) -> None:
    """Warns the caller's caller of ignored gaussians and of missing pairs; outside jit.

    Args:
        rendering: With concrete numbers.
    """
    invalid, pairs = int(rendering.invalid), int(rendering.pairs)
    if invalid:
        message = f"ignored {invalid} gaussians with non-finite numbers or a zero quaternion"
        warnings.warn(message, stacklevel=3)
    if pairs > rendering.capacity:
        warnings.warn(
            f"the image is incomplete: {pairs} tile-gaussian pairs, room for {rendering.capacity}; raise capacity",
            stacklevel=3,
        )


def _untile(values: Float[Array, "tiles C P"], grid: TileGrid) -> Float[Array, "V H W C"]:
    """Puts the tiles of all views together."""
    shape = (grid.views, grid.rows, grid.columns, values.shape[1], grid.tile, grid.tile)
    image = values.reshape(shape).transpose(0, 1, 4, 2, 5, 3)
    image = image.reshape(grid.views, grid.rows * grid.tile, grid.columns * grid.tile, -1)
    return image[:, : grid.height, : grid.width]
