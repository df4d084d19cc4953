"""How sharp pictures are inside their objects."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from im3d_jax.images.alpha import composite


def _laplacian(images: Float[np.ndarray, "*batch height width channels"]) -> Float[np.ndarray, "*batch h w"]:
    """Absolute Laplacian |4 c - up - down - left - right|, the mean over channels.

    Args:
        images: [..., H, W, C].

    Returns:
        [..., H - 2, W - 2], without the outermost pixels.
    """
    middle = images[..., 1:-1, 1:-1, :]
    around = images[..., :-2, 1:-1, :] + images[..., 2:, 1:-1, :] + images[..., 1:-1, :-2, :] + images[..., 1:-1, 2:, :]
    return np.abs(4 * middle - around).mean(-1)


def sharpness(
    rgba: Float[np.ndarray, "views height width 4"], mask: Float[np.ndarray, "views height width"]
) -> Float[np.ndarray, " views"]:
    """Mean absolute Laplacian of pictures on white inside of masks.

    It tells a washed-out picture from a crisp one, and counts speckle as sharpness too: judge it together with a
    perceptual distance.

    Args:
        rgba: [V, H, W, 4] in [0, 1], straight alpha.
        mask: [V, H, W] coverage; pixels above one half count.

    Returns:
        [V]; 0 where a mask is empty.
    """
    inside = mask[:, 1:-1, 1:-1] > 0.5
    values = _laplacian(composite(rgba)) * inside
    return values.sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
