"""The smallest model that has every part of the one that ships, with random weights."""

import math

import jax
import numpy as np

from im3d_jax.models import RgbaAutoencoderConfig, TextConfig, TinyUNetConfig, lpips
from im3d_jax.models.elevation import ElevationConfig
from im3d_jax.weights import BundleConfig, WordTokenizer, build_tokenizer, parameter_shapes, save_bundle


FRAMES, SIDE = 4, 32
UNET = TinyUNetConfig(
    latent_channels=4,
    condition_channels=5,
    channels=(8, 16),
    layers_per_block=0,
    attention=(False, True),
    temporal_attention=(False, True),
    first_frame_attention=(False, False),
    joint_attention=(False, False),
    frames=FRAMES,
    context_dim=16,
    time_dim=16,
    head_dim=8,
    groups=4,
)
BUNDLE = BundleConfig(
    image_size=SIDE,
    target_fraction=0.55,
    autoencoder=RgbaAutoencoderConfig(
        latent_channels=4,
        encoder_channels=(8, 8, 8),
        decoder_channels=(8, 8, 8),
        encoder_blocks=(0, 0, 1),
        decoder_blocks=(0, 0, 1),
    ),
    text=TextConfig(vocabulary=16, length=6, width=16, layers=1, head_dim=8),
    unet=UNET,
    elevation=ElevationConfig(patches=(2, 2, 2), width=8, hidden=8),
)


def draw_parameters(shapes, seed=0):
    """Parameters that keep activations near 1 and are nowhere at their initial values."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = leaf.size // leaf.shape[-1] if leaf.ndim else 1
        return rng.normal(size=leaf.shape).astype(np.float32) / math.sqrt(fan_in + 2) + (leaf.ndim == 1)

    return jax.tree.map(draw, shapes)


def write_bundle(folder):
    """Writes the model; it knows the words a, red and mug. Returns the folder as text."""
    tokenizer = WordTokenizer(build_tokenizer(["a", "red", "mug"]), BUNDLE.text.length)
    save_bundle(folder, BUNDLE, tokenizer, draw_parameters(parameter_shapes(BUNDLE)))
    return str(folder)


def narrow_lpips():
    """Parameters of LPIPS with four channels everywhere."""
    rng, params, width = np.random.default_rng(0), {}, 3
    for level, (convolutions, _) in enumerate(lpips.LEVELS):
        for number in convolutions:
            params[f"features.{number}.weight"] = rng.normal(size=(3, 3, width, 4)).astype(np.float32) / 5
            params[f"features.{number}.bias"], width = np.zeros(4, np.float32), 4
        params[f"lin{level}.weight"] = np.ones(4, np.float32)
    return params
