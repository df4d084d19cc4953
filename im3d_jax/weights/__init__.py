"""Reading and writing weights: safetensors files, model bundles, foreign checkpoints, tokenizers."""

from im3d_jax.errors import WeightsError
from im3d_jax.weights.bundle import (
    BUNDLED,
    Bundle,
    BundleConfig,
    load_bundle,
    networks,
    parameter_shapes,
    save_bundle,
)
from im3d_jax.weights.checkpoints import Checkpoint, load_network, open_checkpoint, save_network
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.presets import PRESETS, Preset
from im3d_jax.weights.starting import video_from_pictures
from im3d_jax.weights.tokenizer import WordTokenizer, build_tokenizer
from im3d_jax.weights.trees import flatten, load_safetensors, save_safetensors, unflatten


__all__ = [
    "BUNDLED",
    "PRESETS",
    "Bundle",
    "BundleConfig",
    "Checkpoint",
    "Preset",
    "WeightsError",
    "WordTokenizer",
    "build_tokenizer",
    "convert_checkpoint",
    "find_model",
    "flatten",
    "load_bundle",
    "load_network",
    "load_safetensors",
    "networks",
    "open_checkpoint",
    "parameter_shapes",
    "save_bundle",
    "save_network",
    "save_safetensors",
    "unflatten",
    "video_from_pictures",
]
