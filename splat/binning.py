"""Lists of the gaussians that touch each tile: (tile, gaussian) pairs by two sorts, cut into blocks.

Two sorts with 32-bit keys instead of one with 64 bits: depth order inside each view, pairs emitted in that order, then
one stable sort by tile.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from splat.ellipses import tile_rows
from splat.projection import Projected
from splat.tiles import TileGrid, expand, runs, saturating_sum, tile_ranges
from splat.typing import Placeholder


class BlockList(flax.struct.PyTreeNode):
    """Blocks in the order of their tiles, from near to far inside each tile; all int32.

    Attributes:
        tile: [blocks] tile of each block; 0 after the last block.
        place: [blocks] place of each block in its tile's list, from 0.
        start: [blocks] first pair of each block, sorted order.
        count: [blocks] pairs in each block; 0 after the last block.
        tile_first: [tiles] first block of each tile.
        tile_blocks: [tiles] blocks of each tile.
        used: [] number of blocks.
    """

    tile: Int32[Array, "blocks"] | Placeholder
    place: Int32[Array, "blocks"] | Placeholder
    start: Int32[Array, "blocks"] | Placeholder
    count: Int32[Array, "blocks"] | Placeholder
    tile_first: Int32[Array, "tiles"] | Placeholder
    tile_blocks: Int32[Array, "tiles"] | Placeholder
    used: Int32[Array, ""] | Placeholder


class Bins(flax.struct.PyTreeNode):
    """Pairs in two orders and the blocks cut from them; all int32.

    "Emission order" runs view by view from near to far and tile by tile inside one gaussian; "sorted order" runs tile
    by tile, near to far inside each.

    Attributes:
        pairs: [] true number of pairs, also where it exceeds the capacity (saturates at 2^31 - 1).
        splat_of_pair: [capacity] sorted order: row v * N + n of the gaussian.
        block_of_pair: [capacity] emission order: the block that holds the pair.
        place_of_pair: [capacity] emission order: the pair's place in its block.
        run_start: [V * N] emission order: first pair of each gaussian.
        run_count: [V * N] pairs of each gaussian inside the capacity.
        blocks: Blocks of the sorted order.
    """

    pairs: Int32[Array, ""] | Placeholder
    splat_of_pair: Int32[Array, "capacity"] | Placeholder
    block_of_pair: Int32[Array, "capacity"] | Placeholder
    place_of_pair: Int32[Array, "capacity"] | Placeholder
    run_start: Int32[Array, "splats"] | Placeholder
    run_count: Int32[Array, "splats"] | Placeholder
    blocks: BlockList | Placeholder


def count_pairs(projected: Projected, grid: TileGrid) -> Int32[Array, ""]:
    """Counts the (tile, gaussian) pairs over all views.

    Args:
        projected: Gaussians of the grid's V views.
        grid: Geometry. With `exact_tiles` its capacity must be at least the number of pairs without.

    Returns:
        [] int32, 2^31 - 1 where there are more.
    """
    if grid.options.exact_tiles:
        order = jnp.arange(projected.depths.size, dtype=jnp.int32)
        return tile_rows(projected, grid, order).pairs
    counts = tile_ranges(projected, grid)[2]
    return saturating_sum(counts[..., 0] * counts[..., 1])


def build_bins(projected: Projected, grid: TileGrid) -> Bins:
    """Sorts gaussians by depth, emits pairs, sorts them by tile and cuts the lists into blocks.

    Args:
        projected: Gaussians of the grid's V views.
        grid: Geometry.

    Returns:
        `Bins`; pairs beyond the capacity are left out, and `Bins.pairs` counts them all.
    """
    views, count = projected.depths.shape
    splats = views * count
    column, row, counts = tile_ranges(projected, grid)
    area = counts[..., 0] * counts[..., 1]

    order = depth_order(projected.depths, area > 0)
    slot = jnp.arange(grid.capacity, dtype=jnp.int32)
    if grid.options.exact_tiles:
        rows = tile_rows(projected, grid, order)
        pairs, emitted_pairs = rows.pairs, rows.emitted
        run_start, run_count = rows.run_start, rows.run_count
        piece = expand(rows.pair_start, rows.width, grid.capacity)
        splat, tile_row = rows.splat[piece], rows.row[piece]
        tile_column = rows.column[piece] + slot - rows.pair_start[piece]
    else:
        pairs = saturating_sum(area)
        emitted_pairs = jnp.minimum(pairs, grid.capacity)
        run_start, run_count = runs(area.reshape(-1)[order], grid.capacity)
        run = expand(run_start, run_count, grid.capacity)
        splat = order[run]
        local = slot - run_start[run]
        width = jnp.maximum(counts[..., 0].reshape(-1)[splat], 1)
        tile_row = row.reshape(-1)[splat] + local // width
        tile_column = column.reshape(-1)[splat] + local % width
    tile = (splat // count * grid.rows + tile_row) * grid.columns + tile_column
    tile = jnp.where(slot < emitted_pairs, tile, grid.tiles)
    tile, emitted = _sort_by_tile(tile, slot, grid)

    offsets = jnp.searchsorted(tile, jnp.arange(grid.tiles + 1, dtype=tile.dtype)).astype(jnp.int32)
    blocks = _cut_blocks(offsets, grid)
    safe_tile = jnp.minimum(tile.astype(jnp.int32), grid.tiles - 1)
    size = grid.options.block_size
    place = slot - offsets[safe_tile] + blocks.tile_first[safe_tile] * size
    place = jnp.zeros(grid.capacity, jnp.int32).at[emitted].set(place, unique_indices=True)

    every = jnp.arange(splats, dtype=jnp.int32)
    rank = jnp.zeros(splats, jnp.int32).at[order].set(every, unique_indices=True)
    return Bins(
        pairs=pairs,
        splat_of_pair=splat[emitted],
        block_of_pair=jnp.minimum(place // size, grid.blocks - 1),
        place_of_pair=place % size,
        run_start=run_start[rank],
        run_count=run_count[rank],
        blocks=blocks,
    )


def depth_order(depths: Float[Array, "V N"], seen: Bool[Array, "V N"]) -> Int32[Array, "splats"]:
    """Sorts the gaussians of each view by depth.

    Args:
        depths: [V, N] camera z, above 0 where seen.
        seen: [V, N] bool.

    Returns:
        [V * N] int32 rows v * N + n, view by view from near to far, unseen gaussians last.
    """
    views, count = depths.shape
    index = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], (views, count))
    # Depths are positive, so their bits sort like integers.
    bits = jnp.where(seen, jax.lax.bitcast_convert_type(depths, jnp.uint32), jnp.uint32(0xFFFFFFFF))
    _, order = jax.lax.sort((bits, index), dimension=1, num_keys=1, is_stable=True)
    return (order + count * jnp.arange(views, dtype=jnp.int32)[:, None]).reshape(-1)


def keep_blocks(
    blocks: BlockList, kept: Bool[Array, "blocks"]
) -> tuple[BlockList, Int32[Array, "blocks"], Int32[Array, "blocks"]]:
    """Drops blocks from the ends of the tiles' lists.

    Args:
        blocks: All blocks.
        kept: [blocks] bool; inside a tile all blocks before a kept one are kept too, unused blocks never.

    Returns:
        The shorter list, [blocks] the old place of each new block, and [blocks] the new place of each old block;
        dropped blocks get a place with count 0.
    """
    size = kept.shape[0]
    rank = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(kept, dtype=jnp.int32)])
    used = rank[-1]
    number = jnp.arange(size, dtype=jnp.int32)
    source = jnp.zeros(size, jnp.int32).at[jnp.where(kept, rank[:-1], size)].set(number, mode="drop")
    filled = number < used

    def pick(values: jax.Array) -> jax.Array:
        return jnp.where(filled, values[source], 0)

    first, end = rank[blocks.tile_first], rank[blocks.tile_first + blocks.tile_blocks]
    shorter = BlockList(
        tile=pick(blocks.tile),
        place=pick(blocks.place),
        start=pick(blocks.start),
        count=pick(blocks.count),
        tile_first=first,
        tile_blocks=end - first,
        used=used,
    )
    return shorter, source, jnp.where(kept, rank[:-1], size - 1)


def _sort_by_tile(
    tile: Int32[Array, "capacity"], slot: Int32[Array, "capacity"], grid: TileGrid
) -> tuple[Int32[Array, "capacity"], Int32[Array, "capacity"]]:
    slot_bits = max(1, (grid.capacity - 1).bit_length())
    if grid.tiles.bit_length() + slot_bits <= 32:
        # One 32-bit word holds tile and slot: no second operand to move, and stability comes for free.
        packed = jnp.sort((tile.astype(jnp.uint32) << slot_bits) | slot.astype(jnp.uint32))
        return (packed >> slot_bits).astype(jnp.int32), (packed & ((1 << slot_bits) - 1)).astype(jnp.int32)
    key = tile.astype(jnp.uint16 if grid.tiles < 65_536 else jnp.uint32)
    key, slot = jax.lax.sort((key, slot), num_keys=1, is_stable=True)
    return key.astype(jnp.int32), slot


def _cut_blocks(offsets: Int32[Array, "ends"], grid: TileGrid) -> BlockList:
    size = grid.options.block_size
    counts = offsets[1:] - offsets[:-1]
    blocks = (counts + size - 1) // size
    last = jnp.cumsum(blocks)
    first = last - blocks
    tile = expand(first, blocks, grid.blocks)
    number = jnp.arange(grid.blocks, dtype=jnp.int32)
    used = number < last[-1]
    place = number - first[tile]
    return BlockList(
        tile=jnp.where(used, tile, 0),
        place=jnp.where(used, place, 0),
        start=jnp.where(used, offsets[:-1][tile] + place * size, 0),
        count=jnp.where(used, jnp.minimum(counts[tile] - place * size, size), 0),
        tile_first=first,
        tile_blocks=blocks,
        used=last[-1],
    )
