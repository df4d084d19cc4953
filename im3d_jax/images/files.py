"""Picture files: reading the common formats, and PNG files with the same bytes for the same pixels."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from im3d_jax.errors import ImageError


MAXIMUM_PIXELS = 50_000_000  # cutting out takes about 120 bytes a pixel
MAXIMUM_TOTAL = 200_000_000  # pixels of pictures that are read together, 16 bytes each
# Pillow would start other programs for some formats, whatever a file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
GREYS_OF_16_BITS = ("I;16", "I;16B", "I;16L", "I")
ORIENTATION = 0x0112  # the EXIF tag
_EXPECTED = "PNG, JPEG, WebP or TIFF"


def read_image(path: str | os.PathLike) -> Float[np.ndarray, "height width 4"]:
    """Reads a picture.

    Args:
        path: PNG, JPEG, WebP or TIFF file of 8 or 16 bits a channel, whatever its suffix. EXIF orientation is applied;
            of an animation, the first frame is read.

    Returns:
        float32 `[H, W, 4]` in [0, 1], straight alpha (1 where the file has none).

    Raises:
        ImageError: the file is missing, no picture, truncated, too large, or of an unusable kind.
    """
    with open_picture(path) as opened:
        _check_pixels(opened, path)
        with damage_told(path):
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return straight_rgba(upright, path, opened.format)


def straight_rgba(
    picture: Image.Image, path: str | os.PathLike, kind: str | None
) -> Float[np.ndarray, "height width 4"]:
    """Pixels of a decoded picture.

    Args:
        picture: Of any mode of Pillow.
        path: Of its file, for messages.
        kind: Its file's format, as Pillow names it.

    Returns:
        float32 `[H, W, 4]` in [0, 1], straight alpha (1 where the picture has none).

    Raises:
        ImageError: 32-bit or floating-point pixels, or colours that cannot become RGB.
    """
    check_mode(picture.mode, path, kind)
    if picture.mode in GREYS_OF_16_BITS:
        values = np.asarray(picture)
        grey = (values.astype(np.float32) / 65535.0).clip(0.0, 1.0)
        alpha = np.ones_like(grey)
        # One grey may stand for transparent pixels; Pillow applies it to 8 bits alone.
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):
            alpha[values == transparent] = 0.0
        return np.stack([grey, grey, grey, alpha], -1)
    pixels = np.asarray(picture.convert("RGBA")).astype(np.float32)
    pixels /= 255.0
    return pixels


def check_mode(mode: str, path: str | os.PathLike, kind: str | None) -> None:
    """Refuses pictures whose white the file does not tell, and colours that Pillow cannot turn into RGB.

    Args:
        mode: Pillow's, of the picture.
        path: Of its file, for messages.
        kind: Its file's format, as Pillow names it.

    Raises:
        ImageError: Such a picture.
    """
    # 32-bit greys and signed ones come in the mode I, and so do 16-bit ones of PPM files.
    if mode == "F" or (mode == "I" and kind == "TIFF"):
        what = "floating-point" if mode == "F" else "32-bit or signed"
        raise ImageError(f"image {path}: {what} pixels; expected 8 or 16 bits a channel")
    if mode in ("LAB", "HSV"):
        raise ImageError(f"image {path}: colours in {mode}; expected RGB or grey")


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height of a picture as `read_image` gives it, from its header alone.

    Raises:
        ImageError: see `read_image`.
    """
    with open_picture(path) as opened:
        _check_pixels(opened, path)
        with damage_told(path):
            (width, height), turned = raw_size(opened), opened.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def raw_size(opened: Image.Image) -> tuple[int, int]:
    """Width and height of a picture that is not decoded yet, before any orientation is applied."""
    # Of a TIFF file that is to be turned, Pillow tells the size after that.
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return opened.tag_v2[256], opened.tag_v2[257]
    return opened.size


def _kind_of(path: str | os.PathLike) -> str:
    """What a path is that is no file, in words."""
    if os.path.isdir(path):
        return "a folder, not a picture"
    return "a pipe or a device, which cannot be read" if os.path.exists(path) else "missing"


def _without_map(opened: Image.Image) -> Image.Image:
    """A picture that is not decoded yet, kept from being mapped into memory.

    Pillow maps a TIFF file of one strip by its size after turning, which scrambles the rows of one to be turned.
    """
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        opened.filename = ""  # Pillow maps files that have a name alone
    return opened


def open_picture(
    path: str | os.PathLike, formats: tuple[str, ...] = FORMATS, most: int = MAXIMUM_PIXELS
) -> Image.Image:
    """A picture file whose header is read; a context manager that closes it.

    Args:
        path: The file.
        formats: Pillow's names of those that may be opened.
        most: Pixels that the caller takes, for the message on a file that Pillow itself finds too large.

    Raises:
        ImageError: The file is missing, no picture, damaged, or far too large.
    """
    # Not pathlib's tests, which fail on names that are too long.
    if not os.path.isfile(path):
        raise ImageError(f"image {path}: the file is {_kind_of(path)}; give the path of a {_EXPECTED} file")
    with damage_told(path):
        try:
            return _without_map(Image.open(path, formats=formats))
        except UnidentifiedImageError:
            raise ImageError(f"image {path}: not a readable picture; expected {_EXPECTED}") from None
        except Image.DecompressionBombError:
            raise _too_large(path, most) from None


@contextlib.contextmanager
def damage_told(path: str | os.PathLike) -> Iterator[None]:
    """Turns what Pillow raises for a damaged file into one line. Little but its own calls belongs inside.

    Raises:
        ImageError: The file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # on tags of damaged files
            yield
    except (ImageError, MemoryError):
        raise
    # Pillow reports them by nearly any error, depending on the format and on where the damage is.
    except Exception as error:
        raise ImageError(f"image {path}: truncated or damaged ({error}); export it again") from None


def _too_large(path: str | os.PathLike, most: int) -> ImageError:
    return ImageError(f"image {path}: more than {most / 1e6:g} million pixels; scale it down first")


def _check_pixels(opened: Image.Image, path: str | os.PathLike) -> None:
    if opened.width * opened.height > MAXIMUM_PIXELS:
        raise _too_large(path, MAXIMUM_PIXELS)


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
    sizes = [picture_size(path) for path in paths]
    for path, (width, height) in zip(paths, sizes, strict=True):
        if (width, height) != sizes[0]:
            raise ValueError(
                f"mismatched image sizes: {path} has {width}x{height} pixels, "
                f"{paths[0]} has {sizes[0][0]}x{sizes[0][1]}; give all views one size"
            )
    total = sum(width * height for width, height in sizes)
    if total > MAXIMUM_TOTAL:
        raise ImageError(
            f"{len(paths)} images of {sizes[0][0]}x{sizes[0][1]} pixels: together more than "
            f"{MAXIMUM_TOTAL / 1e6:g} million pixels; scale them down"
        )
    return np.stack([read_image(path) for path in paths])


def as_stored(images: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch channels"]:
    """Pictures in [0, 1] as they come back from 8-bit PNG files; float32."""
    return to_bytes(images).astype(np.float32) / 255.0
