"""Smaller pictures: means over blocks of pixels, and antialiased resampling with Pillow's bicubic filter."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image

from im3d_jax.images.alpha import Array, premultiply, unpremultiply


def block_mean(
    images: Float[Array, "*batch height width channels"], factor: int
) -> Float[Array, "*batch h w channels"]:
    """Means over blocks of `factor` x `factor` pixels; an incomplete last row or column of blocks is cut off.

    Args:
        images: [..., H, W, C].
        factor: At least 1 and at most the shorter side.

    Returns:
        [..., H // factor, W // factor, C].
    """
    if factor == 1:
        return images
    *lead, height, width, channels = images.shape
    rows, columns = height // factor, width // factor
    blocks = images[..., : rows * factor, : columns * factor, :]
    blocks = blocks.reshape(*lead, rows, factor, columns, factor, channels)
    return blocks.mean((-4, -2))  # pyright: ignore[reportReturnType]  # numpy's stub forgets the kind of array


def shrink(rgba: Float[np.ndarray, "*batch height width 4"], factor: int) -> Float[np.ndarray, "*batch h w 4"]:
    """Straight-alpha pictures scaled down by `block_mean`, averaged premultiplied; float32."""
    if factor == 1:
        return rgba
    return unpremultiply(block_mean(premultiply(rgba), factor)).astype(np.float32)


def resize(rgba: Float[np.ndarray, "height width 4"], width: int, height: int) -> Float[np.ndarray, "h w 4"]:
    """A straight-alpha picture resampled premultiplied and antialiased to `width` x `height` pixels; float32."""
    return unpremultiply(_resample(premultiply(rgba), (width, height))).astype(np.float32)


def resample_window(
    image: Float[np.ndarray, "height width channels"], size: int, left: float, top: float, window: float
) -> Float[np.ndarray, "size size channels"]:
    """A square window of a picture, zero outside of the picture, antialiased.

    Args:
        image: [H, W, C], premultiplied where it has alpha.
        size: Side of the result in pixels.
        left, top: Corner of the window in source pixels; may lie outside of the picture.
        window: Side of the window in source pixels.
    """
    x0, y0 = int(np.floor(left)) - 4, int(np.floor(top)) - 4
    side = int(np.ceil(window)) + 9
    canvas = np.zeros((side, side, image.shape[-1]), np.float32)
    height, width = image.shape[:2]
    rows = slice(max(0, y0), min(height, y0 + side))
    columns = slice(max(0, x0), min(width, x0 + side))
    canvas[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = image[rows, columns]
    return _resample(canvas, (size, size), (left - x0, top - y0, left - x0 + window, top - y0 + window))


def _resample(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(size, Image.Resampling.BICUBIC, box=box)
        for channel in range(image.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)
