"""Front-to-back alpha compositing over blocks of tile lists, with a hand-written gradient.

Compositing is associative, so every tile's list is cut into equal blocks that are evaluated side by side. Rules
(gsplat 1.5.3): alpha = min(0.999, o exp(-sigma)); alpha < 1/255 counts for nothing; a pixel stops *before* the splat
that would take its transmittance to 1e-4 or below. The stop takes two passes: the blocks' sums of log(1 - alpha) give
the transmittance at each block's start, then colours are summed over what lies before the stop. Blocks that no pixel
reaches are dropped. The gradient recomputes alpha with the same masks.
"""
import math
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from splat.binning import Bins, TileGrid
from splat.projection import MIN_ALPHA
from splat.sums import segmented_scan, sum_runs

MAX_ALPHA = 0.999
LOG_STOP = math.log(1e-4)


@flax.struct.dataclass
class Blocks:
    """What the two passes leave for the gradient.

    Attributes:
      live: [blocks] block numbers, those that some pixel reaches first, in order.
      live_count: [] how many.
      log_start: [blocks, P] log transmittance at each block's start.
      light: [blocks, P, C] features that each block adds to the image.
    """

    live: jax.Array
    live_count: jax.Array
    log_start: jax.Array
    light: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def composite(
    means: jax.Array, conics: jax.Array, opacities: jax.Array, features: jax.Array, bins: Bins, grid: TileGrid
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums features over the splats of each pixel.

    Args:
      means: [V, N, 2] pixels.
      conics: [V, N, 3] entries (xx, xy, yy).
      opacities: [V, N] in [0, 1].
      features: [V, N, C].
      bins: tile lists of the same gaussians.
      grid: static sizes.

    Returns:
      [tiles, P, C] sums of weight * feature, [tiles, P] transmittance behind the last splat and [tiles, P] its
      complement, exact where it is small; P = tile^2. Differentiable in the four float arguments.
    """
    return _forward(means, conics, opacities, features, bins, grid)[0]


def _forward(means, conics, opacities, features, bins, grid):
    table = _table(means, conics, opacities, features)
    log_sums = _map_slabs(
        lambda number: _log_sum(*_read(table, bins, grid, number)), jnp.arange(grid.blocks, dtype=jnp.int32),
        _slabs(bins.block_count, grid), grid, (grid.tile**2,),
    )
    first = _tile_starts(bins.block_tile)
    log_start = segmented_scan(log_sums, first, exclusive=True)
    reached = (bins.block_count > 0) & jnp.any(log_start > LOG_STOP, axis=1)
    live = jnp.argsort(~reached, stable=True).astype(jnp.int32)
    live_count = jnp.sum(reached, dtype=jnp.int32)
    slabs = -(-live_count // grid.slab)

    def light_of(number):
        return _light(*_read(table, bins, grid, number), log_start[number])

    packed = _map_slabs(light_of, live, slabs, grid, (grid.tile**2, features.shape[-1] + 1), scatter=True)
    light, log_kept = packed[..., :-1], packed[..., -1]
    light_total = _tile_sums(light, bins, grid)
    log_end = _tile_sums(log_kept, bins, grid)
    return (light_total, jnp.exp(log_end), -jnp.expm1(log_end)), Blocks(live, live_count, log_start, light)


def _composite_fwd(means, conics, opacities, features, bins, grid):
    outputs, blocks = _forward(means, conics, opacities, features, bins, grid)
    return outputs, (means, conics, opacities, features, bins, blocks, outputs[1])


def _composite_bwd(grid, residuals, cotangents):
    means, conics, opacities, features, bins, blocks, transmittance = residuals
    light_bar, transmittance_bar, coverage_bar = cotangents
    views, count = opacities.shape
    channels = features.shape[-1]
    table = _table(means, conics, opacities, features)

    # Light that reaches the pixel from behind each block, as the scalar product with the incoming gradient.
    tile = jnp.minimum(bins.block_tile, grid.tiles - 1)
    own = jnp.sum(blocks.light * light_bar[tile], axis=-1)
    first = _tile_starts(bins.block_tile)
    last = jnp.concatenate([first[1:], jnp.ones(1, bool)])
    behind = segmented_scan(own[::-1], last[::-1], exclusive=True)[::-1]
    behind = behind + (transmittance * (transmittance_bar - coverage_bar))[tile]

    def rows_of(number):
        where = tile[number]
        return _gradient_rows(*_read(table, bins, grid, number), blocks.log_start[number], light_bar[where], behind[number])

    slabs = -(-blocks.live_count // grid.slab)
    rows = _map_slabs(rows_of, blocks.live, slabs, grid, (grid.block, 6 + channels), scatter=True)
    rows = rows.reshape(grid.blocks * grid.block, 6 + channels)
    sums = sum_runs(rows, bins.row_of_pair, bins.run_start, bins.run_count).reshape(views, count, 6 + channels)

    total, mx, my, mxx, mxy, myy = (sums[..., i] for i in range(6))
    xx, xy, yy = (conics[..., i] for i in range(3))
    means_bar = jnp.stack([-(xx * mx + xy * my), -(xy * mx + yy * my)], axis=-1)
    conics_bar = jnp.stack([0.5 * mxx, mxy, 0.5 * myy], axis=-1)
    opacities_bar = jnp.where(total != 0.0, -total / jnp.maximum(opacities, MIN_ALPHA), 0.0)
    return means_bar, conics_bar, opacities_bar, sums[..., 6:], None


composite.defvjp(_composite_fwd, _composite_bwd)


def _table(means, conics, opacities, features):
    parts = [means, conics, opacities[..., None], features]
    return jnp.concatenate(parts, axis=-1).reshape(-1, 6 + features.shape[-1])


def _tile_starts(block_tile: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.ones(1, bool), block_tile[1:] != block_tile[:-1]])


def _slabs(block_count: jax.Array, grid: TileGrid) -> jax.Array:
    return -(-jnp.sum(block_count > 0, dtype=jnp.int32) // grid.slab)


def _map_slabs(function, numbers, slabs, grid: TileGrid, shape: tuple, scatter: bool = False) -> jax.Array:
    """Fills [blocks, *shape] slab by slab; with `scatter` the results go to their block numbers, else in order."""

    def body(i, out):
        number = jax.lax.dynamic_slice(numbers, (i * grid.slab,), (grid.slab,))
        values = function(number)
        if scatter:
            return out.at[number].set(values, unique_indices=True)
        return jax.lax.dynamic_update_slice(out, values, (i * grid.slab,) + (0,) * len(shape))

    return jax.lax.fori_loop(0, slabs, body, jnp.zeros((grid.blocks, *shape), jnp.float32))


def _read(table: jax.Array, bins: Bins, grid: TileGrid, number: jax.Array):
    """Rows [B, K, R] of the blocks' splats (opacity 0 behind a block's end) and pixel centres [B, P] twice."""
    place = jnp.arange(grid.block, dtype=jnp.int32)
    slot = jnp.minimum(bins.block_start[number][:, None] + place[None], grid.capacity - 1)
    rows = table[bins.splat_of_pair[slot]]
    filled = place[None] < bins.block_count[number][:, None]
    rows = rows.at[..., 5].set(jnp.where(filled, rows[..., 5], 0.0))
    tile = jnp.minimum(bins.block_tile[number], grid.tiles - 1) % (grid.rows * grid.columns)
    pixel = jnp.arange(grid.tile**2, dtype=jnp.int32)
    x = (tile % grid.columns * grid.tile)[:, None] + (pixel % grid.tile)[None]
    y = (tile // grid.columns * grid.tile)[:, None] + (pixel // grid.tile)[None]
    return rows, x + jnp.float32(0.5), y + jnp.float32(0.5)


def _alpha(rows, x, y):
    """alpha [B, K, P], the offsets from the mean and where alpha follows the gaussian (neither cut off nor clamped)."""
    dx = x[:, None] - rows[..., 0, None]
    dy = y[:, None] - rows[..., 1, None]
    xx, xy, yy = (rows[..., i, None] for i in (2, 3, 4))
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    raw = rows[..., 5, None] * jnp.exp(-sigma)
    counts = (raw >= MIN_ALPHA) & (sigma >= 0.0)
    return jnp.where(counts, jnp.minimum(raw, MAX_ALPHA), 0.0), dx, dy, counts & (raw <= MAX_ALPHA)


def _log_sum(rows, x, y):
    return jnp.sum(jnp.log1p(-_alpha(rows, x, y)[0]), axis=1)


def _transmittance(alpha, log_start):
    """Log transmittance before each splat, log(1 - alpha), and which splats lie before the stop; all [B, K, P]."""
    logs = jnp.log1p(-alpha)
    size = alpha.shape[1]
    below = jnp.tril(jnp.ones((size, size), jnp.float32), -1)
    before = jnp.einsum("kj,bjp->bkp", below, logs, precision="highest") + log_start[:, None]
    return before, logs, before + logs > LOG_STOP


def _light(rows, x, y, log_start):
    alpha = _alpha(rows, x, y)[0]
    before, logs, kept = _transmittance(alpha, log_start)
    weight = jnp.where(kept, alpha * jnp.exp(before), 0.0)
    light = jnp.einsum("bkp,bkc->bpc", weight, rows[..., 6:], precision="highest")
    return jnp.concatenate([light, jnp.sum(jnp.where(kept, logs, 0.0), axis=1)[..., None]], axis=-1)


def _gradient_rows(rows, x, y, log_start, light_bar, behind):
    """Moments (1, dx, dy, dx dx, dx dy, dy dy) of the gradient to sigma, then the gradient to features: [B, K, 6 + C]."""
    alpha, dx, dy, smooth = _alpha(rows, x, y)
    before, _, kept = _transmittance(alpha, log_start)
    through = jnp.exp(before)
    weight = jnp.where(kept, alpha * through, 0.0)
    gain = jnp.einsum("bkc,bpc->bkp", rows[..., 6:], light_bar, precision="highest")
    size = alpha.shape[1]
    above = jnp.triu(jnp.ones((size, size), jnp.float32), 1)
    later = jnp.einsum("kj,bjp->bkp", above, weight * gain, precision="highest") + behind[:, None]
    alpha_bar = through * gain - later / (1.0 - alpha)
    sigma_bar = jnp.where(kept & smooth, -alpha * alpha_bar, 0.0)
    moments = [sigma_bar, sigma_bar * dx, sigma_bar * dy, sigma_bar * dx * dx, sigma_bar * dx * dy, sigma_bar * dy * dy]
    moments = jnp.stack([jnp.sum(m, axis=-1) for m in moments], axis=-1)
    features_bar = jnp.einsum("bkp,bpc->bkc", weight, light_bar, precision="highest")
    return jnp.concatenate([moments, features_bar], axis=-1)


def _tile_sums(values: jax.Array, bins: Bins, grid: TileGrid) -> jax.Array:
    """Sums blocks [blocks, ...] into tiles [tiles, ...]."""
    summed = segmented_scan(values, _tile_starts(bins.block_tile), exclusive=False)
    end = jnp.searchsorted(bins.block_tile, jnp.arange(grid.tiles, dtype=jnp.int32), side="right") - 1
    safe = jnp.maximum(end, 0)
    present = (end >= 0) & (bins.block_tile[safe] == jnp.arange(grid.tiles))
    return jnp.where(present.reshape((-1,) + (1,) * (values.ndim - 1)), summed[safe], 0.0)
