"""From views to gaussians: losses, presets and the fitting loop."""

from im3d_jax.reconstruction.fitting import fit, init_state
from im3d_jax.reconstruction.losses import Targets
from im3d_jax.reconstruction.presets import DRAWN_VIEWS_STRATEGY, FitConfig, HullStart, capture_config
from im3d_jax.reconstruction.state import FitState, final_gaussians, load_state, save_state


__all__ = [
    "DRAWN_VIEWS_STRATEGY",
    "FitConfig",
    "FitState",
    "HullStart",
    "Targets",
    "capture_config",
    "final_gaussians",
    "fit",
    "init_state",
    "load_state",
    "save_state",
]
