"""Tiles that an ellipse touches: fewer than the rectangle around it, and never too few."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from splat.projection import MIN_ALPHA, Projected
from splat.tiles import TileGrid, expand, runs, saturating_sum, tile_ranges
from splat.typing import Placeholder


class TileRows(flax.struct.PyTreeNode):
    """The part of each row of tiles that a gaussian touches, in emission order; all int32.

    Attributes:
        splat: [capacity] row v * N + n of the gaussian.
        row: [capacity] row of tiles.
        column: [capacity] first tile in the row.
        width: [capacity] tiles.
        pair_start: [capacity] pairs before these.
        run_start: [V * N] first pair of each gaussian, in the given order.
        run_count: [V * N] pairs of each gaussian inside the capacity, in the given order.
        emitted: [] pairs inside the capacity.
        pairs: [] all pairs; those of the rectangles where even the rows exceed the capacity.
    """

    splat: Int32[Array, "capacity"] | Placeholder
    row: Int32[Array, "capacity"] | Placeholder
    column: Int32[Array, "capacity"] | Placeholder
    width: Int32[Array, "capacity"] | Placeholder
    pair_start: Int32[Array, "capacity"] | Placeholder
    run_start: Int32[Array, "splats"] | Placeholder
    run_count: Int32[Array, "splats"] | Placeholder
    emitted: Int32[Array, ""] | Placeholder
    pairs: Int32[Array, ""] | Placeholder


def tile_rows(projected: Projected, grid: TileGrid, order: Int32[Array, "splats"]) -> TileRows:
    """Finds the tiles under each ellipse alpha >= 1/255, row by row.

    Args:
        projected: Gaussians of the grid's V views.
        grid: Geometry.
        order: [V * N] int32, rows v * N + n in the order of emission.

    Returns:
        `TileRows`.
    """
    column, row, counts = tile_ranges(projected, grid)
    heights = counts[..., 1].reshape(-1)[order]
    first, number = runs(heights, grid.capacity)
    slot = jnp.arange(grid.capacity, dtype=jnp.int32)
    run = expand(first, number, grid.capacity)
    splat = order[run]
    tile_row = row.reshape(-1)[splat] + slot - first[run]
    left, right = column.reshape(-1)[splat], counts[..., 0].reshape(-1)[splat]
    right = left + right - 1
    low, high = _columns(projected, splat, tile_row, grid)
    left, right = jnp.maximum(left, low), jnp.minimum(right, high)
    rows_used = jnp.minimum(jnp.sum(number, dtype=jnp.int32), grid.capacity)
    width = jnp.where(slot < rows_used, jnp.maximum(right - left + 1, 0), 0)

    ends = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(width)])
    ends = jnp.where((ends < 0) | (ends > grid.capacity), grid.capacity, ends)
    start = ends[first]
    rectangles = saturating_sum(counts[..., 0] * counts[..., 1])
    overflow = saturating_sum(heights) > grid.capacity
    return TileRows(
        splat=splat,
        row=tile_row,
        column=left,
        width=jnp.minimum(width, grid.capacity - ends[:-1]),
        pair_start=ends[:-1],
        run_start=start,
        run_count=ends[first + number] - start,
        emitted=ends[-1],
        pairs=jnp.where(overflow, rectangles, saturating_sum(width)),
    )


def _columns(
    projected: Projected, splat: Int32[Array, "capacity"], tile_row: Int32[Array, "capacity"], grid: TileGrid
) -> tuple[Int32[Array, "capacity"], Int32[Array, "capacity"]]:
    """First and last column of tiles that an ellipse reaches inside one row of tiles; rounded outwards."""

    def pick(values: jax.Array) -> jax.Array:
        return values.reshape(-1)[splat]

    x, y = pick(projected.means[..., 0]), pick(projected.means[..., 1])
    xx, xy, yy = (pick(projected.conics[..., i]) for i in range(3))
    ex, ey = pick(projected.extents[..., 0]), pick(projected.extents[..., 1])
    level = 2.0 * jnp.log(255.0 * jnp.maximum(pick(projected.opacities), MIN_ALPHA))
    # sigma is computed with an error of about 4e-7 of its largest term, which long needles feel.
    wider = level * 1.0005 + 1e-5 + 4e-6 * (xx * ex * ex + yy * ey * ey)
    grown = jnp.sqrt(wider / jnp.maximum(level, 1e-6)) * 1.0001
    ex, ey = ex * grown, ey * grown

    first_line = tile_row * grid.tile
    last_line = jnp.minimum(first_line + grid.tile, grid.height)
    low = jnp.maximum(first_line + 0.5 - y, -ey)
    high = jnp.minimum(last_line - 0.5 - y, ey)

    def reach(line: jax.Array, sign: float) -> jax.Array:
        """The end of the chord at `line` in the direction of `sign`, padded."""
        line = jnp.clip(line, low, high)
        centre = -xy / xx * line
        half = jnp.sqrt(wider / xx) * jnp.sqrt(jnp.maximum((1.0 - line / ey) * (1.0 + line / ey), 0.0))
        return x + centre + sign * (half + 1e-3 + 1e-4 * (half + jnp.abs(centre)))

    # An ellipse reaches furthest to the right at -xy / yy of its half width; rows above or below it see less.
    turn = -xy / yy * ex
    left, right = reach(-turn, -1.0), reach(turn, 1.0)
    sure = (level > 1e-4) & jnp.isfinite(left) & jnp.isfinite(right)
    empty = sure & (low > high)
    left = jnp.where(sure, jnp.ceil(left - 0.5), 0.0)
    right = jnp.where(sure, jnp.floor(right - 0.5), grid.width - 1.0)
    left = jnp.clip(left, 0.0, grid.width * 1.0).astype(jnp.int32)
    right = jnp.clip(right, -1.0, grid.width - 1.0).astype(jnp.int32)
    missed = empty | (left > right)
    return jnp.where(missed, grid.columns, left // grid.tile), jnp.where(missed, -1, right // grid.tile)
