"""A picture that a user brings, as a model wants it: the object cut out, centred and scaled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from im3d_jax.errors import ImageError
from im3d_jax.images.alpha import premultiply, unpremultiply
from im3d_jax.images.cutout import cut_out
from im3d_jax.images.resize import block_mean, resample_window


MINIMUM_OBJECT = 8  # pixels of the object's longer side


def prepare_image(
    image: Float[np.ndarray, "height width channels"], size: int, target_fraction: float
) -> Float[np.ndarray, "size size 4"]:
    """Cuts the object out and places it; see `place_object`.

    Args:
        image: `[H, W, 3]` or `[H, W, 4]` in [0, 1], straight alpha.
        size: side of the result in pixels.
        target_fraction: longer side of the object's box over `size`, in (0, 1].

    Returns:
        float32 `[size, size, 4]` in [0, 1], straight alpha, colour 0 where alpha is 0.

    Raises:
        ImageError: see `cut_out` and `place_object`.
    """
    return place_object(cut_out(image), size, target_fraction)


def place_object(
    rgba: Float[np.ndarray, "height width 4"], size: int, target_fraction: float
) -> Float[np.ndarray, "size size 4"]:
    """Centres an object and scales it to the size that a model was trained on.

    The box holds the pixels with alpha of at least 0.5; its longer side becomes `target_fraction * size`
    pixels. Colours are resampled premultiplied, so that nothing of the background bleeds in.

    Args:
        rgba: `[H, W, 4]` from `cut_out`.
        size: side of the result in pixels.
        target_fraction: longer side of the object's box over `size`, in (0, 1].

    Returns:
        float32 `[size, size, 4]` in [0, 1], straight alpha, colour 0 where alpha is 0.

    Raises:
        ImageError: the object is only a few pixels large, or too thin.
    """
    if not 0.0 < target_fraction <= 1.0:
        raise ValueError(f"target_fraction={target_fraction}: expected a number in (0, 1]")
    premultiplied = premultiply(rgba)
    # A photograph of many megapixels is first reduced by whole blocks: the same result for less memory.
    premultiplied = block_mean(premultiplied, max(1, max(premultiplied.shape[:2]) // (8 * size)))
    covered = premultiplied[..., 3] >= 0.5
    rows, columns = np.nonzero(covered.any(1))[0], np.nonzero(covered.any(0))[0]
    longer = max(np.ptp(rows), np.ptp(columns)) + 1 if rows.size else 0
    if longer < MINIMUM_OBJECT:
        raise ImageError(f"the object is only {longer} pixels large: expected {MINIMUM_OBJECT} or more")

    window = longer / target_fraction  # side of the square, in source pixels, that becomes the result
    left = (columns[0] + columns[-1] + 1 - window) / 2.0
    top = (rows[0] + rows[-1] + 1 - window) / 2.0
    scaled = resample_window(premultiplied, size, left, top, window)
    if not (scaled[..., 3] >= 0.5).any():
        raise ImageError(
            f"the object is too thin: scaled to {size} pixels, it has no opaque pixel; crop the picture to a part of it"
        )
    return unpremultiply(scaled).astype(np.float32)
