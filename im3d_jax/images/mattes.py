"""Alpha for views that video models draw on white."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from im3d_jax.errors import ImageError
from im3d_jax.images.cutout import connected, cut_out


# Largest channel distance to white at which a pixel is wholly background, and wholly object.
_WHITE, _OBJECT = 0.04, 0.12
# Enclosed white regions up to this share of the picture are highlights; larger ones are holes.
_HIGHLIGHT = 2e-3


def cut_out_views(
    views: Float[np.ndarray, "views height width 3"],
) -> tuple[Float[np.ndarray, "views height width 4"], int]:
    """Views with the objects cut out.

    Args:
        views: [V, H, W, 3] in [0, 1], each an object before white.

    Returns:
        ([V, H, W, 4] straight alpha, how many views had no plain background). In such views whatever is not nearly
        white is object, and so are small highlights in it.
    """
    with ThreadPoolExecutor() as pool:
        cut = list(pool.map(_cut_out, np.asarray(views, np.float32)))
    return np.stack([view for view, _ in cut]).astype(np.float32), sum(not plain for _, plain in cut)


def _cut_out(view: np.ndarray) -> tuple[np.ndarray, bool]:
    """The object of one view, and whether its background was plain."""
    try:
        return cut_out(view), True
    except ImageError:
        return _not_white(view), False


def _not_white(view: np.ndarray) -> np.ndarray:
    distance = (1.0 - view).max(-1)
    alpha = ((distance - _WHITE) / (_OBJECT - _WHITE)).clip(0.0, 1.0)
    solid = alpha > 0.5
    holes, count = connected(np.asarray(ndimage.binary_fill_holes(solid)) & ~solid)
    small = np.bincount(holes.ravel(), minlength=count + 1) < _HIGHLIGHT * alpha.size
    small[0] = False
    return np.concatenate([view, np.where(small[holes], 1.0, alpha)[..., None]], axis=-1)
