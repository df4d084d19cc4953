"""Straight, premultiplied and composited colour: closed forms, inverses, and the same for numpy and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.images import alpha


@pytest.fixture
def rgba():
    return np.random.default_rng(0).uniform(0.05, 0.95, (2, 5, 6, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        alpha.composite,
        alpha.composite_on_white,
        alpha.straight_from_white,
        alpha.premultiply,
        alpha.unpremultiply,
    ],
)
def test_numpy_and_jax_agree(function, rgba):
    """Each keeps the kind of array that it was given, and JAX can trace it."""
    ours, theirs = function(rgba), function(jnp.asarray(rgba))
    assert isinstance(ours, np.ndarray) and isinstance(theirs, jax.Array)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    np.testing.assert_allclose(jax.jit(function)(rgba), ours, atol=1e-6)


def test_composite_on_a_background():
    rgba = np.float32([0.2, 0.4, 0.6, 0.25])[None, None]
    np.testing.assert_allclose(alpha.composite(rgba)[0, 0], [0.8, 0.85, 0.9], atol=1e-6)
    background = np.float32([0.0, 1.0, 0.0])[None, None]
    np.testing.assert_allclose(alpha.composite(rgba, background)[0, 0], [0.05, 0.85, 0.15], atol=1e-6)
    np.testing.assert_allclose(alpha.composite(rgba, 0.0)[0, 0], [0.05, 0.1, 0.15], atol=1e-6)


def test_inverses(rgba):
    np.testing.assert_allclose(alpha.straight_from_white(alpha.composite_on_white(rgba)), rgba, atol=1e-5)
    np.testing.assert_allclose(alpha.unpremultiply(alpha.premultiply(rgba)), rgba, atol=1e-5)


def test_colour_under_no_alpha_is_zero(rgba):
    clear = rgba.copy()
    clear[..., 3] = 0.0
    assert (alpha.straight_from_white(alpha.composite_on_white(clear)) == 0).all()
    assert (alpha.unpremultiply(alpha.premultiply(clear)) == 0).all()


def test_results_are_clipped():
    wild = np.float32([[1.4, -0.2, 0.5, 1.2], [0.5, 0.5, 0.5, -0.1]])
    for function in (alpha.straight_from_white, alpha.unpremultiply):
        made = function(wild)
        assert made.min() >= 0.0 and made.max() <= 1.0 and (made[1] == 0).all()


def test_gradients_are_finite_where_alpha_is_zero():
    gradient = jax.grad(lambda x: jnp.sum(alpha.straight_from_white(alpha.composite_on_white(x))))
    assert np.isfinite(gradient(jnp.zeros((2, 2, 4)))).all()
