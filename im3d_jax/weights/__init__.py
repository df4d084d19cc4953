"""Reading and writing weights: safetensors files, model bundles, tokenizers."""

from im3d_jax.weights.bundle import (
    BUNDLED,
    Bundle,
    BundleConfig,
    load_bundle,
    networks,
    parameter_shapes,
    save_bundle,
)
from im3d_jax.weights.tokenizer import WordTokenizer, build_tokenizer
from im3d_jax.weights.trees import WeightsError, flatten, load_safetensors, save_safetensors, unflatten


__all__ = [
    "BUNDLED",
    "Bundle",
    "BundleConfig",
    "WeightsError",
    "WordTokenizer",
    "build_tokenizer",
    "flatten",
    "load_bundle",
    "load_safetensors",
    "networks",
    "parameter_shapes",
    "save_bundle",
    "save_safetensors",
    "unflatten",
]
