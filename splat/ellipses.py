"""Which tiles an ellipse touches: fewer than the rectangle around it, and none too few."""

import flax.struct
import jax
import jax.numpy as jnp

from splat.projection import MIN_ALPHA, Projected
from splat.tiles import TileGrid, expand, runs, saturating_sum, tile_ranges


@flax.struct.dataclass
class TileRows:
    """What each gaussian touches of each row of tiles, in emission order; [capacity] int32 where not said.

    Attributes:
      splat: row v * N + n of the gaussian.
      row, column: first tile.
      width: tiles.
      pair_start: pairs before these.
      run_start, run_count: [V * N] pairs of each gaussian, in the given order.
      emitted: [] pairs inside the capacity.
      pairs: [] all pairs; where even the rows exceed the capacity, those of the rectangles.
    """

    splat: jax.Array
    row: jax.Array
    column: jax.Array
    width: jax.Array
    pair_start: jax.Array
    run_start: jax.Array
    run_count: jax.Array
    emitted: jax.Array
    pairs: jax.Array


def tile_rows(projected: Projected, grid: TileGrid, order: jax.Array) -> TileRows:
    """Tiles under each ellipse alpha >= 1/255, row by row, for gaussians `order` [V * N]."""
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
    projected: Projected, splat: jax.Array, tile_row: jax.Array, grid: TileGrid
) -> tuple[jax.Array, jax.Array]:
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
