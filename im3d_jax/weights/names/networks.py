"""The tables of UNets and autoencoders in the two layouts: diffusers' folders and Stability AI's (sgm) single files.

Our names are diffusers', so that table is nearly the identity. sgm numbers its blocks through; which number is which
follows from the sizes. Renames are applied in order to a module's dotted name; sources: generative-models'
`openaimodel.py`, `video_model.py`, `model.py` and `temporal_ae.py`, read for their attribute names.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp

from im3d_jax.models.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from im3d_jax.models.stable_unet import StableUNet, StableUNetConfig
from im3d_jax.weights.names.table import Table, make_table
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.trees import flatten


CheckpointLayout = Literal["diffusers", "sgm"]

_RES_BLOCK = [
    (r"\.norm1$", ".in_layers.0"),
    (r"\.conv1$", ".in_layers.2"),
    (r"\.time_emb_proj$", ".emb_layers.1"),
    (r"\.norm2$", ".out_layers.0"),
    (r"\.conv2$", ".out_layers.3"),
    (r"\.conv_shortcut$", ".skip_connection"),
]
_UNET_ENDS = [
    (r"^conv_in$", "input_blocks.0.0"),
    (r"^time_embedding\.linear_1$", "time_embed.0"),
    (r"^time_embedding\.linear_2$", "time_embed.2"),
    (r"^add_embedding\.linear_1$", "label_emb.0.0"),
    (r"^add_embedding\.linear_2$", "label_emb.0.2"),
    (r"^conv_norm_out$", "out.0"),
    (r"^conv_out$", "out.2"),
    (r"\.time_pos_embed\.linear_1$", ".time_pos_embed.0"),
    (r"\.time_pos_embed\.linear_2$", ".time_pos_embed.2"),
    (r"\.spatial_res_block\b", ""),
    (r"\.(temporal_res_block|temporal_transformer_blocks)\b", ".time_stack"),
]
# diffusers files from before its attention layers were unified.
_OLD_ATTENTION = [
    (r"\.to_q$", ".query"),
    (r"\.to_k$", ".key"),
    (r"\.to_v$", ".value"),
    (r"\.to_out\.0$", ".proj_attn"),
]
_SGM_AUTOENCODER = [
    *((r"(\.temporal_res_block)" + pattern, r"\1" + replacement) for pattern, replacement in _RES_BLOCK),
    (r"\.temporal_res_block\b", ".time_stack"),
    (r"\.(spatial_res_block|time_mixer)\b", ""),
    (r"\.conv_shortcut$", ".nin_shortcut"),
    (r"\.mid_block\.resnets\.0\b", ".mid.block_1"),
    (r"\.mid_block\.resnets\.1\b", ".mid.block_2"),
    (r"\.mid_block\.attentions\.0\b", ".mid.attn_1"),
    (r"\.group_norm$", ".norm"),
    (r"\.to_(q|k|v)$", r".\1"),
    (r"\.to_out\.0$", ".proj_out"),
    (r"\.conv_norm_out$", ".norm_out"),
    (r"\.time_conv_out$", ".conv_out.time_mix_conv"),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1.\2.block."),
    (r"\.(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.conv$", r".\1.\2.\3sample.conv"),
]


# Tracing a network of true size takes seconds; every look at a checkpoint asks again.
@functools.lru_cache(maxsize=16)
def unet_shapes(config: StableUNetConfig) -> dict:
    """Nested `jax.ShapeDtypeStruct`s of a UNet's parameters, without computing anything."""
    side = 2 ** (len(config.channels) - 1)
    arguments = (
        jnp.zeros((1, 2, side, side, config.in_channels)),
        jnp.zeros((1,)),
        tuple(jnp.zeros((1, 2, dim)) for dim in config.context_dims),
        jnp.zeros((1, len(config.vector_dims))) if config.vector_dims else None,
    )
    condition = jnp.zeros((1, side, side, config.condition_channels))
    network = StableUNet(config)
    return jax.eval_shape(lambda: network.init(jax.random.key(0), *arguments, condition=condition))["params"]


@functools.lru_cache(maxsize=16)
def autoencoder_shapes(config: KLAutoencoderConfig) -> dict:
    """Nested `jax.ShapeDtypeStruct`s of an autoencoder's parameters."""
    image = jnp.zeros((1, 2, config.factor, config.factor, config.image_channels))
    return jax.eval_shape(lambda: KLAutoencoder(config).init(jax.random.key(0), image))["params"]


