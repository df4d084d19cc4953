"""Slabs of blocks: splats and pixels of the blocks that are evaluated together, and sums of blocks over tiles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from splat.binning import BlockList
from splat.sums import sum_segments
from splat.tiles import TileGrid


# One row for each splat: mean, conic, opacity, features.
Table = Float[Array, "splats R"]


def make_table(
    means: Float[Array, "V N 2"],
    conics: Float[Array, "V N 3"],
    opacities: Float[Array, "V N"],
    features: Float[Array, "V N C"],
) -> Table:
    """Joins the attributes of all splats: [V * N, 6 + C]."""
    parts = [means, conics, opacities[..., None], features]
    return jnp.concatenate(parts, axis=-1).reshape(-1, 6 + features.shape[-1])


def map_slabs(
    function: Callable[[Array], Array], used: Int32[Array, ""], grid: TileGrid, shape: tuple[int, ...]
) -> Float[Array, "blocks *shape"]:
    """Evaluates slab after slab.

    Args:
        function: Maps the number of a slab's first block to [slab, *shape].
        used: [] int32, number of blocks; later slabs are not evaluated.
        grid: Geometry and options.
        shape: Shape of one block's result.

    Returns:
        [blocks, *shape], zeros after the last slab.
    """

    def body(i: Array, out: Array) -> Array:
        begin = i * grid.options.slab
        return jax.lax.dynamic_update_slice(out, function(begin), (begin,) + (0,) * len(shape))

    slabs = (used + grid.options.slab - 1) // grid.options.slab
    return jax.lax.fori_loop(0, slabs, body, jnp.zeros((grid.blocks, *shape), jnp.float32))


def take_slab(values: Shaped[Array, "blocks *rest"], grid: TileGrid, begin: Array) -> Shaped[Array, "slab *rest"]:
    """Rows of the slab whose first block is number `begin`."""
    return jax.lax.dynamic_slice_in_dim(values, begin, grid.options.slab)


def read_slab(
    table: Table, splat_of_pair: Int32[Array, "capacity"], blocks: BlockList, grid: TileGrid, begin: Array
) -> tuple[Float[Array, "B K R"], Float[Array, "B P"], Float[Array, "B P"]]:
    """Reads the splats and pixels of a slab of B blocks.

    Args:
        table: [V * N, 6 + C] from `make_table`.
        splat_of_pair: [capacity] int32, sorted order: row of the table.
        blocks: Blocks of that order.
        grid: Geometry and options.
        begin: [] int32, number of the slab's first block.

    Returns:
        [B, K, 6 + C] rows, with opacity 0 after a block's end, and [B, P] x and [B, P] y of the pixel centres.
    """
    place = jnp.arange(grid.options.block_size, dtype=jnp.int32)[None]
    slot = jnp.minimum(take_slab(blocks.start, grid, begin)[:, None] + place, grid.capacity - 1)
    rows = table[splat_of_pair[slot]]
    filled = place < take_slab(blocks.count, grid, begin)[:, None]
    rows = rows.at[..., 5].set(jnp.where(filled, rows[..., 5], 0.0))
    tile = take_slab(blocks.tile, grid, begin)[:, None] % (grid.rows * grid.columns)
    pixel = jnp.arange(grid.tile**2, dtype=jnp.int32)[None]
    x = tile % grid.columns * grid.tile + pixel % grid.tile
    y = tile // grid.columns * grid.tile + pixel // grid.tile
    return rows, x + jnp.float32(0.5), y + jnp.float32(0.5)


def tile_sums(values: Float[Array, "blocks *rest"], blocks: BlockList) -> Float[Array, "tiles *rest"]:
    """Sums the blocks [blocks, ...] of each tile: [tiles, ...], 0 for tiles without blocks."""
    last = jnp.maximum(blocks.tile_first + blocks.tile_blocks - 1, 0)
    sums = sum_segments(values, blocks.place, last)
    return jnp.where((blocks.tile_blocks > 0).reshape((-1,) + (1,) * (values.ndim - 1)), sums, 0.0)
