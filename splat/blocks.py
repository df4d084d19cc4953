"""Inner loops of the rasterizer over one slab of blocks, in two equal forms.

The scan form walks through the splats: one by one it keeps everything in a CPU's cache; unrolled by eight it becomes a
few fused kernels on a GPU, with a third of the matrix form's memory traffic. The matrix form evaluates a block's splats
all at once and gets transmittances from a small triangular product, which suits TPUs.

Shapes: B blocks, K splats in each, P pixels of a tile, C features. `rows` [B, K, 6 + C] holds mean x, y, conic xx, xy,
yy, opacity and the features; `x` and `y` [B, P] are pixel centres.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from splat.projection import MIN_ALPHA


MAX_ALPHA = 0.999
STOP = 1e-4
LOG_STOP = math.log(STOP)
LOG_HALF = math.log(0.5)
# Far beyond the stop, and a normal number: a block's product of (1 - alpha) may underflow.
SMALLEST = 1e-37


def alphas(
    rows: list[Float[Array, "..."]], x: Float[Array, "..."], y: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """Evaluates splats at pixels.

    Args:
        rows: Mean x, y, conic xx, xy, yy and opacity, which broadcast against x and y; more entries are ignored.
        x: Pixel centres.
        y: Pixel centres.

    Returns:
        alpha, and whether it follows the gaussian: neither cut off at 1/255 nor clamped at 0.999.
    """
    dx, dy = x - rows[0], y - rows[1]
    sigma = 0.5 * (rows[2] * dx * dx + rows[4] * dy * dy) + rows[3] * dx * dy
    raw = rows[5] * jnp.exp(-sigma)
    counts = (raw >= MIN_ALPHA) & (sigma >= 0.0)
    return jnp.where(counts, jnp.minimum(raw, MAX_ALPHA), 0.0), counts & (raw <= MAX_ALPHA)


def _block_alphas(
    rows: Float[Array, "B K R"], x: Float[Array, "B P"], y: Float[Array, "B P"]
) -> tuple[Float[Array, "B K P"], Bool[Array, "B K P"]]:
    """`alphas` of all splats of each block."""
    return alphas([rows[..., i, None] for i in range(6)], x[:, None], y[:, None])


def log_sums(rows: Float[Array, "B K R"], x: Float[Array, "B P"], y: Float[Array, "B P"]) -> Float[Array, "B P"]:
    """Sum of log(1 - alpha) over each block, as the logarithm of a product: one logarithm for each pixel."""
    return jnp.log(jnp.maximum(jnp.prod(1.0 - _block_alphas(rows, x, y)[0], axis=1), SMALLEST))


def light_matrix(
    rows: Float[Array, "B K R"], x: Float[Array, "B P"], y: Float[Array, "B P"], log_start: Float[Array, "B P"]
) -> Float[Array, "B _light P"]:
    """Light of each block, all splats at once.

    Args:
        rows: [B, K, 6 + C] splats.
        x: [B, P] pixel centres.
        y: [B, P] pixel centres.
        log_start: [B, P] log transmittance at the block's start.

    Returns:
        [B, C + 3, P]: sums of weight * feature, sum of weights, log(1 - alpha) summed over the splats before the stop,
        and the number of these splats.
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


