"""The smallest model that has every part of the one that ships, with random weights."""

import dataclasses
import math

import jax
import numpy as np

from im3d_jax.models import lpips
from im3d_jax.weights import WordTokenizer, build_tokenizer, miniature, parameter_shapes, save_bundle


BUNDLE = dataclasses.replace(miniature.BUNDLE, text=dataclasses.replace(miniature.BUNDLE.text, vocabulary=16))
UNET, FRAMES, SIDE = BUNDLE.unet, BUNDLE.unet.frames, BUNDLE.image_size


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
