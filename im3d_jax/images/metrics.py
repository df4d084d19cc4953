"""Structural similarity (SSIM, MS-SSIM) and peak signal-to-noise ratios between images in [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from im3d_jax.typing import AnyArray


WINDOW = 11
WINDOW_SIGMA = 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
C1 = 0.01**2
C2 = 0.03**2

_SMALLEST_CONTRAST = 1e-4
_SMALLEST_ERROR = 1e-10


def _window() -> np.ndarray:
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    return (window / window.sum()).astype(np.float32)


def _valid_blur(images: jax.Array) -> jax.Array:
    taps = _window()
    rows = images.shape[1] - WINDOW + 1
    images = jnp.asarray(sum(float(taps[k]) * images[:, k : k + rows] for k in range(WINDOW)))
    columns = images.shape[2] - WINDOW + 1
    return jnp.asarray(sum(float(taps[k]) * images[:, :, k : k + columns] for k in range(WINDOW)))


# The window is symmetric, so the blur of the zero-padded cotangent is the exact adjoint; the derived one (22
# padded adds) takes four times as long on a CPU.
@jax.custom_vjp
def _blur(images: jax.Array) -> jax.Array:
    return _valid_blur(images)


def _blur_forward(images):
    return _valid_blur(images), None


def _blur_backward(_, cotangent):
    margin = (WINDOW - 1, WINDOW - 1)
    return (_valid_blur(jnp.pad(cotangent, ((0, 0), margin, margin, (0, 0)))),)


_blur.defvjp(_blur_forward, _blur_backward)


def _ssim_terms(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Per image and channel [B, C]: full SSIM and its contrast-structure factor."""
    channels = a.shape[-1]
    stacked = _blur(jnp.concatenate([a, b, a * a, b * b, a * b], axis=-1))
    mean_a, mean_b, square_a, square_b, product = (stacked[..., i * channels : (i + 1) * channels] for i in range(5))
    variance_a = square_a - mean_a * mean_a
    variance_b = square_b - mean_b * mean_b
    covariance = product - mean_a * mean_b
    contrast = (2 * covariance + C2) / (variance_a + variance_b + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    return jnp.mean(luminance * contrast, axis=(1, 2)), jnp.mean(contrast, axis=(1, 2))


def _check_pair(a: AnyArray, b: AnyArray) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(
            f"got images of shapes {a.shape} and {b.shape}; expected two equal [B, H, W, C] shapes: "
            "add a batch axis or resize one of them"
        )
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"got images of {a.shape[1]}x{a.shape[2]} pixels; SSIM needs at least {WINDOW}x{WINDOW}: resize them"
        )


def scales_that_fit(height: int, width: int) -> int:
    """Number of MS-SSIM scales (at most five) whose coarsest image is still at least one window wide.

    Scale `s` needs the smaller side to exceed `10 * 2**(s - 1)` pixels: five scales from 161 pixels, four
    from 81.
    """
    side = min(height, width)
    return max(1, sum(side > (WINDOW - 1) * 2**s for s in range(len(SCALE_WEIGHTS))))


