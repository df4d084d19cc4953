"""What one slab of blocks of splats does to its pixels: two equal forms of the inner loops.

The matrix form evaluates a block's splats all at once and gets transmittances from a small triangular
product: right for GPUs and TPUs. The scan form walks through the splats and keeps everything in the cache:
right for CPUs.

Shapes: B blocks, K splats in each, P pixels of a tile, C features. `rows` [B, K, 6 + C] holds mean x, y,
conic xx, xy, yy, opacity and the features; `x`, `y` [B, P] are pixel centres.
"""
import math

import jax
import jax.numpy as jnp

from splat.projection import MIN_ALPHA


MAX_ALPHA = 0.999
STOP = 1e-4
LOG_STOP = math.log(STOP)
LOG_HALF = math.log(0.5)


def alphas(rows: list[jax.Array], x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """alpha, and where it follows the gaussian (neither cut off nor clamped); rows broadcast to x, y."""
    dx, dy = x - rows[0], y - rows[1]
    sigma = 0.5 * (rows[2] * dx * dx + rows[4] * dy * dy) + rows[3] * dx * dy
    raw = rows[5] * jnp.exp(-sigma)
    counts = (raw >= MIN_ALPHA) & (sigma >= 0.0)
    return jnp.where(counts, jnp.minimum(raw, MAX_ALPHA), 0.0), counts & (raw <= MAX_ALPHA)


def log_sums(rows: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of log(1 - alpha) over each block, [B, P]."""
    alpha, _ = alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])
    return jnp.sum(jnp.log1p(-alpha), axis=1)


def light_matrix(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array) -> jax.Array:
    """Light of each block.

    Args:
      rows, x, y: see above.
      log_start: [B, P] log transmittance at the block's start.

    Returns:
      [B, P, C + 3]: sums of weight * feature, sum of weights, log(1 - alpha) summed over the splats before
      the stop, and the number of these splats.
    """
    alpha, _ = alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])
    logs = jnp.log1p(-alpha)
    before = _sum_along_block(logs, jnp.tril, -1) + log_start[:, None]
    kept = before + logs > LOG_STOP
    weight = jnp.where(kept, alpha * jnp.exp(before), 0.0)
    features = jnp.concatenate([rows[..., 6:], jnp.ones_like(rows[..., :1])], axis=-1)
    light = jnp.einsum("bkp,bkc->bpc", weight, features, precision="highest")
    ends = [jnp.sum(jnp.where(kept, logs, 0.0), axis=1), jnp.sum(kept, axis=1, dtype=jnp.float32)]
    return jnp.concatenate([light, jnp.stack(ends, axis=-1)], axis=-1)


def light_scan(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array) -> jax.Array:
    """The same as `light_matrix`, splat by splat."""
    first = jnp.exp(log_start)
    limit = STOP / first

    def step(state, row):
        # The sign of `through` remembers the stop: one array less to carry.
        through, count, light = state
        alpha, _ = alphas([row[i, :, None] for i in range(6)], x, y)
        after = through * (1.0 - alpha)
        going = after > limit
        weight = jnp.where(going, alpha * through, 0.0)
        features = jnp.concatenate([row[6:], jnp.ones_like(row[:1])])
        light = light + weight[None] * features[:, :, None]
        return (jnp.where(going, after, -jnp.abs(through)), count + going, light), None

    start = (jnp.ones_like(x), jnp.zeros_like(x), jnp.zeros((rows.shape[-1] - 5, *x.shape), x.dtype))
    (through, count, light), _ = jax.lax.scan(step, start, jnp.transpose(rows, (1, 2, 0)))
    light = jnp.concatenate([first[None] * light, jnp.log(jnp.abs(through))[None], count[None]])
    return jnp.moveaxis(light, 0, -1)


def gradients_matrix(
    rows: jax.Array,
    x: jax.Array,
    y: jax.Array,
    log_start: jax.Array,
    log_kept: jax.Array,
    count: jax.Array,
    light_bar: jax.Array,
    behind: jax.Array,
    absolute: bool = False,
) -> jax.Array:
    """Gradients of each splat of each block, summed over the pixels.

    Args:
      rows, x, y: see above.
      log_start, log_kept, count: [B, P] log transmittance at the start, what the block adds to it, splats
        before the stop.
      light_bar: [B, P, C] gradient to the summed features.
      behind: [B, P] light from behind the block, as its product with the gradient.
      absolute: add the sums of the absolute values of each pixel's gradient to the mean.

    Returns:
      [B, K, 6 + C]: moments (1, u, v, u u, u v, v v) of the gradient to sigma, u and v counted from the
      centre of the tile, then the gradient to the features; with `absolute` two more for x and y.
    """
    del log_kept
    alpha, smooth = alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])
    before = _sum_along_block(jnp.log1p(-alpha), jnp.tril, -1) + log_start[:, None]
    kept = jnp.arange(alpha.shape[1], dtype=jnp.float32)[None, :, None] < count[:, None]
    through = jnp.where(kept, jnp.exp(before), 0.0)
    weight = alpha * through
    gain = jnp.einsum("bkc,bpc->bkp", rows[..., 6:], light_bar, precision="highest")
    later = _sum_along_block(weight * gain, jnp.triu, 1) + behind[:, None]
    alpha_bar = through * gain - later / (1.0 - alpha)
    sigma_bar = jnp.where(kept & smooth, -alpha * alpha_bar, 0.0)
    moments = jnp.einsum("bkp,pm->bkm", sigma_bar, _monomials(x.shape[1]), precision="highest")
    features_bar = jnp.einsum("bkp,bpc->bkc", weight, light_bar, precision="highest")
    parts = [moments, features_bar]
    if absolute:
        parts.append(_absolute([rows[..., i, None] for i in range(5)], x[:, None], y[:, None], sigma_bar))
    return jnp.concatenate(parts, axis=-1)


def gradients_scan(
    rows: jax.Array,
    x: jax.Array,
    y: jax.Array,
    log_start: jax.Array,
    log_kept: jax.Array,
    count: jax.Array,
    light_bar: jax.Array,
    behind: jax.Array,
    absolute: bool = False,
) -> jax.Array:
    """The same as `gradients_matrix`, from the last splat to the first."""
    channels = rows.shape[-1] - 6
    monomials = _monomials(x.shape[1])
    bars = jnp.moveaxis(light_bar, -1, 0)

    def step(state, inputs):
        after, later = state
        row, index = inputs
        row = [row[i, :, None] for i in range(6 + channels)]
        alpha, smooth = alphas(row, x, y)
        alpha = jnp.where(index < count, alpha, 0.0)
        inverse = 1.0 / (1.0 - alpha)
        through = after * inverse
        weight = alpha * through
        gain = sum(bars[i] * row[6 + i] for i in range(channels))
        sigma_bar = jnp.where(smooth, -alpha * (through * gain - later * inverse), 0.0)
        moments = jnp.dot(sigma_bar, monomials, precision="highest")
        features_bar = jnp.stack([jnp.sum(weight * bars[i], axis=1) for i in range(channels)], axis=-1)
        parts = (moments, features_bar, *([_absolute(row, x, y, sigma_bar)] if absolute else []))
        return (through, later + weight * gain), parts

    index = jnp.arange(rows.shape[1], dtype=jnp.float32)
    start = (jnp.exp(log_start + log_kept), behind)
    inputs = (jnp.transpose(rows, (1, 2, 0)), index)
    _, parts = jax.lax.scan(step, start, inputs, reverse=True)
    return jnp.swapaxes(jnp.concatenate(parts, axis=-1), 0, 1)


def median_place(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array) -> jax.Array:
    """Place in its block [B, P] int32 of the splat that halves the transmittance, K where none does."""
    alpha, _ = alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])
    after = _sum_along_block(jnp.log1p(-alpha), jnp.tril, 0) + log_start[:, None]
    return jnp.sum(after > LOG_HALF, axis=1, dtype=jnp.int32)


def _absolute(row: list[jax.Array], x: jax.Array, y: jax.Array, sigma_bar: jax.Array) -> jax.Array:
    """Sums over the pixels of |d loss / d mean x|, |d loss / d mean y|: [..., 2]."""
    dx, dy = x - row[0], y - row[1]
    size = jnp.abs(sigma_bar)
    along_x = jnp.sum(size * jnp.abs(row[2] * dx + row[3] * dy), axis=-1)
    return jnp.stack([along_x, jnp.sum(size * jnp.abs(row[3] * dx + row[4] * dy), axis=-1)], axis=-1)


def _sum_along_block(values: jax.Array, triangle, offset: int) -> jax.Array:
    size = values.shape[1]
    ones = triangle(jnp.ones((size, size), jnp.float32), offset)
    return jnp.einsum("kj,bjp->bkp", ones, values, precision="highest")


def _monomials(pixels: int) -> jax.Array:
    """(1, u, v, u u, u v, v v) of the pixels of a tile, counted from its centre: [P, 6]."""
    tile = math.isqrt(pixels)
    u = (jnp.arange(pixels) % tile).astype(jnp.float32) - 0.5 * (tile - 1)
    v = (jnp.arange(pixels) // tile).astype(jnp.float32) - 0.5 * (tile - 1)
    return jnp.stack([jnp.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)
