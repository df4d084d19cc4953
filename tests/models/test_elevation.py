"""The elevation head looks at four evenly spaced frames, as a set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models.elevation import ElevationConfig, ElevationHead


MODULE = ElevationHead(ElevationConfig(hidden=8))


@pytest.fixture(scope="module")
def latents():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 16, 2)), jnp.float32)


@pytest.fixture(scope="module")
def estimate(latents):
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), latents)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * leaf.shape[0] ** -0.5, jnp.float32), shapes
    )
    return jax.jit(lambda x: MODULE.apply({"params": params}, x))


def test_range(estimate, latents):
    for scale in (0.0, 1.0, 1e3):
        found = estimate(scale * latents)
        assert found.shape == (3,)
        assert float(found.min()) >= 0 and float(found.max()) <= np.pi / 4 + 1e-6
    assert float(jnp.ptp(estimate(latents))) > 1e-3


def test_frames_looked_at(estimate, latents):
    """Frames 0, 4, 8 and 12 of 16, in any order; training gives it just these."""
    found = estimate(latents)
    others = latents.at[:, 1:4].set(9.0).at[:, 5:8].set(9.0).at[:, 9:12].set(9.0).at[:, 13:].set(9.0)
    np.testing.assert_array_equal(estimate(others), found)
    four = latents[:, ::4]
    np.testing.assert_allclose(estimate(four), found, atol=1e-6)
    np.testing.assert_allclose(estimate(four[:, ::-1]), found, atol=1e-6)
    for frame in (0, 4, 8, 12):
        assert float(jnp.abs(estimate(latents.at[:, frame].add(1.0)) - found).max()) > 1e-4
