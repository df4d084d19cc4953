"""Haze and specks beside the object: gaussians outside the visual hull of the views' masks.

Where generated views disagree, a fit leaves faint gaussians in the air that serve one or two of them, and the mean
squared error of alpha hardly minds. The masks of the others say that nothing is there.
"""

import jax.numpy as jnp
import numpy as np

from im3d_jax.reconstruction import poses
from im3d_jax.reconstruction.initial import pixels_of
from im3d_jax.reconstruction.losses import Targets
from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState
from splat import Cameras


# A pixel is background where neither it nor one of its eight neighbours reaches this alpha: edges are soft.
BACKGROUND_ALPHA = 0.05
# A mask with less than this share of the masks' median area has failed: no object is that thin from one side only.
FAILED_AREA = 0.25
# Haze is faint. Where more than this share of all opacity would go, the masks are wrong and not the gaussians.
MOST_OPACITY = 0.2


def background(alpha: np.ndarray) -> np.ndarray:
    """Pixels that are surely background.

    Args:
        alpha: [H, W] of a view.

    Returns:
        [H, W] bool; nothing where alpha is empty everywhere, for then the mask has failed.
    """
    covered = np.pad(np.asarray(alpha) >= BACKGROUND_ALPHA, 1)
    windows = np.lib.stride_tricks.sliding_window_view(covered, (3, 3))
    return ~np.asarray(windows.any(axis=(2, 3))) & covered.any()


def views_against(means: np.ndarray, rgba: np.ndarray, cameras: Cameras) -> np.ndarray:
    """In how many views each centre lies in front of background.

    Args:
        means: [N, 3].
        rgba: [V, H, W, 4] straight alpha; an opaque view has no background.
        cameras: Of the views; those that do not see a centre do not count, nor those with hardly any mask.

    Returns:
        [N] int.
    """
    count = np.zeros(len(means), int)
    alphas = np.asarray(rgba)[..., 3]
    areas = (alphas >= BACKGROUND_ALPHA).sum(axis=(1, 2))
    for view, alpha in enumerate(alphas):
        if areas[view] < FAILED_AREA * np.median(areas):
            continue
        column, row, seen = pixels_of(means, cameras[view])
        count += seen & background(alpha)[row, column]
    return count


def remove(state: FitState, targets: Targets, cameras: Cameras, config: FitConfig) -> FitState:
    """Frees the rows of gaussians in front of background in `config.outside_views` views or more; outside jit.

    Args:
        state: Of a fit.
        targets: The views.
        cameras: Of the views.
        config: With `outside_views` 0 nothing goes.

    Returns:
        The state with fewer active rows; as it was where a fifth of all opacity would go, for then the masks contradict
        each other.
    """
    if not config.outside_views:
        return state
    if state.poses is not None:
        cameras = poses.moved(cameras, state.poses.motions, state.extent)
    against = views_against(np.asarray(state.gaussians.means), np.asarray(targets.rgba), cameras)
    active = np.asarray(state.active)
    opacity = active * np.asarray(state.gaussians.opacities)
    gone = active & (against >= config.outside_views)
    if opacity[gone].sum() > MOST_OPACITY * opacity.sum():
        return state
    return state.replace(active=jnp.asarray(active & ~gone))
