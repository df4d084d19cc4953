"""Contact sheets: all views of an object in one picture."""

import numpy as np

from im3d_jax.images.alpha import composite


def contact_sheet(views: np.ndarray, columns: int = 4, gap: int = 2) -> np.ndarray:
    """Lays views out row by row, on white.

    Args:
        views: float `[V, H, W, 3 or 4]` in [0, 1], straight alpha.
        columns: views in a row; the last row is filled up with white.
        gap: white pixels between two views.

    Returns:
        float32 `[rows * (H + gap) - gap, columns * (W + gap) - gap, 3]`.
    """
    views = np.asarray(views, np.float32)
    if views.shape[-1] == 4:
        views = composite(views)
    count, height, width = views.shape[:3]
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
    for index, view in enumerate(views):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = view
    return sheet
