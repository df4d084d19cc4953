"""Perceptual features from the encoder of a bundle's autoencoder, where no LPIPS weights are given."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from im3d_jax.images.resize import block_mean
from im3d_jax.models import RgbaAutoencoder
from im3d_jax.models.calls import apply
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.weights import Bundle, networks


SIDE = 256  # pixels: the bundled autoencoder was trained on 128 and sees no finer


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Network:
    autoencoder: RgbaAutoencoder
    factor: int


def encoder_features(bundle: Bundle) -> Perceptual:
    """Features of [B, H, W, 4] images (colour on white, alpha), reduced to at most `SIDE` pixels by whole blocks."""
    network = _Network(networks(bundle.config)["autoencoder"], bundle.config.image_size // bundle.config.latent_size)
    params = jax.tree.map(jnp.asarray, bundle.params["autoencoder"])
    # A Partial is a pytree: jitted callers take the weights as arguments, not as constants.
    return Perceptual(jax.tree_util.Partial(_features, network, params))


def _features(network: _Network, params: dict, images: jax.Array) -> list[jax.Array]:
    small = block_mean(images, -(-max(images.shape[1:3]) // SIDE))
    height, width = (side - side % network.factor for side in small.shape[1:3])
    return apply(network.autoencoder, params, small[:, :height, :width], method="features")
