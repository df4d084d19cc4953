"""Front-to-back alpha compositing over blocks of tile lists, with a hand-written gradient.

Compositing is associative, so every tile's list is cut into equal blocks that are evaluated side by side. Rules (gsplat
1.5.3): alpha = min(0.999, o exp(-sigma)); alpha < 1/255 counts as 0; a pixel stops *before* the splat that would take
its transmittance to 1e-4 or below. The stop takes two passes: the blocks' sums of log(1 - alpha) give the transmittance
at each block's start, then colours are summed over the splats before the stop. Blocks that no pixel reaches are
dropped. The gradient recomputes alpha with the same masks.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from splat import blocks as kernels
from splat.binning import Bins, BlockList, keep_blocks
from splat.projection import MIN_ALPHA
from splat.slabs import Table, make_table, map_slabs, read_slab, take_slab, tile_sums
from splat.sums import segmented_scan, sum_runs
from splat.tiles import TileGrid
from splat.typing import Placeholder


# Sums of weight * feature, the transmittance behind the last splat, and its complement.
Images = tuple[Float[Array, "tiles C P"], Float[Array, "tiles P"], Float[Array, "tiles P"]]


class Passes(flax.struct.PyTreeNode):
    """Results of the two passes that the gradient needs.

    Attributes:
        live: The blocks that some pixel reaches before its stop.
        live_place: [blocks] int32, place of each of all blocks in `live`.
        log_start: [blocks, P] log transmittance at each live block's start.
        light: [blocks, C + 3, P] light of each live block, see `splat.blocks.light_matrix`.
        transmittance: [tiles, P] behind the last splat.
    """

    live: BlockList | Placeholder
    live_place: Int32[Array, "blocks"] | Placeholder
    log_start: Float[Array, "blocks P"] | Placeholder
    light: Float[Array, "blocks L P"] | Placeholder
    transmittance: Float[Array, "tiles P"] | Placeholder


# Differentiable arguments of `composite`, its bins and passes.
Residuals = tuple[Array, Array, Array, Array, Array | None, Bins, Passes]


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def composite(
    means: Float[Array, "V N 2"],
    conics: Float[Array, "V N 3"],
    opacities: Float[Array, "V N"],
    features: Float[Array, "V N C"],
    absolute: Float[Array, "V N 2"] | None,
    bins: Bins,
    grid: TileGrid,
) -> Images:
    """Sums features over the splats of each pixel.

    Args:
        means: [V, N, 2] pixels.
        conics: [V, N, 3] entries (xx, xy, yy), 1 / pixel^2.
        opacities: [V, N] in [0, 1].
        features: [V, N, C].
        absolute: None, or [V, N, 2] of any values, which are not used: its "gradient" is that of `means` with the
            absolute value of each pixel's part (Ye et al., "AbsGS", 2024).
        bins: Tile lists of the same gaussians.
        grid: Geometry and options.

    Returns:
        [tiles, C, P] sums of weight * feature, [tiles, P] transmittance behind the last splat and [tiles, P] its
        complement, exact where it is small; P = tile^2. Differentiable in the first four arguments.
    """
    del absolute
    return _forward(means, conics, opacities, features, bins, grid)[0]


def _forward(
    means: Array, conics: Array, opacities: Array, features: Array, bins: Bins, grid: TileGrid
) -> tuple[Images, Passes]:
    table = make_table(means, conics, opacities, features)
    channels = features.shape[-1]
    live, live_place, log_start = find_live(table, bins, grid)
    light = sum_light(table, bins, live, log_start, grid)
    total = tile_sums(light, live)
    transmittance = jnp.exp(total[:, channels + 1])
    outputs = total[:, :channels], transmittance, total[:, channels]
    return outputs, Passes(live, live_place, log_start, light, transmittance)


def find_live(
    table: Table, bins: Bins, grid: TileGrid
) -> tuple[BlockList, Int32[Array, "blocks"], Float[Array, "blocks P"]]:
    """First pass: the blocks that some pixel reaches before its stop.

    Args:
        table: [V * N, 6 + C] mean, conic, opacity, features.
        bins: As for `composite`.
        grid: As for `composite`.

    Returns:
        `live`, `live_place` and `log_start` of `Passes`.
    """
    every = bins.blocks
    log_start = _log_starts(table, bins, grid)
    reached = (every.count > 0) & jnp.any(log_start > kernels.LOG_STOP, axis=1)
    live, source, live_place = keep_blocks(every, reached)
    return live, live_place, log_start[source]


def sum_light(
    table: Table, bins: Bins, live: BlockList, log_start: Float[Array, "blocks P"], grid: TileGrid
) -> Float[Array, "blocks L P"]:
    """Second pass: the light of each live block.

    Args:
        table: As for `find_live`.
        bins: As for `composite`.
        live: From `find_live`.
        log_start: [blocks, P], from `find_live`.
        grid: As for `composite`.

    Returns:
        [blocks, C + 3, P], see `splat.blocks.light_matrix`.
    """
    unroll = grid.options.unroll
    kernel = partial(kernels.light_scan, unroll=unroll) if unroll else kernels.light_matrix

    def light_of(begin: Array) -> Array:
        return kernel(*read_slab(table, bins.splat_of_pair, live, grid, begin), take_slab(log_start, grid, begin))

    return map_slabs(light_of, live.used, grid, (table.shape[-1] - 3, grid.tile**2))


def _composite_fwd(
    means: Array,
    conics: Array,
    opacities: Array,
    features: Array,
    absolute: Array | None,
    bins: Bins,
    grid: TileGrid,
) -> tuple[Images, Residuals]:
    outputs, passes = _forward(means, conics, opacities, features, bins, grid)
    return outputs, (means, conics, opacities, features, absolute, bins, passes)


def _composite_bwd(
    grid: TileGrid, residuals: Residuals, cotangents: Images
) -> tuple[Array, Array, Array, Array, Array | None, None]:
    means, conics, opacities, features, absolute, bins, passes = residuals
    views, count = opacities.shape
    channels = features.shape[-1]
    table = make_table(means, conics, opacities, features)
    rows = gradient_rows(table, bins, passes, cotangents, grid, absolute is not None)
    sums = sum_pairs(rows, bins, passes.live_place, grid).reshape(views, count, -1)
    total, mx, my, mxx, mxy, myy = (sums[..., i] for i in range(6))
    xx, xy, yy = (conics[..., i] for i in range(3))
    means_bar = jnp.stack([-(xx * mx + xy * my), -(xy * mx + yy * my)], axis=-1)
    conics_bar = jnp.stack([0.5 * mxx, mxy, 0.5 * myy], axis=-1)
    opacities_bar = jnp.where(total != 0.0, -total / jnp.maximum(opacities, MIN_ALPHA), 0.0)
    absolute_bar = None if absolute is None else sums[..., 6 + channels :]
    return means_bar, conics_bar, opacities_bar, sums[..., 6 : 6 + channels], absolute_bar, None


def gradient_rows(
    table: Table, bins: Bins, passes: Passes, cotangents: Images, grid: TileGrid, absolute: bool = False
) -> Float[Array, "rows D"]:
    """Gradients of every (tile, gaussian) pair.

    Args:
        table: As for `find_live`.
        bins: As for `composite`.
        passes: Results of the forward passes.
        cotangents: Gradients to the three outputs of `composite`.
        grid: As for `composite`.
        absolute: As for `splat.blocks.gradients_matrix`.

    Returns:
        [blocks * K, 6 + C (+ 2)]: moments (1, x, y, x x, x y, y y) about the gaussian's mean of the gradient to sigma,
        the gradient to the features, and the absolute sums, in the order of the live blocks.
    """
    light_bar, transmittance_bar, coverage_bar = cotangents
    live, channels = passes.live, table.shape[-1] - 6
    # Light that reaches the pixel from behind each block, as the scalar product with the incoming gradient.
    own = jnp.sum(passes.light[:, :channels] * light_bar[live.tile], axis=1)
    from_end = jnp.where(live.count > 0, live.tile_blocks[live.tile] - 1 - live.place, 0)
    behind = segmented_scan(own, from_end, exclusive=True, reverse=True)
    behind = behind + (passes.transmittance * (transmittance_bar - coverage_bar))[live.tile]
    unroll = grid.options.unroll
    kernel = partial(kernels.gradients_scan, unroll=unroll) if unroll else kernels.gradients_matrix

    def rows_of(begin: Array) -> Array:
        rows, x, y = read_slab(table, bins.splat_of_pair, live, grid, begin)
        ends = take_slab(passes.light, grid, begin)
        bar = light_bar[take_slab(live.tile, grid, begin)]
        log_start = take_slab(passes.log_start, grid, begin)
        out = kernel(rows, x, y, log_start, ends[:, -2], ends[:, -1], bar, take_slab(behind, grid, begin), absolute)
        centre = [jnp.mean(coordinate, axis=1, keepdims=True) for coordinate in (x, y)]
        return _about_means(out, centre[0] - rows[..., 0], centre[1] - rows[..., 1])

    width = table.shape[-1] + (2 if absolute else 0)
    return map_slabs(rows_of, live.used, grid, (grid.options.block_size, width)).reshape(-1, width)


def sum_pairs(
    rows: Float[Array, "rows D"], bins: Bins, live_place: Int32[Array, "blocks"], grid: TileGrid
) -> Float[Array, "splats D"]:
    """Sums the rows of `gradient_rows` over each gaussian's pairs.

    Args:
        rows: [blocks * K, D] from `gradient_rows`.
        bins: As for `composite`.
        live_place: [blocks] of `Passes`.
        grid: As for `composite`.

    Returns:
        [V * N, D].
    """
    row_of_pair = live_place[bins.block_of_pair] * grid.options.block_size + bins.place_of_pair
    return sum_runs(rows, row_of_pair, bins.run_start, bins.run_count)


def _about_means(rows: Float[Array, "B K D"], a: Float[Array, "B K"], b: Float[Array, "B K"]) -> Float[Array, "B K D"]:
    """Moments of rows about points at (-a, -b) from the tile's centre."""
    total, mu, mv, muu, muv, mvv = (rows[..., i] for i in range(6))
    moved = [
        total,
        mu + a * total,
        mv + b * total,
        muu + 2.0 * a * mu + a * a * total,
        muv + b * mu + a * mv + a * b * total,
        mvv + 2.0 * b * mv + b * b * total,
    ]
    return jnp.concatenate([jnp.stack(moved, axis=-1), rows[..., 6:]], axis=-1)


