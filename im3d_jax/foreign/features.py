"""Perceptual features for views of foreign models, where no LPIPS weights are given."""

import dataclasses

import jax
import jax.numpy as jnp

from im3d_jax.models import RgbaAutoencoder
from im3d_jax.reconstruction.losses import block_means
from im3d_jax.weights import load_bundle, networks


SIDE = 256  # pixels: the bundled autoencoder was trained on 128 and sees no finer
NAME = "encoder features of the bundled autoencoder"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Network:
    autoencoder: RgbaAutoencoder
    factor: int


def bundled_features() -> jax.tree_util.Partial:
    """Features of [B, H, W, 4] images (colour on white, alpha), reduced to at most `SIDE` pixels by whole blocks."""
    bundle = load_bundle("tiny")
    network = _Network(networks(bundle.config)["autoencoder"], bundle.config.image_size // bundle.config.latent_size)
    return jax.tree_util.Partial(_features, network, jax.tree.map(jnp.asarray, bundle.params["autoencoder"]))


def _features(network: _Network, params: dict, images: jax.Array) -> list[jax.Array]:
    small = block_means(images, -(-max(images.shape[1:3]) // SIDE))
    height, width = (side - side % network.factor for side in small.shape[1:3])
    return network.autoencoder.apply({"params": params}, small[:, :height, :width], method="features")
