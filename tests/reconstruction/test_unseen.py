"""Gaussians that no view shows get their neighbours' colours at the end of a fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import splat
from im3d_jax.reconstruction import FitConfig, init_state
from im3d_jax.reconstruction.unseen import fill_unseen, pull


CONFIG = FitConfig(capacity=200, initial=150, least_pull=0.25)


def test_only_what_no_view_pulls_at_changes():
    """A ball with colours that follow x; the lower ones were never seen and are at random."""
    cameras = splat.orbit_cameras(0.3, views=2, width=24, height=24)
    state = init_state(jax.random.key(0), CONFIG, cameras)
    means = np.asarray(state.gaussians.means)
    hidden = np.asarray(state.active) & (means[:, 2] < -0.2)
    rng = np.random.default_rng(0)
    sh = np.where(hidden[:, None, None], rng.normal(size=(200, 1, 3)), means[:, None, :1] * np.ones((1, 1, 3)))
    moments = np.where(hidden[:, None, None], 1e-12, rng.uniform(0.5, 2, (200, 1, 3)))
    state = state.replace(
        gaussians=state.gaussians.replace(sh=jnp.asarray(sh, jnp.float32)),
        second_moments=state.second_moments.replace(sh=jnp.asarray(moments, jnp.float32)),
    )
    assert 10 < hidden.sum() < 75 and (pull(state) < 0.25).sum() == hidden.sum()
    new = np.asarray(fill_unseen(state, CONFIG).gaussians.sh)
    np.testing.assert_array_equal(new[~hidden], np.asarray(state.gaussians.sh)[~hidden])
    # Grey as everything seen, and from left to right as there.
    assert np.ptp(new[hidden, 0], axis=-1).max() < 1e-3
    assert np.corrcoef(new[hidden, 0, 0], means[hidden, 0])[0, 1] > 0.7
    assert fill_unseen(state, dataclasses.replace(CONFIG, least_pull=0.0)) is state
