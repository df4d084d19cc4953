"""Pictures of mesh files: decoded under limits, made small enough for the views, safe to filter."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from im3d_jax.data.meshes.model import Limits, MeshError


# Those of OBJ files too; Pillow would start other programs for some formats.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "TGA", "GIF", "DDS")


def decode(content: bytes, name: str, limits: Limits, *, alpha: bool | None, nearest: bool = False) -> np.ndarray:
    """A picture file as a texture.

    Args:
        content: A picture of one of `FORMATS`.
        name: For messages.
        limits: `texture_pixels` is compared with the header, `texture_side` is what the result keeps to.
        alpha: Whether the picture's alpha counts; otherwise the result is opaque. None: it does, and its colours are
            already safe to filter.
        nearest: Whether the texels are to stay squares: scaled down without a filter.

    Returns:
        [H, W, 4] uint8, straight alpha; texels that cannot be seen have the colour of their surroundings.

    Raises:
        MeshError: It is no picture, damaged or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > limits.texture_pixels:
            most = f"{limits.texture_pixels / 1e6:g} million"
            raise MeshError(f"texture {name} has {width}x{height} pixels, more than {most}; scale it down")
        picture.draft("RGB", (limits.texture_side, limits.texture_side))  # JPEG only: decodes at a fraction of the size
        picture = _rgba(picture, alpha)
    except UnidentifiedImageError:
        raise MeshError(f"texture {name} is no readable picture; expected PNG, JPEG or WebP") from None
    except Image.DecompressionBombError:
        raise MeshError(f"texture {name} has too many pixels; scale it down") from None
    except MeshError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
        raise MeshError(f"texture {name} is damaged ({error})") from None
    pixels = np.asarray(shrink(picture, limits.texture_side, nearest=nearest))
    return fill_holes(pixels) if alpha else pixels


def _rgba(picture: Image.Image, alpha: bool | None) -> Image.Image:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = (np.asarray(picture, np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGBA")
    rgba = picture.convert("RGBA")
    if alpha is False:
        rgba.putalpha(255)
    return rgba


def shrink(picture: Image.Image, side: int, *, nearest: bool = False) -> Image.Image:
    """A picture with at most `side` pixels a side; smaller ones as they are. Alpha is averaged premultiplied."""
    longer = max(picture.size)
    if longer <= side:
        return picture
    width, height = (max(1, round(edge * side / longer)) for edge in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST if nearest else Image.Resampling.BOX)


def shrink_pixels(pixels: np.ndarray, side: int, *, nearest: bool = False) -> np.ndarray:
    """`shrink` for [H, W, 4] uint8; colours stay safe to filter."""
    if max(pixels.shape[:2]) <= side:
        return pixels
    return fill_holes(np.asarray(shrink(Image.fromarray(pixels), side, nearest=nearest)))


def fill_holes(pixels: np.ndarray) -> np.ndarray:
    """Gives texels without alpha the colour around them, or filtering would draw dark rims.

    Args:
        pixels: [H, W, 4] uint8, straight alpha.

    Returns:
        The same alpha, and the same colour where alpha is not 0.
    """
    empty = pixels[..., 3] == 0
    if not empty.any() or empty.all():
        return pixels
    height, width = empty.shape
    filled = pixels.copy()
    # From fine to coarse: a hole takes the first level of the pyramid that saw any colour.
    level = Image.fromarray(pixels)
    missing = empty
    while missing.any() and max(level.size) > 1:
        level = level.resize((max(1, level.width // 2), max(1, level.height // 2)), Image.Resampling.BOX)
        coarse = np.asarray(level.resize((width, height), Image.Resampling.NEAREST))
        found = missing & (coarse[..., 3] > 0)
        filled[found, :3] = coarse[found, :3]
        missing = missing & ~found
    # What only a level of vanishing alpha saw takes the mean colour.
    filled[missing, :3] = pixels[~empty, :3].mean(0).round().astype(np.uint8)
    return filled
