"""A fine-tuned network as a model folder: the trained UNet, and all else of the weights that it started from."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil

import jax.numpy as jnp

from im3d_jax.atomic import replacing_folder
from im3d_jax.weights.checkpoints import Checkpoint, save_network
from im3d_jax.weights.conversion import FILES, convert_checkpoint, diffusers_configs, record_of
from im3d_jax.weights.names.networks import unet_shapes, unet_table
from im3d_jax.weights.presets import Preset


def export_checkpoint(checkpoint: Checkpoint, preset: Preset, unet: dict, folder: str | os.PathLike) -> None:
    """Writes a diffusers folder, under its name only when it is whole; an older one is replaced.

    Args:
        checkpoint: What training started from; its autoencoder and encoders are taken over.
        preset: Of the trained network.
        unet: Its nested parameters; float16 in the file.
        folder: To write.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as partial:
        _fill(checkpoint, preset, unet, partial)


def _fill(checkpoint: Checkpoint, preset: Preset, unet: dict, partial: pathlib.Path) -> None:
    """Writes the folder `partial`, which is not there."""
    rest = dataclasses.replace(
        checkpoint, networks={name: found for name, found in checkpoint.networks.items() if name != "unet"}
    )
    if checkpoint.layout == "sgm":
        convert_checkpoint(rest, "diffusers", partial)
    else:
        shutil.copytree(checkpoint.path, partial, ignore=_unet_alone(checkpoint.path))
    (partial / "unet").mkdir(exist_ok=True)
    table = unet_table(preset, unet_shapes(preset.unet), "diffusers")
    save_network(partial / "unet" / FILES["unet"], unet, table, dtype=jnp.float16)
    config = diffusers_configs(preset)["unet"]
    (partial / "unet" / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (partial / "im3d.json").write_text(json.dumps(record_of(preset), indent=1) + "\n")


def _unet_alone(root: pathlib.Path):
    """Leaves the UNet's files out of a copy."""

    def ignore(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if pathlib.Path(directory) == root / "unet"]

    return ignore
