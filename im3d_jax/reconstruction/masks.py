"""Masks of objects on plain backgrounds, for views that come without alpha."""

import numpy as np

from im3d_jax.data.prepare import foreground_mask


__all__ = ["foreground_mask", "with_alpha"]


def with_alpha(images: np.ndarray) -> np.ndarray:
    """Views [V, H, W, 3 or 4] in [0, 1] with alpha: their own, or found on their plain background.

    Returns:
        [V, H, W, 4] straight alpha.

    Raises:
        ValueError: A view without alpha has no plain background.
    """
    alphas = np.stack([foreground_mask(image) for image in images])
    return np.concatenate([np.asarray(images, np.float32)[..., :3], alphas[..., None]], axis=-1)
