"""Cutting an object out: by the picture's own alpha, or by the colour of a plain background."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from im3d_jax.errors import ImageError


MINIMUM_SIDE = 16  # pixels of the picture

# Largest channel difference to the background colour up to which a pixel is background.
_BACKGROUND_BELOW = 0.05
# Share of the border that must show the background colour for the background to count as plain.
_PLAIN_BORDER = 0.6
# Share of the pixels that must be transparent for alpha to count.
_TRANSPARENT = 1e-3


def foreground_mask(image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width"]:
    """Alpha of an object: the picture's own, or by the colour of a plain background.

    Without alpha (three channels, or four and hardly any transparent pixel) the background is what has about the
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
    if _is_cut_out(image):
        return image[..., 3]
    return _plain_background(image[..., :3])[0]


def _is_cut_out(image: np.ndarray) -> bool:
    """Whether the alpha of `image[H, W, 3 or 4]` tells an object: a stray value or rounded corners do not."""
    if image.shape[-1] == 3:
        return False
    return bool((image[..., 3] < 0.5).sum() >= max(4, _TRANSPARENT * image[..., 3].size))


def _plain_background(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha `[H, W]` and the object's own colours `[H, W, 3]` of `rgb[H, W, 3]`."""
    border = _border(rgb)
    background = np.median(border, axis=0)
    plain = (np.abs(border - background[None]).max(-1) < _BACKGROUND_BELOW).mean()
    if plain < _PLAIN_BORDER:
        raise ImageError(
            f"the picture's background is not plain (only {plain:.0%} of its border has one colour): cut the "
            "object out and give a PNG with alpha, or photograph it in front of a plain background"
        )
    difference = np.abs(rgb - background[None, None]).max(-1)
    regions, count = connected(difference < _BACKGROUND_BELOW)
    outside = np.zeros(count + 1, bool)
    outside[np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])] = True
    outside[0] = False
    behind = outside[regions]
    holes, count = connected((difference < 0.01) & ~behind)
    large = np.bincount(holes.ravel(), minlength=count + 1) >= max(4, 1e-3 * difference.size)
    large[0] = False
    behind |= large[holes]

    # Specks (dust, compression) would enlarge the object's box.
    parts, count = connected(~behind)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    front = (sizes >= max(4, 0.01 * sizes.max()))[parts] & ~behind
    if not front.any():
        raise ImageError("the picture shows only its plain background: expected one object in front of it")
    return _soften_edge(rgb, front, background)


def _border(rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])


def plain_colour(image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "3"] | None:
    """Colour of the background by which `cut_out` tells the object; None where it goes by the picture's own alpha."""
    return None if _is_cut_out(image) else np.median(_border(image[..., :3]), axis=0)


def connected(mask: np.ndarray) -> tuple[np.ndarray, int]:
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


def cut_out(image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width 4"]:
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
    if _is_cut_out(image):
        alpha = image[..., 3]
        if alpha.max() < 0.5:
            raise ImageError("the picture is entirely transparent: expected an object with alpha above 0.5")
        return np.concatenate([rgb, alpha[..., None]], -1)
    alpha, rgb = _plain_background(rgb)
    return np.concatenate([rgb, alpha[..., None]], -1)
