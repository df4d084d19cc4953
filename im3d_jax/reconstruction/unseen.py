"""Colours of gaussians that no view shows: at the end of a fit they become those of their surroundings.

Adam moves every parameter by about its rate, however small the gradients are. Gaussians of which the views see next to
nothing, on an underside for instance, so end with arbitrary colours. Adam's second moments tell them: they grow with a
gaussian's share of the pixels.
"""

import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from im3d_jax.reconstruction.presets import FitConfig
from im3d_jax.reconstruction.state import FitState
from im3d_jax.reconstruction.surface import NEIGHBOURS, fill


def pull(state: FitState) -> np.ndarray:
    """How strongly the views pulled at the colours of the active gaussians [n], in units of the median."""
    moments = np.asarray(state.second_moments.sh)[np.asarray(state.active), 0]
    root = np.sqrt(moments.sum(-1))
    return root / max(float(np.median(root)), 1e-30)


def fill_unseen(state: FitState, config: FitConfig) -> FitState:
    """Gives gaussians below `config.least_pull` the harmonic continuation of their neighbours' colours; outside jit.

    Args:
        state: Of a fit.
        config: With `least_pull` 0 nothing changes.

    Returns:
        The state with other colours; as it was where too few gaussians are there or are seen.
    """
    rows = np.flatnonzero(np.asarray(state.active))
    if not config.least_pull or len(rows) <= NEIGHBOURS:
        return state
    known = pull(state) >= config.least_pull
    if known.sum() <= NEIGHBOURS:
        return state
    means, sh = np.asarray(state.gaussians.means)[rows], np.array(state.gaussians.sh)
    colours = sh[rows].reshape(len(rows), -1)
    colours[~known] = colours[known].mean(0)
    neighbours = np.asarray(KDTree(means).query(means, k=NEIGHBOURS + 1)[1])[:, 1:]
    sh[rows] = fill(colours, known, neighbours).reshape(len(rows), *sh.shape[1:])
    return state.replace(gaussians=state.gaussians.replace(sh=jnp.asarray(sh)))