composite.defvjp(_composite_fwd, _composite_bwd)


def median_splats(
    means: Float[Array, "V N 2"],
    conics: Float[Array, "V N 3"],
    opacities: Float[Array, "V N"],
    bins: Bins,
    grid: TileGrid,
) -> Int32[Array, "tiles P"]:
    """Finds for each pixel the splat that takes its transmittance to one half or below.

    Args:
        means: As for `composite`.
        conics: As for `composite`.
        opacities: As for `composite`.
        bins: As for `composite`.
        grid: As for `composite`.

    Returns:
        [tiles, P] int32 rows v * N + n, -1 where the transmittance stays above one half.
    """
    table = make_table(means, conics, opacities, jnp.zeros((*opacities.shape, 0), jnp.float32))
    every, splats = bins.blocks, bins.splat_of_pair
    log_start = _log_starts(table, bins, grid)

    def places(begin: Array) -> Array:
        inputs = read_slab(table, splats, every, grid, begin)
        return kernels.median_place(*inputs, take_slab(log_start, grid, begin)).astype(jnp.float32)

    place = map_slabs(places, every.used, grid, (grid.tile**2,)).astype(jnp.int32)
    # The last block that starts above one half holds the splat; rounding between two blocks may hide the
    # crossing, which then belongs to the block's last splat, except in the tile's last block.
    above = tile_sums((log_start > kernels.LOG_HALF).astype(jnp.float32), every).astype(jnp.int32)
    block = jnp.minimum(every.tile_first[:, None] + jnp.maximum(above - 1, 0), grid.blocks - 1)
    found = jnp.take_along_axis(place, block, axis=0)
    crossed = (above > 0) & ((found < every.count[block]) | (above < every.tile_blocks[:, None]))
    pair = every.start[block] + jnp.minimum(found, every.count[block] - 1)
    return jnp.where(crossed, splats[jnp.clip(pair, 0, grid.capacity - 1)], -1)


def _log_starts(table: Table, bins: Bins, grid: TileGrid) -> Float[Array, "blocks P"]:
    """Log transmittance at each block's start without the stop rule."""

    def log_sums(begin: Array) -> Array:
        return kernels.log_sums(*read_slab(table, bins.splat_of_pair, bins.blocks, grid, begin))

    sums = map_slabs(log_sums, bins.blocks.used, grid, (grid.tile**2,))
    return segmented_scan(sums, bins.blocks.place, exclusive=True)
