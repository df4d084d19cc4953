"""The autoencoder's channels, normalisation and feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.images.alpha import composite_on_white, straight_from_white
from im3d_jax.models import RgbaAutoencoder, RgbaAutoencoderConfig


MODULE = RgbaAutoencoder(
    RgbaAutoencoderConfig(
        latent_channels=3, encoder_channels=(8, 8, 16), decoder_channels=(8, 8, 16), encoder_blocks=(1, 0, 2)
    )
)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(2, 16, 16, 4)), jnp.float32)


@pytest.fixture(scope="module")
def params(images):
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.2, jnp.float32), shapes)
    return {**drawn, "latent_mean": jnp.asarray([1.0, -2.0, 0.5]), "latent_std": jnp.asarray([2.0, 0.5, 3.0])}


def test_white_and_straight_alpha_round_trip(images):
    pictures = images.at[:, :4, :, 3].set(0.0).at[:, 4:8, :, 3].set(1.0).at[:, 8, :, 3].set(1 / 255)
    channels = composite_on_white(pictures)
    np.testing.assert_array_equal(channels[:, :4, :, :3], 1.0)
    np.testing.assert_allclose(channels[:, 4:8], pictures[:, 4:8], atol=1e-6)
    again = straight_from_white(channels)
    np.testing.assert_array_equal(again[:, :4], 0.0)
    seen = np.asarray(pictures[..., 3] > 1 / 512)
    assert seen.sum() > 300
    # Dividing by an alpha of 1/255 magnifies the rounding of the sum by as much.
    np.testing.assert_allclose(again[seen], pictures[seen], atol=1e-4)
    np.testing.assert_array_equal(again[..., 3], pictures[..., 3])
    wild = straight_from_white(jnp.asarray([[-0.5, 1.7, 0.5, 1.2], [0.3, 0.3, 0.3, -0.1]]))
    np.testing.assert_allclose(wild, [[0.0, 1.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]], atol=1e-6)


def test_channels_can_be_recomposited_linearly(images):
    """On any background: rgb + (1 - alpha)(background - 1), without dividing by alpha."""
    background = jnp.asarray([0.2, 0.9, 0.4])[None, None, None]
    channels, alpha = composite_on_white(images), images[..., 3:]
    found = channels[..., :3] + (1 - alpha) * (background - 1)
    np.testing.assert_allclose(found, images[..., :3] * alpha + (1 - alpha) * background, atol=1e-6)


def test_latents_are_normalised_per_channel(params, images):
    mean, log_variance = MODULE.apply({"params": params}, images, method="moments")
    assert mean.shape == log_variance.shape == (2, 4, 4, 3)
    latents = MODULE.apply({"params": params}, images, method="encode")
    wanted = (np.asarray(mean) - np.asarray(params["latent_mean"])) / np.asarray(params["latent_std"])
    np.testing.assert_allclose(latents, wanted, atol=1e-5)
    made = MODULE.apply({"params": params}, latents, method="decode")
    assert made.shape == images.shape and made.dtype == jnp.float32
    direct, found_mean, _ = MODULE.apply({"params": params}, images, jnp.zeros_like(mean), method="reconstruct")
    np.testing.assert_allclose(made, direct, atol=1e-4)
    np.testing.assert_array_equal(found_mean, mean)
    noise = jnp.ones_like(mean)
    noisy, _, _ = MODULE.apply({"params": params}, images, noise, method="reconstruct")
    drawn = np.asarray(mean + jnp.exp(log_variance / 2))
    normalised = (drawn - np.asarray(params["latent_mean"])) / np.asarray(params["latent_std"])
    wanted = MODULE.apply({"params": params}, normalised, method="decode")
    np.testing.assert_allclose(noisy, wanted, atol=1e-4)


def test_features_are_those_of_the_whole_pass(params, images):
    features = MODULE.apply({"params": params}, images, method="features")
    _, seen = MODULE.apply({"params": params}, images, method="encode", capture_intermediates=True)
    inner = seen["intermediates"]["encoder"]
    wanted = [inner[f"down_blocks.{level}.resnets.0"]["__call__"][0] for level in (0, 2)]
    assert [f.shape for f in features] == [(2, 16, 16, 8), (2, 4, 4, 16)]
    for found, whole in zip(features, wanted, strict=True):
        np.testing.assert_array_equal(found, whole)


def test_log_variance_is_bounded(params, images):
    _, log_variance = MODULE.apply({"params": params}, 1e6 * images, method="moments")
    assert float(log_variance.min()) >= -20 and float(log_variance.max()) <= 10
