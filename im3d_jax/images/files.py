"""Picture files: reading the common formats, and PNG files with the same bytes for the same pixels."""

from __future__ import annotations

import io
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from im3d_jax.errors import ImageError


MAXIMUM_PIXELS = 50_000_000  # cutting out takes about 120 bytes a pixel


def read_image(path: str | os.PathLike) -> Float[np.ndarray, "height width 4"]:
    """Reads a picture of any common format.

    Args:
        path: file to read. EXIF orientation is applied; of an animation, the first frame is read.

    Returns:
        float32 `[H, W, 4]` in [0, 1], straight alpha (1 where the file has none).

    Raises:
        ImageError: the file is missing, no picture, truncated, too large, or of an unusable kind.
    """
    path = pathlib.Path(path)
    # Not pathlib's tests, which fail on names that are too long.
    if not os.path.isfile(path):
        kind = "a folder, not a picture" if os.path.isdir(path) else "missing"
        raise ImageError(f"image {path}: the file is {kind}; give the path of a PNG, JPEG or WebP file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > MAXIMUM_PIXELS:
                raise Image.DecompressionBombError
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ImageError(f"image {path}: not a readable picture; expected PNG, JPEG or WebP") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{MAXIMUM_PIXELS / 1e6:g} million"
        raise ImageError(f"image {path}: more than {most} pixels; scale it down first") from None
    # Pillow reports damaged files by these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise ImageError(f"image {path}: truncated or damaged ({error}); export it again") from None
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = np.asarray(picture, np.float32) / 65535.0
        return np.stack([grey, grey, grey, np.ones_like(grey)], -1).clip(0.0, 1.0)
    if picture.mode == "F":
        raise ImageError(f"image {path}: floating-point pixels; expected 8 or 16 bits a channel")
    return np.asarray(picture.convert("RGBA"), np.float32) / 255.0


def to_bytes(image: Float[np.ndarray, "*batch channels"]) -> UInt8[np.ndarray, "*batch channels"]:
    """float `[..., C]` in [0, 1] to uint8, rounded to nearest; values outside are clipped.

    Raises:
        ValueError: a value is NaN or infinite (casting it would silently give an arbitrary colour).
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite values: the computation before it failed")
    return (image.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def encode_png(image: Float[np.ndarray, "height width channels"]) -> bytes:
    """PNG bytes of float `[H, W, 3 or 4]` in [0, 1], straight alpha. Without time stamps or metadata."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def read_images(paths: Sequence[str | os.PathLike]) -> Float[np.ndarray, "views height width 4"]:
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


def as_stored(images: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch channels"]:
    """Pictures in [0, 1] as they come back from 8-bit PNG files; float32."""
    return to_bytes(images).astype(np.float32) / 255.0