def light_scan(
    rows: Float[Array, "B K R"],
    x: Float[Array, "B P"],
    y: Float[Array, "B P"],
    log_start: Float[Array, "B P"],
    unroll: int = 1,
) -> Float[Array, "B _light P"]:
    """The same as `light_matrix`, splat by splat.

    Args:
        rows: As for `light_matrix`.
        x: As for `light_matrix`.
        y: As for `light_matrix`.
        log_start: As for `light_matrix`.
        unroll: Splats that one step evaluates.

    Returns:
        As `light_matrix`.
    """
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
    rows: Float[Array, "B K R"],
    x: Float[Array, "B P"],
    y: Float[Array, "B P"],
    log_start: Float[Array, "B P"],
    log_kept: Float[Array, "B P"],
    count: Float[Array, "B P"],
    light_bar: Float[Array, "B C P"],
    behind: Float[Array, "B P"],
    absolute: bool = False,
) -> Float[Array, "B K _sums"]:
    """Gradients of each splat of each block, summed over the pixels, all splats at once.

    Args:
        rows: [B, K, 6 + C] splats.
        x: [B, P] pixel centres.
        y: [B, P] pixel centres.
        log_start: [B, P] log transmittance at the block's start.
        log_kept: [B, P] log transmittance of the block itself.
        count: [B, P] splats before the stop.
        light_bar: [B, C, P] gradient to the summed features.
        behind: [B, P] light from behind the block, as its product with the gradient.
        absolute: Add the sums of the absolute values of each pixel's gradient to the mean.

    Returns:
        [B, K, 6 + C]: moments (1, u, v, u u, u v, v v) of the gradient to sigma, with u and v relative to the centre
        of the tile, then the gradient to the features; with `absolute` two more, for x and y.
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
    rows: Float[Array, "B K R"],
    x: Float[Array, "B P"],
    y: Float[Array, "B P"],
    log_start: Float[Array, "B P"],
    log_kept: Float[Array, "B P"],
    count: Float[Array, "B P"],
    light_bar: Float[Array, "B C P"],
    behind: Float[Array, "B P"],
    absolute: bool = False,
    unroll: int = 1,
) -> Float[Array, "B K _sums"]:
    """The same as `gradients_matrix`, from the last splat to the first.

    Args:
        rows: As for `gradients_matrix`.
        x: As for `gradients_matrix`.
        y: As for `gradients_matrix`.
        log_start: As for `gradients_matrix`.
        log_kept: As for `gradients_matrix`.
        count: As for `gradients_matrix`.
        light_bar: As for `gradients_matrix`.
        behind: As for `gradients_matrix`.
        absolute: As for `gradients_matrix`.
        unroll: Splats that one step evaluates.

    Returns:
        As `gradients_matrix`.
    """
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
        else:  # sums fuse with their operands, products do not: less traffic on a GPU, slower on a CPU
            sums = [jnp.sum(sigma_bar * monomial[None], axis=1) for monomial in monomials]
        sums += [jnp.sum(weight * bar, axis=1) for bar in bars]
        sums += _absolute(row, x, y, sigma_bar) if absolute else []
        return (through, later + weight * gain), jnp.stack(sums)

    index = jnp.arange(rows.shape[1], dtype=jnp.float32)
    start = (jnp.exp(log_start + log_kept), behind)
    _, sums = jax.lax.scan(step, start, (_by_splat(rows), index), reverse=True, unroll=unroll)
    return jnp.transpose(sums, (2, 0, 1))


def median_place(
    rows: Float[Array, "B K R"], x: Float[Array, "B P"], y: Float[Array, "B P"], log_start: Float[Array, "B P"]
) -> Int32[Array, "B P"]:
    """Place in its block of the splat that takes the transmittance to one half or below, K where none does.

    Args:
        rows: As for `light_matrix`.
        x: As for `light_matrix`.
        y: As for `light_matrix`.
        log_start: As for `light_matrix`.

    Returns:
        [B, P] int32.
    """
    alpha, _ = _block_alphas(rows, x, y)
    after = _sum_along_block(jnp.log1p(-alpha), jnp.tril, 0) + log_start[:, None]
    return jnp.sum(after > LOG_HALF, axis=1, dtype=jnp.int32)


def _by_splat(rows: Float[Array, "B K R"]) -> Float[Array, "K R B"]:
    return jnp.transpose(rows, (1, 2, 0))


def _absolute(
    row: list[Float[Array, "..."]], x: Float[Array, "..."], y: Float[Array, "..."], sigma_bar: Float[Array, "..."]
) -> list[Float[Array, "..."]]:
    """Sums over the pixels of |d loss / d mean x| and of |d loss / d mean y|."""
    dx, dy = x - row[0], y - row[1]
    size = jnp.abs(sigma_bar)
    along_x = jnp.sum(size * jnp.abs(row[2] * dx + row[3] * dy), axis=-1)
    return [along_x, jnp.sum(size * jnp.abs(row[3] * dx + row[4] * dy), axis=-1)]


def _sum_along_block(
    values: Float[Array, "B K P"], triangle: Callable[[jax.Array, int], jax.Array], offset: int
) -> Float[Array, "B K P"]:
    size = values.shape[1]
    ones = triangle(jnp.ones((size, size), jnp.float32), offset)
    return jnp.einsum("kj,bjp->bkp", ones, values, precision="highest")


def _monomials(pixels: int) -> Float[Array, "6 P"]:
    """(1, u, v, u u, u v, v v) of the pixels of a tile, relative to its centre."""
    tile = math.isqrt(pixels)
    u = (jnp.arange(pixels) % tile).astype(jnp.float32) - 0.5 * (tile - 1)
    v = (jnp.arange(pixels) // tile).astype(jnp.float32) - 0.5 * (tile - 1)
    return jnp.stack([jnp.ones_like(u), u, v, u * u, u * v, v * v])