def ssim(
    a: Float[AnyArray, "batch height width channels"], b: Float[AnyArray, "batch height width channels"]
) -> Float[Array, " batch"]:
    """Structural similarity (Wang et al. 2004, eq. 13), 11-tap Gaussian window of sigma 1.5, no padding.

    Args:
        a: Images [B, H, W, C] in [0, 1], both sides at least 11 pixels.
        b: Images of the same shape.

    Returns:
        Mean SSIM of each image, [B]; 1 for equal images.

    Raises:
        ValueError: The shapes differ or the images are smaller than the window.
    """
    _check_pair(a, b)
    full, _ = _ssim_terms(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    return jnp.mean(full, axis=-1)


def foreground_ssim(
    a: Float[AnyArray, "batch height width channels"],
    b: Float[AnyArray, "batch height width channels"],
    mask: Bool[np.ndarray, "batch height width"],
) -> Float[np.ndarray, " batch"]:
    """SSIM over the windows that hold a pixel of a mask, inside its bounding box; outside jit.

    Args:
        a: Images [B, H, W, C] in [0, 1], both sides at least 11 pixels.
        b: Images of the same shape, and equal to `a` outside of the mask.
        mask: Pixels [B, H, W] that count.

    Returns:
        [B]; 1 for an empty mask.
    """
    return np.array([_foreground_ssim(*one) for one in zip(a, b, mask, strict=True)])


def _foreground_ssim(a: AnyArray, b: AnyArray, mask: np.ndarray) -> float:
    if not mask.any():
        return 1.0
    rows, columns = (_span(np.asarray(mask.any(axis=axis))) for axis in (1, 0))
    mask = mask[rows, columns]
    # Of each window the pixels in the mask, by a summed-area table.
    table = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = table[WINDOW:, WINDOW:] - table[:-WINDOW, WINDOW:] - table[WINDOW:, :-WINDOW] + table[:-WINDOW, :-WINDOW]
    # A window of equal pixels has similarity 1.
    empty = float((inside == 0).mean())
    mean = float(ssim(a[None, rows, columns], b[None, rows, columns])[0])
    return (mean - empty) / max(1.0 - empty, 1e-6)


def _span(marked: np.ndarray) -> slice:
    """From the first to the last marked place, or all where that is shorter than a window."""
    first, last = int(marked.argmax()), len(marked) - int(marked[::-1].argmax())
    return slice(first, last) if last - first >= WINDOW else slice(0, len(marked))


def _halve(images: jax.Array) -> jax.Array:
    """2x2 means; an odd side is padded with one zero line on both ends, as PyTorch implementations do."""
    _, height, width, _ = images.shape
    odd_rows, odd_columns = height % 2, width % 2
    images = jnp.pad(images, ((0, 0), (odd_rows, odd_rows), (odd_columns, odd_columns), (0, 0)))
    rows, columns = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    images = images[:, :rows, :columns]
    return 0.25 * (images[:, 0::2, 0::2] + images[:, 1::2, 0::2] + images[:, 0::2, 1::2] + images[:, 1::2, 1::2])


def _power(value: jax.Array, exponent: float) -> jax.Array:
    """`max(value, 0) ** exponent` with a finite gradient: a straight line to 0 below 1e-4."""
    near = value < _SMALLEST_CONTRAST
    line = jnp.maximum(value, 0.0) * _SMALLEST_CONTRAST ** (exponent - 1)
    return jnp.where(near, line, jnp.where(near, 1.0, value) ** exponent)


def ms_ssim(
    a: Float[AnyArray, "batch height width channels"], b: Float[AnyArray, "batch height width channels"]
) -> Float[Array, " batch"]:
    """Multi-scale structural similarity (Wang et al. 2003, eq. 7) over as many of the five scales as fit.

    The weights of the scales in use are renormalised to the published sum (1.0001). Per channel first,
    then the mean over channels.

    Args:
        a: Images [B, H, W, C] in [0, 1], both sides at least 11 pixels.
        b: Images of the same shape.

    Returns:
        MS-SSIM of each image, [B]; 1 for equal images, 0 where a scale's contrast is not positive.

    Raises:
        ValueError: The shapes differ or the images are smaller than the window.
    """
    _check_pair(a, b)
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    scales = scales_that_fit(*a.shape[1:3])
    weights = np.asarray(SCALE_WEIGHTS[:scales]) * (sum(SCALE_WEIGHTS) / sum(SCALE_WEIGHTS[:scales]))
    value = jnp.ones((a.shape[0], a.shape[3]), jnp.float32)
    for scale in range(scales):
        full, contrast = _ssim_terms(a, b)
        last = scale == scales - 1
        value = value * _power(full if last else contrast, float(weights[scale]))
        if not last:
            a, b = _halve(a), _halve(b)
    return jnp.mean(value, axis=-1)


def _decibels(mean_square: jax.Array) -> jax.Array:
    return -10.0 * jnp.log10(jnp.maximum(mean_square, _SMALLEST_ERROR))


def psnr(
    a: Float[AnyArray, "*batch height width channels"], b: Float[AnyArray, "*batch height width channels"]
) -> Float[Array, "*batch"]:
    """Peak signal-to-noise ratio of each image in dB, for values in [0, 1].

    Args:
        a: Images [..., H, W, C], composited on white.
        b: Images of the same shape.

    Returns:
        [...] per image, capped at 100 dB so that equal images stay finite; report the mean over images.
    """
    return _decibels(jnp.mean(jnp.square(a - b), axis=(-3, -2, -1)))


def foreground_psnr(
    a: Float[AnyArray, "*batch height width channels"],
    b: Float[AnyArray, "*batch height width channels"],
    mask: Float[AnyArray, "*batch height width"],
) -> Float[Array, "*batch"]:
    """PSNR over the pixels of a mask, the squared errors weighted by it.

    Args:
        a: Images [..., H, W, C] in [0, 1].
        b: Images of the same shape.
        mask: True coverage [..., H, W] in [0, 1].

    Returns:
        [...] in dB, capped at 100; an empty mask gives 100.
    """
    error = jnp.mean(jnp.square(a - b), axis=-1)
    return _decibels(jnp.sum(error * mask, axis=(-2, -1)) / jnp.maximum(jnp.sum(mask, axis=(-2, -1)), 1e-6))