def count(shapes: dict) -> tuple[int, int]:
    """(tensors, parameters) of a network."""
    leaves = flatten(shapes).values()
    return len(leaves), sum(math.prod(leaf.shape) for leaf in leaves)


def unet_table(preset: Preset, shapes: dict, layout: CheckpointLayout) -> Table:
    """The UNet's table.

    Args:
        preset: The family.
        shapes: `unet_shapes(preset.unet)`.
        layout: Of the file.

    Raises:
        ValueError: The family has no such layout.
    """
    config = preset.unet
    shapes = {name: leaf.shape for name, leaf in flatten(shapes).items()}
    pointwise = r"\.proj_(in|out)$" if preset.pointwise_projections else None
    if layout == "diffusers":
        return make_table(shapes, pointwise=pointwise)
    if config.temporal == "residual":
        raise ValueError(f"{preset.name} has no sgm layout: no such weights were ever published")
    inner = [(r"(\.resnets\.\d+(?:\.\w+_res_block)?)" + old, r"\1" + new) for old, new in _RES_BLOCK]
    renames = [*inner, *_UNET_ENDS, *_numbered_blocks(config)]
    return make_table(shapes, renames, pointwise, prefix="model.diffusion_model.")


def _numbered_blocks(config: StableUNetConfig) -> list[tuple[str, str]]:
    """Renames of down, middle and up blocks: sgm counts every block and every resampling on the way."""
    pairs, number, levels = [], 0, len(config.channels)
    for level in range(levels):
        name = f"down_blocks.{level}."
        for i in range(config.layers_per_block[level]):
            number += 1
            pairs += [(f"{name}resnets.{i}", f"input_blocks.{number}.0")]
            pairs += [(f"{name}attentions.{i}", f"input_blocks.{number}.1")]
        if level < levels - 1:
            number += 1
            pairs += [(f"{name}downsamplers.0.conv", f"input_blocks.{number}.0.op")]
    middle = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    pairs += [(name, f"middle_block.{i}") for i, name in enumerate(middle)]
    number = 0
    for k, level in enumerate(reversed(range(levels))):
        name = f"up_blocks.{k}."
        for i in range(config.layers_per_block[level] + 1):
            pairs += [(f"{name}resnets.{i}", f"output_blocks.{number}.0")]
            pairs += [(f"{name}attentions.{i}", f"output_blocks.{number}.1")]
            number += 1
        place = 2 if config.attention[level] else 1
        pairs += [(f"{name}upsamplers.0.conv", f"output_blocks.{number - 1}.{place}.conv")]
    return [(rf"^{re.escape(ours)}(?=\.|$)", theirs) for ours, theirs in pairs]


def autoencoder_table(preset: Preset, shapes: dict, layout: CheckpointLayout, found: Collection[str] = ()) -> Table:
    """The autoencoder's table.

    Args:
        preset: The family; in sgm files of video families the encoder is the conditioner's, the decoder the first
            stage's.
        shapes: `autoencoder_shapes(preset.autoencoder)`.
        layout: Of the file.
        found: Names there are: older diffusers files name the attention's layers otherwise.
    """
    shapes = {name: leaf.shape for name, leaf in flatten(shapes).items()}
    if layout == "diffusers":
        old = any(name.endswith(".proj_attn.weight") for name in found)
        return make_table(shapes, _OLD_ATTENTION if old else ())
    levels = len(preset.autoencoder.channels)
    # The mark keeps a block that is renumbered from being found by the next rename.
    reverse = [(rf"\.up_blocks\.{k}\.", f".up_blocks#{levels - 1 - k}.") for k in range(levels)]
    renames = [*reverse, (r"#", "."), *_SGM_AUTOENCODER]
    if preset.image_encoder is None:
        return make_table(shapes, renames, r"\.attentions\.0\.to_", prefix="first_stage_model.")
    encoder = f"conditioner.embedders.{conditioner_number(preset)}.encoder."
    renames += [(r"^(encoder|quant_conv)\b", encoder + r"\1"), (r"^decoder\b", "first_stage_model.decoder")]
    return make_table(shapes, renames, r"\.attentions\.0\.to_")


def conditioner_number(preset: Preset) -> int:
    """Place of the conditioning autoencoder among sgm's embedders: behind the image and, in SVD, two scalars."""
    return 3 if preset.vector[:1] == ("fps",) else 1
