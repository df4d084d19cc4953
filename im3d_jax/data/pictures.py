"""Pictures and masks of captures: found as people name them, decoded raw, scaled down in strips.

Unlike `images.files.read_image`, nothing turns a picture by its EXIF orientation: calibrated cameras are those of the
raw pixels (COLMAP and nerfstudio train on these).
"""

from __future__ import annotations

import functools
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from im3d_jax.errors import ImageError
from im3d_jax.images.resize import shrink


SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# Of Pillow's formats those of pictures; others start programs or are no pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# As read, and before `downscale`; Pillow refuses more than 178 million itself.
MOST_PIXELS, MOST_RAW_PIXELS = 50_000_000, 175_000_000
# Larger pictures are scaled down in strips of about so many pixels.
_STRIP = 4_000_000
_SIXTEEN = ("I;16", "I;16B", "I;16L")


def find_picture(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file that a camera file means: as it is written, with a suffix, or with letters of the other case.

    Args:
        folder: That the name is relative to.
        name: As the camera file has it; backslashes separate folders too.

    Returns:
        The file, or None.
    """
    for written in dict.fromkeys((name, name.replace("\\", "/"))):
        for suffix in SUFFIXES:
            # Not pathlib's, which fails on names that are too long.
            if os.path.isfile(folder / (written + suffix)):
                return folder / (written + suffix)
        parent, _, last = (folder / written).as_posix().rpartition("/")
        present = _lower_names(parent)
        for suffix in SUFFIXES:
            if (last + suffix).lower() in present:
                return pathlib.Path(parent) / present[(last + suffix).lower()]
    return None


@functools.lru_cache(maxsize=8)
def _listed(folder: str, changed: int) -> dict[str, str]:
    return {name.lower(): name for name in sorted(os.listdir(folder), reverse=True)}


def _lower_names(folder: str) -> dict[str, str]:
    """{name in lower case: name} of a folder's entries."""
    try:
        return _listed(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return {}


def picture_size(file: pathlib.Path, downscale: int = 1) -> tuple[int, int]:
    """Width and height by the header alone.

    Args:
        file: Of a picture.
        downscale: By which it will be read.

    Raises:
        ImageError: No picture, or one that is too large.
    """
    with _opened(file) as opened:
        width, height = opened.size
    if width * height > MOST_RAW_PIXELS:
        raise ImageError(f"image {file}: {width}x{height} pixels, more than {MOST_RAW_PIXELS / 1e6:g} million")
    if (width // downscale) * (height // downscale) > MOST_PIXELS:
        factor = downscale
        while (width // factor) * (height // factor) > MOST_PIXELS:
            factor += 1
        raise ImageError(
            f"image {file}: {width}x{height} pixels are more than {MOST_PIXELS / 1e6:g} million; "
            f"give --downscale={factor}"
        )
    return width, height


def read_raw(file: pathlib.Path, downscale: int = 1) -> np.ndarray:
    """A picture's raw pixels.

    Args:
        file: A picture that `picture_size` accepts.
        downscale: Mean over so many pixels squared, premultiplied; a remainder of rows or columns is cut off.

    Returns:
        float32 [h, w, 4] in [0, 1], straight alpha (1 where the file has none).

    Raises:
        ImageError: The file is missing, no picture, truncated, or of an unusable kind.
    """
    with _opened(file) as opened:
        picture = _loaded(opened, file)
    if downscale == 1 or picture.width * picture.height <= _STRIP:
        return shrink(_rgba(picture, file), downscale)
    rows = downscale * max(1, _STRIP // (picture.width * downscale))
    end = picture.height // downscale * downscale
    strips = [
        shrink(_rgba(picture.crop((0, top, picture.width, min(end, top + rows))), file), downscale)
        for top in range(0, end, rows)
    ]
    return np.concatenate(strips)


def read_mask(file: pathlib.Path, size: tuple[int, int], downscale: int = 1, inverted: bool = False) -> np.ndarray:
    """Which pixels of a picture count.

    Args:
        file: A mask: alpha if it has some, otherwise grey. In lossless files any value above 0 counts, in JPEG files
            a value from 128 on, for compression changes the zeros.
        size: Width and height of its picture.
        downscale: A pixel counts if all of its block do.
        inverted: The mask marks the pixels that do not count.

    Returns:
        [h, w] bool.

    Raises:
        ImageError: See `read_raw`, or it has another size.
    """
    with _opened(file) as opened:
        lossy = opened.format in ("JPEG", "MPO")
        if opened.size != size:
            raise ImageError(
                f"mask {file}: {opened.width}x{opened.height} pixels, its picture has {size[0]}x{size[1]}; give masks "
                "the size of the pictures"
            )
        picture = _loaded(opened, file)
    counts = None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        # Without transparency the alpha says nothing.
        counts = None if (alpha == 255).all() else alpha > 0
    if counts is None:
        grey = picture if picture.mode in (*_SIXTEEN, "I", "F", "L", "1") else picture.convert("L")
        counts = np.asarray(grey) >= (128 if lossy else 1e-6)
    counts = ~counts if inverted else counts
    width, height = size[0] // downscale, size[1] // downscale
    blocks = counts[: height * downscale, : width * downscale]
    return np.asarray(blocks.reshape(height, downscale, width, downscale).all(axis=(1, 3)))


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(file: pathlib.Path) -> Image.Image:
    if not os.path.isfile(file):
        kind = "a folder, not a picture" if os.path.isdir(file) else "missing"
        raise ImageError(f"image {file}: the file is {kind}; give the path of a PNG, JPEG, WebP or TIFF file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise ImageError(f"image {file}: not a readable picture; expected PNG, JPEG, WebP or TIFF") from None
    except Image.DecompressionBombError:
        raise ImageError(f"image {file}: more than {MOST_RAW_PIXELS / 1e6:g} million pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise ImageError(f"image {file}: truncated or damaged ({error}); export it again") from None


def _loaded(opened: Image.Image, file: pathlib.Path) -> Image.Image:
    """The picture decoded; it no longer needs its file."""
    try:
        opened.load()
        return opened
    # Pillow reports damaged files by these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise ImageError(f"image {file}: truncated or damaged ({error}); export it again") from None


def _rgba(picture: Image.Image, file: pathlib.Path) -> np.ndarray:
    if picture.mode in (*_SIXTEEN, "I"):
        values = np.asarray(picture)
        if picture.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ImageError(f"image {file}: 32-bit pixels; expected 8 or 16 bits a channel")
        grey = values.astype(np.float32) / 65535.0
        return np.stack([grey, grey, grey, np.ones_like(grey)], -1)
    if picture.mode == "F":
        raise ImageError(f"image {file}: floating-point pixels; expected 8 or 16 bits a channel")
    return np.asarray(picture.convert("RGBA"), np.float32) / 255.0
