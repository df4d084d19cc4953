"""Pictures and masks of captures: found as people name them, decoded raw, scaled down in strips.

Unlike `images.files.read_image`, nothing turns a picture by its EXIF orientation: calibrated cameras are those of the
raw pixels (COLMAP and nerfstudio train on these).
"""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np
from PIL import Image

from im3d_jax.errors import ImageError
from im3d_jax.images.files import (
    GREYS_OF_16_BITS,
    ORIENTATION,
    check_mode,
    damage_told,
    open_picture,
    raw_size,
    straight_rgba,
)
from im3d_jax.images.resize import shrink


SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# Of Pillow's formats those of pictures; others start programs or are no pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# As read, and before `downscale`; Pillow refuses more than 178 million itself.
MOST_PIXELS, MOST_RAW_PIXELS = 50_000_000, 175_000_000
# Larger pictures become floats in strips of about so many pixels.
_STRIP = 4_000_000
# By EXIF orientation, what undoes it.
_BACK: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


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
            found = os.path.join(parent, present.get((last + suffix).lower(), ""))
            if os.path.isfile(found):
                return pathlib.Path(found)
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
        width, height = raw_size(opened)
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


def read_raw(file: pathlib.Path, downscale: int = 1, out: np.ndarray | None = None) -> np.ndarray:
    """A picture's raw pixels.

    Args:
        file: A picture that `picture_size` accepts.
        downscale: Mean over so many pixels squared, premultiplied; a remainder of rows or columns is cut off.
        out: float32 [h, w, 4] that takes the pixels; a new array without.

    Returns:
        float32 [h, w, 4] in [0, 1], straight alpha (1 where the file has none).

    Raises:
        ImageError: The file is missing, no picture, truncated, or of an unusable kind.
    """
    with _opened(file) as opened:
        kind, picture = opened.format, _loaded(opened, file)
    width, height = picture.width // downscale, picture.height // downscale
    found = np.empty((height, width, 4), np.float32) if out is None else out
    rows = max(1, _STRIP // (picture.width * downscale))
    for top in range(0, height, rows):
        end = min(height, top + rows)
        strip = picture
        if rows < height:
            strip = picture.crop((0, top * downscale, picture.width, end * downscale))
        found[top:end] = shrink(straight_rgba(strip, file, kind), downscale)
    return found


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
        if (found := raw_size(opened)) != size:
            raise ImageError(
                f"mask {file}: {found[0]}x{found[1]} pixels, its picture has {size[0]}x{size[1]}; give masks the size "
                "of the pictures"
            )
        picture = _loaded(opened, file)
        if picture.mode not in (*GREYS_OF_16_BITS, "F"):
            check_mode(picture.mode, file, opened.format)
    counts = None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        # Without transparency the alpha says nothing.
        counts = None if (alpha == 255).all() else alpha > 0
    if counts is None:
        grey = picture if picture.mode in (*GREYS_OF_16_BITS, "F", "L", "1") else picture.convert("L")
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
    return open_picture(file, _formats(), MOST_RAW_PIXELS)


def _loaded(opened: Image.Image, file: pathlib.Path) -> Image.Image:
    """The picture decoded as its raw pixels; it no longer needs its file."""
    with damage_told(file):
        # Pillow turns TIFF files, and them alone, as it decodes them; it takes the tag away then.
        turned = opened.getexif().get(ORIENTATION) if opened.format == "TIFF" else None
        opened.load()
        back = None if ORIENTATION in opened.getexif() else _BACK.get(turned)
        return opened if back is None else opened.transpose(back)
