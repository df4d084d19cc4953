"""Alpha for views that video models draw on white."""

import numpy as np
from scipy import ndimage

from im3d_jax.data.prepare import ImageError, cut_out


# Largest channel distance to white at which a pixel is wholly background, and wholly object.
_WHITE, _OBJECT = 0.04, 0.12


def cut_out_views(views: np.ndarray) -> tuple[np.ndarray, int]:
    """Views with the objects cut out.

    Args:
        views: [V, H, W, 3] in [0, 1], each an object before white.

    Returns:
        ([V, H, W, 4] straight alpha, how many views had no plain background). In such views whatever is not nearly
        white is object, and so is what it encloses.
    """
    cut, uneven = [], 0
    for view in np.asarray(views, np.float32):
        try:
            cut.append(cut_out(view))
        except ImageError:
            uneven += 1
            cut.append(_not_white(view))
    return np.stack(cut).astype(np.float32), uneven


def _not_white(view: np.ndarray) -> np.ndarray:
    distance = (1.0 - view).max(-1)
    alpha = ((distance - _WHITE) / (_OBJECT - _WHITE)).clip(0.0, 1.0)
    inside = ndimage.binary_fill_holes(alpha > 0.5)
    return np.concatenate([view, np.where(inside, np.maximum(alpha, 0.5), alpha)[..., None]], axis=-1)
