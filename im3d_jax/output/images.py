"""PNG files: 8-bit RGBA with straight alpha, the same bytes for the same pixels."""

import io
import os

import numpy as np
from PIL import Image

from im3d_jax.data.prepare import read_image


__all__ = ["encode_png", "on_white", "read_image", "read_images", "to_bytes"]


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float `[..., C]` in [0, 1] to uint8, rounded to nearest; values outside are clipped.

    Raises:
        ValueError: a value is NaN or infinite (casting it would silently give an arbitrary colour).
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite values: the computation before it failed")
    return (image.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of float `[H, W, 3 or 4]` in [0, 1], straight alpha. Without time stamps or metadata."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def read_images(paths: list[str | os.PathLike]) -> np.ndarray:
    """Pictures of one size as float32 `[V, H, W, 4]`, straight alpha.

    Raises:
        ImageError: see `read_image`; ValueError where sizes differ.
    """
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"mismatched image sizes: {path} has {image.shape[1]}x{image.shape[0]} pixels, "
                f"{paths[0]} has {images[0].shape[1]}x{images[0].shape[0]}; give all views one size"
            )
    return np.stack(images)


def on_white(image: np.ndarray) -> np.ndarray:
    """Straight-alpha `[..., 4]` composited on white: `[..., 3]`."""
    alpha = image[..., 3:]
    return image[..., :3] * alpha + (1.0 - alpha)
