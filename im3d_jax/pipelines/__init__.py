"""Models ready to draw: `load` opens one, `base` says what all of them offer.

One file a family: `bundle` (this project's own), `svd` (SVD and SV3D), `stable_diffusion` (first pictures).
"""

from im3d_jax.pipelines.base import (
    Batch,
    Direction,
    Drawn,
    Orbit,
    PictureModel,
    Pipeline,
    Quality,
    ViewModel,
    ViewTask,
)
from im3d_jax.pipelines.loading import fit_settings, load, open_model


__all__ = [
    "Batch",
    "Direction",
    "Drawn",
    "Orbit",
    "PictureModel",
    "Pipeline",
    "Quality",
    "ViewModel",
    "ViewTask",
    "fit_settings",
    "load",
    "open_model",
]
