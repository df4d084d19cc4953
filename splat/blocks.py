"""What one slab of blocks of splats does to its pixels: two equal forms of the inner loops.

The scan form walks through the splats: one by one it keeps everything in a CPU's cache; unrolled by eight it
becomes a few fused kernels on a GPU, with a third of the matrix form's memory traffic. The matrix form
evaluates a block's splats all at once and gets transmittances from a small triangular product: right for
TPUs.

Shapes: B blocks, K splats in each, P pixels of a tile, C features. `rows` [B, K, 6 + C] holds mean x, y,
conic xx, xy, yy, opacity and the features; `x`, `y` [B, P] are pixel centres. `unroll` is the number of
splats that the scan form evaluates in one step.
"""

import math

import jax
import jax.numpy as jnp

from splat.projection import MIN_ALPHA


MAX_ALPHA = 0.999
STOP = 1e-4
LOG_STOP = math.log(STOP)
LOG_HALF = math.log(0.5)
# Far behind the stop, and a normal number: a block's product of (1 - alpha) may underflow.
SMALLEST = 1e-37


def alphas(rows: list[jax.Array], x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """alpha, and where it follows the gaussian (neither cut off nor clamped); rows broadcast to x, y."""
    dx, dy = x - rows[0], y - rows[1]
    sigma = 0.5 * (rows[2] * dx * dx + rows[4] * dy * dy) + rows[3] * dx * dy
    raw = rows[5] * jnp.exp(-sigma)
    counts = (raw >= MIN_ALPHA) & (sigma >= 0.0)
    return jnp.where(counts, jnp.minimum(raw, MAX_ALPHA), 0.0), counts & (raw <= MAX_ALPHA)


def _block_alphas(rows: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`alphas` of all splats of each block, [B, K, P]."""
    return alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])


def log_sums(rows: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of log(1 - alpha) over each block, [B, P], as the logarithm of a product: one for each pixel."""
    return jnp.log(jnp.maximum(jnp.prod(1.0 - _block_alphas(rows, x, y)[0], axis=1), SMALLEST))


def light_matrix(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array) -> jax.Array:
    """Light of each block.

    Args:
      rows, x, y: see above.
      log_start: [B, P] log transmittance at the block's start.

    Returns:
      [B, C + 3, P]: sums of weight * feature, sum of weights, log(1 - alpha) summed over the splats before
      the stop, and the number of these splats.
    """
    alpha, _ = _block_alphas(rows, x, y)
    logs = jnp.log1p(-alpha)
    before = _sum_along_block(logs, jnp.tril, -1) + log_start[:, None]
    kept = before + logs > LOG_STOP
    weight = jnp.where(kept, alpha * jnp.exp(before), 0.0)
    features = jnp.concatenate([rows[..., 6:], jnp.ones_like(rows[..., :1])], axis=-1)
    light = jnp.einsum("bkc,bkp->bcp", features, weight, precision="highest")
    ends = [jnp.sum(jnp.where(kept, logs, 0.0), axis=1), jnp.sum(kept, axis=1, dtype=jnp.float32)]
    return jnp.concatenate([light, jnp.stack(ends, axis=1)], axis=1)


def light_scan(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array, unroll: int = 1) -> jax.Array:
    """The same as `light_matrix`, splat by splat."""
    first = jnp.exp(log_start)
    limit = STOP / first

    def step(state, row):
        # The sign of `through` remembers the stop: one array less to carry.
        through, count, light = state
        row = [part[:, None] for part in row]
        alpha, _ = alphas(row, x, y)
        after = through * (1.0 - alpha)
        going = after > limit
        weight = jnp.where(going, alpha * through, 0.0)
        light = [old + weight * part for old, part in zip(light, [*row[6:], jnp.ones_like(row[5])], strict=True)]
        return (jnp.where(going, after, -jnp.abs(through)), count + going, light), None

    start = (jnp.ones_like(x), jnp.zeros_like(x), [jnp.zeros_like(x)] * (rows.shape[-1] - 5))
    (through, count, light), _ = jax.lax.scan(step, start, _by_splat(rows), unroll=unroll)
    return jnp.stack([*(first * part for part in light), jnp.log(jnp.abs(through)), count], axis=1)


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
      light_bar: [B, C, P] gradient to the summed features.
      behind: [B, P] light from behind the block, as its product with the gradient.
      absolute: add the sums of the absolute values of each pixel's gradient to the mean.

    Returns:
      [B, K, 6 + C]: moments (1, u, v, u u, u v, v v) of the gradient to sigma, u and v counted from the
      centre of the tile, then the gradient to the features; with `absolute` two more for x and y.
    """
    del log_kept
    alpha, smooth = _block_alphas(rows, x, y)
    before = _sum_along_block(jnp.log1p(-alpha), jnp.tril, -1) + log_start[:, None]
    kept = jnp.arange(alpha.shape[1], dtype=jnp.float32)[None, :, None] < count[:, None]
    through = jnp.where(kept, jnp.exp(before), 0.0)
    weight = alpha * through
    gain = jnp.einsum("bkc,bcp->bkp", rows[..., 6:], light_bar, precision="highest")
    later = _sum_along_block(weight * gain, jnp.triu, 1) + behind[:, None]
    alpha_bar = through * gain - later / (1.0 - alpha)
    sigma_bar = jnp.where(kept & smooth, -alpha * alpha_bar, 0.0)
    moments = jnp.einsum("bkp,mp->bkm", sigma_bar, _monomials(x.shape[1]), precision="highest")
    features_bar = jnp.einsum("bkp,bcp->bkc", weight, light_bar, precision="highest")
    parts = [moments, features_bar]
    if absolute:
        row = [rows[..., i, None] for i in range(5)]
        parts.append(jnp.stack(_absolute(row, x[:, None], y[:, None], sigma_bar), axis=-1))
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
    unroll: int = 1,
) -> jax.Array:
    """The same as `gradients_matrix`, from the last splat to the first."""
    monomials = _monomials(x.shape[1])
    bars = [light_bar[:, i] for i in range(light_bar.shape[1])]

    def step(state, inputs):
        after, later = state
        row, index = inputs
        row = [part[:, None] for part in row]
        alpha, smooth = alphas(row, x, y)
        alpha = jnp.where(index < count, alpha, 0.0)
        inverse = 1.0 / (1.0 - alpha)
        through = after * inverse
        weight = alpha * through
        gain = sum(bar * part for bar, part in zip(bars, row[6:], strict=True))
        sigma_bar = jnp.where(smooth, -alpha * (through * gain - later * inverse), 0.0)
        if unroll == 1:
            sums = list(jnp.dot(monomials, sigma_bar.T, precision="highest"))
        else:  # sums fuse with what they sum, products do not: less traffic on a GPU, slower on a CPU
            sums = [jnp.sum(sigma_bar * monomial[None], axis=1) for monomial in monomials]
        sums += [jnp.sum(weight * bar, axis=1) for bar in bars]
        sums += _absolute(row, x, y, sigma_bar) if absolute else []
        return (through, later + weight * gain), jnp.stack(sums)

    index = jnp.arange(rows.shape[1], dtype=jnp.float32)
    start = (jnp.exp(log_start + log_kept), behind)
    _, sums = jax.lax.scan(step, start, (_by_splat(rows), index), reverse=True, unroll=unroll)
    return jnp.transpose(sums, (2, 0, 1))


def median_place(rows: jax.Array, x: jax.Array, y: jax.Array, log_start: jax.Array) -> jax.Array:
    """Place in its block [B, P] int32 of the splat that halves the transmittance, K where none does."""
    alpha, _ = _block_alphas(rows, x, y)
    after = _sum_along_block(jnp.log1p(-alpha), jnp.tril, 0) + log_start[:, None]
    return jnp.sum(after > LOG_HALF, axis=1, dtype=jnp.int32)


def _by_splat(rows: jax.Array) -> jax.Array:
    return jnp.transpose(rows, (1, 2, 0))


def _absolute(row: list[jax.Array], x: jax.Array, y: jax.Array, sigma_bar: jax.Array) -> list[jax.Array]:
    """Sums over the pixels of |d loss / d mean x| and of |d loss / d mean y|."""
    dx, dy = x - row[0], y - row[1]
    size = jnp.abs(sigma_bar)
    along_x = jnp.sum(size * jnp.abs(row[2] * dx + row[3] * dy), axis=-1)
    return [along_x, jnp.sum(size * jnp.abs(row[3] * dx + row[4] * dy), axis=-1)]


def _sum_along_block(values: jax.Array, triangle, offset: int) -> jax.Array:
    size = values.shape[1]
    ones = triangle(jnp.ones((size, size), jnp.float32), offset)
    return jnp.einsum("kj,bjp->bkp", ones, values, precision="highest")


def _monomials(pixels: int) -> jax.Array:
    """(1, u, v, u u, u v, v v) of the pixels of a tile, counted from its centre: [6, P]."""
    tile = math.isqrt(pixels)
    u = (jnp.arange(pixels) % tile).astype(jnp.float32) - 0.5 * (tile - 1)
    v = (jnp.arange(pixels) // tile).astype(jnp.float32) - 0.5 * (tile - 1)
    return jnp.stack([jnp.ones_like(u), u, v, u * u, u * v, v * v])
