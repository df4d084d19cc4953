"""Targets of a fit after a refinement: what was drawn anew where the views contradict each other, the former elsewhere.

A model that draws views anew from renders makes them agree, and blurs them: it sees what the fit could not explain only
as blur. IM-3D (arXiv 2402.08682, section 3.4) takes its views as they come. Here each pixel keeps its former target as
far as the render, which is what all views agree on, confirms it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from im3d_jax.images.alpha import premultiply, unpremultiply
from im3d_jax.images.sharpness import sharpness


@dataclasses.dataclass(frozen=True)
class Refresh:
    """How targets are made of views that were drawn anew.

    Attributes:
        tolerance: Root mean square difference (colours and alpha in [0, 1]) between render and former target at which
            both targets weigh the same.
        reach: Standard deviation of the window over which the difference is taken, as a share of the picture's side.
        least_sharpness: A view whose new target has less than this share of its former target's sharpness keeps the
            former one.
    """

    tolerance: float = 0.2
    reach: float = 0.025
    least_sharpness: float = 0.7


@dataclasses.dataclass(frozen=True, eq=False)
class Refreshed:
    """New targets.

    Attributes:
        images: [V, H, W, 4] straight alpha; view 0 is the former one.
        kept: [V] mean weight of the former targets inside the object.
        rejected: Views that keep their former target because the new one is less sharp.
    """

    images: np.ndarray
    kept: np.ndarray
    rejected: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """JSON values for run.json."""
        return {"rejected": list(self.rejected), "kept": [round(float(share), 3) for share in self.kept]}


def agreement(renders: np.ndarray, former: np.ndarray, settings: Refresh) -> np.ndarray:
    """Weights [V, H, W] of former targets, from 0 (the render contradicts them) to 1.

    Args:
        renders: [V, H, W, 4] of the fit, straight alpha.
        former: [V, H, W, 4] that it was fitted to.
        settings: See `Refresh`.
    """
    sigma = settings.reach * max(former.shape[1:3])
    squared = np.square(premultiply(renders) - premultiply(former)).mean(-1)
    local = gaussian_filter(squared, (0.0, sigma, sigma))
    # The fourth power: a little above the tolerance the drawn view has it all, a little below the former one.
    return 1.0 / (1.0 + np.square(local / settings.tolerance**2))


def refreshed(former: np.ndarray, drawn: np.ndarray, renders: np.ndarray, settings: Refresh) -> Refreshed:
    """New targets from views that were drawn anew.

    Args:
        former: [V, H, W, 4] targets until now, straight alpha.
        drawn: [V, H, W, 4] drawn from the renders.
        renders: [V, H, W, 4] of the fit.
        settings: See `Refresh`.
    """
    weight = agreement(renders, former, settings)
    # View 0 was given.
    weight[0] = 1.0
    mixed = weight[..., None] * premultiply(former) + (1.0 - weight[..., None]) * premultiply(drawn)
    images = unpremultiply(mixed).astype(np.float32)
    mask = np.maximum(former[..., 3], drawn[..., 3])
    before, after = (sharpness(views, views[..., 3]) for views in (former, images))
    rejected = tuple(int(view) for view in np.flatnonzero(after < settings.least_sharpness * before))
    images[[0, *rejected]] = former[[0, *rejected]]
    weight[list(rejected)] = 1.0
    kept = (weight * mask).sum((1, 2)) / np.maximum(mask.sum((1, 2)), 1e-6)
    return Refreshed(images, kept, rejected)
