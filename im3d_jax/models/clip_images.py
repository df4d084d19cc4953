"""Images as CLIP's image transformers expect them: resized to a square and normalised.

Two resizings are in use. SVD and SV3D blur and then interpolate (kornia's `resize(…, antialias=True,
align_corners=True)`, which diffusers repeats); CLIP itself, and so every published CLIP similarity, takes Pillow's
bicubic of the shorter side and the centre. Both are linear and separable: each is one matrix per axis.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


Colour = tuple[float, float, float]

CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


def resize_antialiased(images: jax.Array, size: int) -> jax.Array:
    """Resizes as SVD does before CLIP: a Gaussian blur, then bicubic interpolation with aligned corners.

    Args:
        images: [..., H, W, C], any range; the sides may differ (the picture is squeezed, not cropped) and must be
            longer than half the blur's window.
        size: Side of the result in pixels, at least 2.

    Returns:
        [..., size, size, C] float32; bicubic overshoot is kept.
    """
    rows, columns = _svd_matrix(images.shape[-3], size), _svd_matrix(images.shape[-2], size)
    return _along_columns(_along_rows(images, rows), columns)


def resize_and_crop(images: jax.Array, size: int) -> jax.Array:
    """Resizes the shorter side with Pillow's bicubic filter and takes the centre, as CLIP's own preprocessing does.

    Args:
        images: [..., H, W, C] in [0, 1].
        size: Side of the result in pixels.

    Returns:
        [..., size, size, C] float32 in [0, 1]; Pillow's rounding to 8 bits is left out.
    """
    height, width = images.shape[-3:-1]
    scale = size / min(height, width)
    rows, columns = _pillow_matrix(height, int(height * scale)), _pillow_matrix(width, int(width * scale))
    top, left = round((len(rows) - size) / 2), round((len(columns) - size) / 2)
    # Pillow keeps 8 bits between its passes, columns first, and so cuts the overshoot twice.
    squeezed = jnp.clip(_along_columns(images, columns[left : left + size]), 0, 1)
    return jnp.clip(_along_rows(squeezed, rows[top : top + size]), 0, 1)


def normalize(images: jax.Array, mean: Colour = CLIP_MEAN, std: Colour = CLIP_STD) -> jax.Array:
    """Images [..., 3] in [0, 1] to zero mean and unit deviation, by default CLIP's."""
    shape = (1,) * (images.ndim - 1) + (3,)
    centre, scale = (jnp.asarray(value, jnp.float32).reshape(shape) for value in (mean, std))
    return (images.astype(jnp.float32) - centre) / scale


def condition_pixels(images: jax.Array, size: int = 224) -> jax.Array:
    """Images [..., H, W, 3] in [0, 1] to what SVD's and SV3D's image encoder reads, [..., size, size, 3]."""
    # The blur and the interpolation keep constants, so that resizing in [0, 1] equals theirs in [-1, 1].
    return normalize(resize_antialiased(images, size))


def similarity_pixels(
    images: jax.Array, size: int = 224, mean: Colour = CLIP_MEAN, std: Colour = CLIP_STD
) -> jax.Array:
    """Images [..., H, W, 3] in [0, 1] to what CLIP similarities are measured on, [..., size, size, 3]."""
    return normalize(resize_and_crop(images, size), mean, std)


def _along_rows(images: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.einsum("ah,...hwc->...awc", matrix, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _along_columns(images: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.einsum("bw,...awc->...abc", matrix, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache
def _svd_matrix(length: int, size: int) -> np.ndarray:
    """[size, length] float32: blur with reflected edges, then Keys' cubic (a = -0.75) with repeated edges."""
    if size < 2:
        raise ValueError(f"a resized image needs a side of at least 2 pixels, got {size}")
    factor = length / size
    sigma = max((factor - 1) / 2, 0.001)
    window = int(max(4 * sigma, 3)) | 1
    half = window // 2
    if length <= half:
        raise ValueError(f"an image side of {length} pixels is too short for the blur: give a larger image")
    offsets = np.arange(-half, half + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    source = np.abs(np.arange(length)[:, None] + offsets[None])
    source = np.where(source >= length, 2 * (length - 1) - source, source)
    blur = np.zeros((length, length))
    np.add.at(blur, (np.arange(length)[:, None], source), np.broadcast_to(weights, source.shape))

    position = np.arange(size) * ((length - 1) / (size - 1))
    base = np.floor(position).astype(int)
    cubic = np.zeros((size, length))
    for tap in range(-1, 3):
        weight = _keys(position - (base + tap), -0.75)
        np.add.at(cubic, (np.arange(size), np.clip(base + tap, 0, length - 1)), weight)
    return (cubic @ blur).astype(np.float32)


@functools.lru_cache
def _pillow_matrix(length: int, size: int) -> np.ndarray:
    """[size, length] float32: Keys' cubic (a = -0.5), widened when shrinking, cut at the edges and renormalised."""
    scale = length / size
    stretch = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    pixels = np.arange(length)[None]
    inside = (pixels >= np.floor(centre - 2 * stretch + 0.5)[:, None]) & (
        pixels < np.floor(centre + 2 * stretch + 0.5)[:, None]
    )
    weights = np.where(inside, _keys((pixels + 0.5 - centre[:, None]) / stretch, -0.5), 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981, eq. 4 with free a)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
