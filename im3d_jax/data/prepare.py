"""Pictures that users bring: reading them, cutting the object out, centring and scaling it.

Images are float32 `[H, W, 4]` in [0, 1] with straight alpha. Nothing here needs jax.
"""

import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage


MINIMUM_SIDE = 16  # pixels of the picture
MAXIMUM_PIXELS = 50_000_000  # cutting out takes about 120 bytes a pixel
MINIMUM_OBJECT = 8  # pixels of the object's longer side

# Largest channel difference to the background colour up to which a pixel is background.
_BACKGROUND_BELOW = 0.05
# Share of the border that must show the background colour for the background to count as plain.
_PLAIN_BORDER = 0.6


class ImageError(ValueError):
    """A picture that cannot be used; the message is one line that says how to mend it."""


def read_image(path: str | os.PathLike) -> np.ndarray:
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


def foreground_mask(image: np.ndarray) -> np.ndarray:
    """Alpha of an object: the picture's own, or by the colour of a plain background.

    Without alpha (three channels, or four that are opaque everywhere) the background is what has about the
    border's median colour and touches the border, or is enclosed and of exactly that colour (the hole of a
    handle). The outermost two pixels come out soft.

    Args:
        image: `[H, W, 3]` or `[H, W, 4]` in [0, 1], straight alpha.

    Returns:
        float32 `[H, W]` in [0, 1].

    Raises:
        ImageError: the background is not plain, or there is nothing before it.
    """
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ImageError(f"image of shape {image.shape}: expected [height, width, 3 or 4]")
    if image.shape[-1] == 4 and image[..., 3].min() < 1.0:
        return image[..., 3]
    return _plain_background(image[..., :3])[0]


def _plain_background(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha `[H, W]` and the object's own colours `[H, W, 3]` of `rgb[H, W, 3]`."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    background = np.median(border, axis=0)
    plain = (np.abs(border - background[None]).max(-1) < _BACKGROUND_BELOW).mean()
    if plain < _PLAIN_BORDER:
        raise ImageError(
            f"the picture's background is not plain (only {plain:.0%} of its border has one colour): cut the "
            "object out and give a PNG with alpha, or photograph it before a plain background"
        )
    difference = np.abs(rgb - background[None, None]).max(-1)
    regions, count = _connected(difference < _BACKGROUND_BELOW)
    outside = np.zeros(count + 1, bool)
    outside[np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])] = True
    outside[0] = False
    behind = outside[regions]
    holes, count = _connected((difference < 0.01) & ~behind)
    large = np.bincount(holes.ravel(), minlength=count + 1) >= max(4, 1e-3 * difference.size)
    large[0] = False
    behind |= large[holes]

    # Specks (dust, compression) would enlarge the object's box.
    parts, count = _connected(~behind)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    front = (sizes >= max(4, 0.01 * sizes.max()))[parts] & ~behind
    if not front.any():
        raise ImageError("the picture shows nothing before its plain background: expected one object")
    return _soften_edge(rgb, front, background)


def _connected(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions of a mask, numbered from 1 (0 outside), and how many they are."""
    regions = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=regions)
    return regions, int(regions.max(initial=0))


def _soften_edge(rgb: np.ndarray, front: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the object in its outermost two pixels, and `rgb` with the background's share removed.

    An edge pixel C is taken as a mixture of the background B and of the nearest colour F deeper inside:
    alpha = (C-B).(F-B) / |F-B|^2.
    """
    alpha = front.astype(np.float32)
    core = np.asarray(ndimage.distance_transform_edt(front)) > 2.0
    if not core.any():
        return alpha, rgb
    distance = np.asarray(ndimage.distance_transform_edt(~core))
    nearest = np.asarray(ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True))
    inside = rgb[nearest[0], nearest[1]]
    contrast = inside - background[None, None]
    strength = np.square(contrast).sum(-1)
    share = ((rgb - background[None, None]) * contrast).sum(-1) / np.maximum(strength, 1e-6)
    # Thin parts have no core nearby, and colours like the background's tell nothing: both stay as they are.
    edge = front & ~core & (distance <= 4.0) & (strength > 0.03)
    alpha = np.where(edge, share.clip(0.0, 1.0), alpha).astype(np.float32)
    visible = np.maximum(alpha, 0.05)[..., None]
    unmixed = (rgb - (1.0 - visible) * background[None, None]) / visible
    unmixed = np.where(alpha[..., None] < 0.2, inside, unmixed.clip(0.0, 1.0))
    return alpha, np.where((edge & (alpha < 1.0))[..., None], unmixed, rgb).astype(np.float32)


