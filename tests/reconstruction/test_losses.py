"""Terms of the fitting loss on images with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.images.alpha import composite, composite_on_white
from im3d_jax.models import perceptual
from im3d_jax.reconstruction import FitConfig, losses


NONE = FitConfig(perceptual_weight=0, ssim_weight=0, mask_weight=0)
WHITE = jnp.ones(3)


def views(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(2, 16, 16, 4)), jnp.float32)


def only(**weights):
    return dataclasses.replace(NONE, **weights)


def test_perfect_renders_cost_nothing_on_any_background():
    target = views()
    config = only(ssim_weight=0.2, mask_weight=1.0, l1_weight=0.8, colour_weight=1.0)
    for background in (WHITE, jnp.array([0.1, 0.7, 0.3])):
        value, terms = losses.view_loss(composite(target), target[..., 3], target, background, config)
        assert abs(float(value)) < 1e-5 and set(terms) == {"ssim", "mask", "l1", "colour"}


def test_backgrounds_are_moved_exactly():
    target, other = views(), views(1)
    background = jnp.array([0.2, 0.9, 0.4])
    value, _ = losses.view_loss(composite(other), other[..., 3], target, background, only(l1_weight=1.0))
    a, b = (composite(x, background[None, None, None]) for x in (other, target))
    np.testing.assert_allclose(value, jnp.mean(jnp.abs(a - b)), rtol=1e-5)


def test_mask_and_colour_terms():
    target = jnp.ones((1, 16, 16, 4)) * 0.5
    rgb = composite(target)
    value, _ = losses.view_loss(rgb, target[..., 3] + 0.2, target, WHITE, only(mask_weight=2.0))
    np.testing.assert_allclose(value, 2 * 0.04, rtol=1e-5)
    # A checkerboard averages out over blocks, a tint does not.
    signs = (-1.0) ** (jnp.arange(16)[:, None] + jnp.arange(16)[None])
    colour = only(colour_weight=1.0)
    value, _ = losses.view_loss(rgb + 0.1 * signs[None, :, :, None], target[..., 3], target, WHITE, colour)
    assert float(value) < 1e-9
    value, _ = losses.view_loss(rgb + 0.1, target[..., 3], target, WHITE, colour)
    np.testing.assert_allclose(value, 0.01, rtol=1e-4)


def test_perceptual_term_uses_kept_targets():
    target, other = views(), views(1)
    network = perceptual.as_perceptual(lambda images: [images, images[:, ::2, ::2]])
    kept = losses.target_features(network, target)
    value, terms = losses.view_loss(
        composite(other), other[..., 3], target, WHITE, only(perceptual_weight=10.0), network, kept
    )
    expected = perceptual.distance(
        network.features(composite_on_white(other)), network.features(composite_on_white(target))
    )
    np.testing.assert_allclose(terms["perceptual"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(value, 10 * expected.mean(), rtol=1e-5)


def test_gradient_is_finite_on_an_empty_render():
    target = views()
    config = FitConfig(ssim_weight=0.2)
    slope = jax.grad(lambda rgb, alpha: losses.view_loss(rgb, alpha, target, jnp.zeros(3), config)[0], argnums=(0, 1))
    gradient = jax.jit(slope)(jnp.ones((2, 16, 16, 3)), jnp.zeros((2, 16, 16)))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in gradient)


def test_pixels_that_do_not_count_cost_nothing_and_pull_at_nothing():
    target, other = views(), views(1)
    valid = jnp.ones((2, 16, 16), bool).at[:, :, 10:].set(False).at[1, 12:].set(False)
    config = only(ssim_weight=0.2, mask_weight=1.0, l1_weight=0.8, colour_weight=1.0)

    def loss(rgb, alpha):
        return losses.view_loss(*losses.where_valid(rgb, alpha, target, valid), target, WHITE, config)[0]

    value, gradients = jax.value_and_grad(loss, (0, 1))(composite(other), other[..., 3])
    assert float(value) > 0.05
    for gradient in gradients:
        assert not np.asarray(gradient)[~np.asarray(valid)].any() and np.asarray(gradient)[np.asarray(valid)].any()
    # What stands there makes no difference.
    changed = jnp.where(valid[..., None], composite(other), 0.9)
    np.testing.assert_array_equal(loss(changed, jnp.where(valid, other[..., 3], 0.1)), value)
    rgb, alpha = losses.where_valid(composite(other), other[..., 3], target, None)
    np.testing.assert_array_equal(rgb, composite(other))
    np.testing.assert_array_equal(alpha, other[..., 3])
