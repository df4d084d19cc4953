"""The LPIPS form: closed values, weights, and gradients where features vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import perceptual


def test_distance_of_known_vectors():
    a = [jnp.zeros((1, 2, 2, 3)).at[..., 0].set(5.0), jnp.ones((1, 1, 1, 2))]
    b = [jnp.zeros((1, 2, 2, 3)).at[..., 1].set(0.1), jnp.ones((1, 1, 1, 2)) * 7]
    # Orthogonal unit vectors differ by a squared length of 2; scale does not count.
    np.testing.assert_allclose(perceptual.distance(a, b), [2.0], atol=1e-5)
    weights = [jnp.array([0.5, 0.25, 9.0]), jnp.array([1.0, 1.0])]
    np.testing.assert_allclose(perceptual.distance(a, b, weights), [0.75], atol=1e-5)


def test_gradient_at_blank_features_is_finite_and_equal_inputs_give_zero():
    blank = [jnp.zeros((1, 2, 2, 4))]
    other = [jnp.ones((1, 2, 2, 4))]
    gradient = jax.grad(lambda x: jnp.sum(perceptual.distance([x], other)))(blank[0])
    assert np.isfinite(gradient).all()
    assert float(perceptual.distance(other, other)[0]) == 0.0


def test_kept_targets_give_the_same_distance():
    rng = np.random.default_rng(0)
    a, b = ([jnp.asarray(rng.normal(size=(2, 3, 3, 5)), jnp.float32)] for _ in range(2))
    kept = perceptual.normalised(b)
    np.testing.assert_array_equal(
        perceptual.distance(a, b), perceptual.distance_between_normalised(perceptual.normalised(a), kept)
    )


def test_networks_travel_as_arguments():
    def apply(scale, images):
        return [images * scale]

    wrapped = perceptual.as_perceptual(jax.tree_util.Partial(apply, jnp.float32(2)))
    assert len(jax.tree.leaves(wrapped)) == 1
    features = jax.jit(lambda network, x: network.features(x))(wrapped, jnp.ones((1, 1, 1, 4)))
    np.testing.assert_allclose(features[0], 2.0)
    assert perceptual.as_perceptual(wrapped) is wrapped
    assert jax.tree.leaves(perceptual.as_perceptual(lambda x: [x])) == []


def test_lists_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="2 and 1 feature maps"):
        perceptual.distance([jnp.ones((1, 1, 1, 1))] * 2, [jnp.ones((1, 1, 1, 1))])
