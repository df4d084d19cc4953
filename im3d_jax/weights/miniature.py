"""Families of weights in miniature, with random values: the whole path of a model in seconds, for tests and trials."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from im3d_jax.models import RgbaAutoencoderConfig, TextConfig, TinyUNetConfig
from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.models.elevation import ElevationConfig
from im3d_jax.weights.bundle import BundleConfig
from im3d_jax.weights.encoders import encoder_table
from im3d_jax.weights.names.networks import autoencoder_shapes, autoencoder_table, unet_shapes, unet_table
from im3d_jax.weights.presets import PRESETS, Preset
from im3d_jax.weights.tensor_files import write_tensors


SIDE, VIEWS = 32, 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
VISION = CLIPVisionConfig(width=16, layers=1, heads=2, hidden=32, projection=6, image_size=8, patch=4)
TEXT = CLIPTextConfig(
    vocabulary=len(TOKENS), length=12, width=6, layers=1, heads=2, hidden=12, end_token=len(TOKENS) - 1
)

# The bundled model's networks, each with every kind of layer that it has.
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
    text=TextConfig(length=6, width=16, layers=1, head_dim=8),
    unet=TinyUNetConfig(
        latent_channels=4,
        condition_channels=5,
        channels=(8, 16),
        layers_per_block=0,
        attention=(False, True),
        temporal_attention=(False, True),
        first_frame_attention=(False, False),
        joint_attention=(False, False),
        frames=4,
        context_dim=16,
        time_dim=16,
        head_dim=8,
        groups=4,
    ),
    elevation=ElevationConfig(patches=(2, 2, 2), width=8, hidden=8),
)


def miniature(family: str) -> Preset:
    """A family's preset with small networks, 5 frames of 32 x 32 pixels, and all conditions of the family.

    Raises:
        KeyError: An unknown family.
    """
    preset = PRESETS[family]
    dims = (4, 8, 8) if "polar" in preset.vector else (4,) * len(preset.vector)
    contexts = preset.unet.context_dims
    unet = dataclasses.replace(
        preset.unet,
        channels=(8, 16),
        groups=4,
        layers_per_block=(1, 1),
        attention=(True, False),
        heads=(1, 2),
        transformer_depth=1,
        context_dims=(6,) * len(contexts),
        down_eps=(1e-5,) * 2,
        up_eps=(1e-5,) * 2,
        vector_dims=dims,
    )
    return dataclasses.replace(
        preset,
        unet=unet,
        autoencoder=dataclasses.replace(preset.autoencoder, channels=(8, 16), groups=4, layers_per_block=1),
        image_encoder=VISION if preset.image_encoder else None,
        text_encoders=(TEXT,) * len(preset.text_encoders),
        frames=VIEWS if preset.frames > 1 else 1,
        height=SIDE,
        width=SIDE,
        steps=4,
    )


def write_miniature(path: str | os.PathLike, preset: Preset, seed: int = 0) -> pathlib.Path:
    """Writes a single file as Stability AI's, with random values that keep activations near 1.

    Args:
        path: The file.
        preset: From `miniature`, of a family with a picture encoder or a CLIP text encoder.
        seed: Of the values.

    Returns:
        The path.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for table in (
        unet_table(preset, unet_shapes(preset.unet), "sgm"),
        autoencoder_table(preset, autoencoder_shapes(preset.autoencoder), "sgm"),
    ):
        shapes |= {entry.name: entry.shape for entry in table.values()}
    config = preset.image_encoder or preset.text_encoders[0]
    prefix = "conditioner.embedders.0.open_clip.model." if preset.image_encoder else "cond_stage_model.transformer."
    layout = "open_clip" if preset.image_encoder else "transformers"
    table = encoder_table(config, layout, prefix if preset.image_encoder else prefix + "text_model.")
    shapes |= {entry.name: entry.shape for entry in table.entries.values()}

    def values(shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        return (rng.normal(size=shape) / np.sqrt(size) + (len(shape) == 1)).astype(np.float16)

    path = pathlib.Path(path)
    write_tensors(path, [(name, "F16", shape, lambda shape=shape: values(shape)) for name, shape in shapes.items()])
    return path
