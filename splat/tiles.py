"""Tiles of images: their grid, the rectangle of tiles under a gaussian, and runs of consecutive slots."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from splat.options import ResolvedOptions
from splat.projection import Projected


@dataclass(frozen=True)
class TileGrid:
    """Geometry of one rasterization; static under jit.

    Attributes:
        views: Images, over all scenes.
        width: Image width in pixels.
        height: Image height in pixels.
        capacity: Most (tile, gaussian) pairs over all views.
        options: Sizes of tiles, blocks and slabs, and which outputs to make.
    """

    views: int
    width: int
    height: int
    capacity: int
    options: ResolvedOptions

    @property
    def tile(self) -> int:
        """Edge of a square tile, pixels."""
        return self.options.tile_size

    @property
    def columns(self) -> int:
        """Tiles side by side in one view."""
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        """Tiles one above the other in one view."""
        return -(-self.height // self.tile)

    @property
    def tiles(self) -> int:
        """Tiles of all views."""
        return self.views * self.rows * self.columns

    @property
    def blocks(self) -> int:
        """Upper bound on the number of blocks, a multiple of the slab."""
        bound = self.capacity // self.options.block_size + min(self.tiles, self.capacity)
        return max(1, -(-bound // self.options.slab)) * self.options.slab


def tile_ranges(
    projected: Projected, grid: TileGrid
) -> tuple[Int32[Array, "V N"], Int32[Array, "V N"], Int32[Array, "V N 2"]]:
    """The rectangle of tiles under each gaussian.

    Args:
        projected: Gaussians of the grid's V views.
        grid: Geometry.

    Returns:
        First column [V, N], first row [V, N] and (columns, rows) [V, N, 2], int32; no columns and rows for unseen
        gaussians.
    """
    size = jnp.asarray([grid.width, grid.height], jnp.float32)[None, None]
    # Pixel i has its centre at i + 0.5; clamping before the cast keeps far-away means inside int32.
    low = jnp.clip(jnp.ceil(projected.means - projected.extents - 0.5), 0.0, size)
    high = jnp.clip(jnp.floor(projected.means + projected.extents - 0.5), -1.0, size - 1.0)
    seen = jnp.all((high >= low) & (projected.extents > 0.0), axis=-1)
    low, high = low.astype(jnp.int32) // grid.tile, high.astype(jnp.int32) // grid.tile
    counts = jnp.where(seen[..., None], high - low + 1, 0)
    return low[..., 0], low[..., 1], counts


def saturating_sum(counts: Int32[Array, "*shape"]) -> Int32[Array, ""]:
    """Sum of counts, 2^31 - 1 where it would be larger."""
    total = jnp.sum(counts, dtype=jnp.int32)
    huge = jnp.sum(counts.astype(jnp.float32)) > 2.0e9
    return jnp.where(huge, jnp.int32(2**31 - 1), total)


def runs(lengths: Int32[Array, "R"], capacity: int) -> tuple[Int32[Array, "R"], Int32[Array, "R"]]:
    """Starts and lengths of consecutive runs, cut off at the capacity."""
    start = jnp.cumsum(lengths) - lengths
    # Runs past the capacity (or past int32) are left out; the number of pairs reports it.
    start = jnp.where((start < 0) | (start > capacity), capacity, start)
    return start, jnp.minimum(lengths, capacity - start)


def expand(start: Int32[Array, "R"], count: Int32[Array, "R"], capacity: int) -> Int32[Array, "capacity"]:
    """Index of the run that covers each of `capacity` slots, for runs that follow each other without gaps."""
    # Run starts and a running maximum: a binary search for each slot is several times slower on GPUs.
    numbers = jnp.arange(start.shape[0], dtype=jnp.int32)
    target = jnp.where(count > 0, start, capacity)
    return jax.lax.cummax(jnp.zeros(capacity, jnp.int32).at[target].max(numbers, mode="drop"))