def cut_out(image: np.ndarray) -> np.ndarray:
    """The object alone: `[H, W, 4]` straight alpha, with the background's share removed from soft edges.

    Args:
        image: `[H, W, 3]` or `[H, W, 4]` in [0, 1].

    Raises:
        ImageError: too small, wholly transparent, or without alpha and not on a plain background.
    """
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ImageError(f"image of shape {image.shape}: expected [height, width, 3 or 4]")
    height, width = image.shape[:2]
    if min(height, width) < MINIMUM_SIDE:
        raise ImageError(f"the picture has {width}x{height} pixels: expected {MINIMUM_SIDE}x{MINIMUM_SIDE} or more")
    rgb = image[..., :3]
    if image.shape[-1] == 4 and image[..., 3].min() < 1.0:
        alpha = image[..., 3]
        if alpha.max() < 0.5:
            raise ImageError("the picture is wholly transparent: expected an object with alpha above 0.5")
        return np.concatenate([rgb, alpha[..., None]], -1)
    alpha, rgb = _plain_background(rgb)
    return np.concatenate([rgb, alpha[..., None]], -1)


def prepare_image(image: np.ndarray, size: int, target_fraction: float) -> np.ndarray:
    """Cuts the object out, centres it and scales it to the size that a model was trained on.

    The box holds the pixels with alpha of at least 0.5; its longer side becomes `target_fraction * size`
    pixels. Colours are resampled premultiplied, so that nothing of the background bleeds in.

    Args:
        image: `[H, W, 3]` or `[H, W, 4]` in [0, 1], straight alpha.
        size: side of the result in pixels.
        target_fraction: longer side of the object's box over `size`, in (0, 1].

    Returns:
        float32 `[size, size, 4]` in [0, 1], straight alpha, colour 0 where alpha is 0.

    Raises:
        ImageError: see `cut_out`; or the object is only a few pixels large, or too thin.
    """
    if not 0.0 < target_fraction <= 1.0:
        raise ValueError(f"target_fraction={target_fraction}: expected a number in (0, 1]")
    rgba = cut_out(image)
    alpha = rgba[..., 3:]
    premultiplied = np.concatenate([rgba[..., :3] * alpha, alpha], -1)
    # A photograph of many megapixels is first reduced by whole blocks: the same result for less memory.
    premultiplied = block_mean(premultiplied, max(1, max(alpha.shape) // (8 * size)))
    covered = premultiplied[..., 3] >= 0.5
    rows, columns = np.nonzero(covered.any(1))[0], np.nonzero(covered.any(0))[0]
    longer = max(np.ptp(rows), np.ptp(columns)) + 1 if rows.size else 0
    if longer < MINIMUM_OBJECT:
        raise ImageError(f"the object is only {longer} pixels large: expected {MINIMUM_OBJECT} or more")

    window = longer / target_fraction  # side of the square, in source pixels, that becomes the result
    left = (columns[0] + columns[-1] + 1 - window) / 2.0
    top = (rows[0] + rows[-1] + 1 - window) / 2.0
    scaled = _resample_window(premultiplied, size, left, top, window)
    out_alpha = scaled[..., 3:].clip(0.0, 1.0)
    if not (out_alpha >= 0.5).any():
        raise ImageError(
            f"the object is too thin: at {size} pixels no pixel of it is opaque; crop the picture to a part of it"
        )
    rgb = np.where(out_alpha > 0.0, scaled[..., :3] / np.maximum(out_alpha, 1e-6), 0.0)
    return np.concatenate([rgb.clip(0.0, 1.0), out_alpha], -1).astype(np.float32)


def block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over `factor` x `factor` pixels of `[H, W, C]`; an incomplete last row or column is cut off."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean((1, 3))


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Straight-alpha `[H, W, 4]` scaled down by `block_mean`, averaged premultiplied."""
    if factor == 1:
        return image
    alpha = image[..., 3:]
    small = block_mean(np.concatenate([image[..., :3] * alpha, alpha], -1), factor)
    rgb = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
    return np.concatenate([rgb.clip(0.0, 1.0), small[..., 3:]], -1).astype(np.float32)


def _resample_window(image: np.ndarray, size: int, left: float, top: float, window: float) -> np.ndarray:
    """The square window of `image[H, W, C]`, zero outside of it, as `[size, size, C]`, antialiased."""
    x0, y0 = int(np.floor(left)) - 4, int(np.floor(top)) - 4
    side = int(np.ceil(window)) + 9
    canvas = np.zeros((side, side, image.shape[-1]), np.float32)
    height, width = image.shape[:2]
    rows = slice(max(0, y0), min(height, y0 + side))
    columns = slice(max(0, x0), min(width, x0 + side))
    canvas[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = image[rows, columns]
    box = (left - x0, top - y0, left - x0 + window, top - y0 + window)
    channels = []
    for channel in range(canvas.shape[-1]):
        picture = Image.fromarray(np.ascontiguousarray(canvas[..., channel]))
        channels.append(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return np.stack(channels, -1)
