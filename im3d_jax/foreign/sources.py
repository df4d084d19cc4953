"""Where a foreign model's parameters come from."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp

from im3d_jax.weights.checkpoints import Checkpoint, encoder_folder, load_network, network_table, open_checkpoint
from im3d_jax.weights.encoders import EncoderConfig, encoder_fingerprint, load_encoder, match_encoder
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.tensor_files import arranged
from im3d_jax.weights.trees import WeightsError


class Source(Protocol):
    """A family's parameters, part by part.

    Attributes:
        name: For the user.
        preset: Of the family.
        remark: A line for the user on how the files were read; may be empty.
    """

    name: str
    remark: str
    preset: Preset

    def load(self, part: str, dtype) -> dict:
        """Parameters of ``unet``, ``vae`` or ``encoder`` on the device."""
        ...


class CheckpointSource:
    """The networks of a checkpoint; making it reads headers only and checks that every network is whole.

    Raises:
        WeightsError: One line: see `weights.checkpoints.open_checkpoint`, or a network is missing or has other tensors.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint, self.preset = checkpoint, checkpoint.preset
        self.name = f"{checkpoint.preset.name} ({checkpoint.layout})"
        self.remark = checkpoint.remark
        for network in ("unet", "vae"):
            network_table(checkpoint, network)
        encoder = encoder_folder(self.preset)
        stored = checkpoint.networks.get(encoder)
        if not stored:
            raise WeightsError(f"{checkpoint.path} has no {encoder}: give the model's whole folder or file")
        match_encoder(stored, self._encoder, str(checkpoint.path))

    @property
    def _encoder(self) -> EncoderConfig:
        return self.preset.image_encoder or self.preset.text_encoders[0]

    def encoder_fingerprint(self) -> str:
        """Which image or text encoder this is; see `weights.encoders.encoder_fingerprint`."""
        stored = self.checkpoint.networks[encoder_folder(self.preset)]
        return encoder_fingerprint(stored, self._encoder, str(self.checkpoint.path))

    def load(self, part: str, dtype) -> dict:
        """See `Source`.

        Raises:
            WeightsError: A file was damaged since.
        """
        if part != "encoder":
            return load_network(self.checkpoint, part, dtype=dtype)
        path, within = self.checkpoint.encoder
        place = lambda name, array: jnp.asarray(arranged(array, dtype))  # noqa: E731
        return load_encoder(path, self._encoder, within=within, place=place)


def open_source(model: str) -> CheckpointSource:
    """The checkpoint of a path or hub id.

    Raises:
        WeightsError: One line for the user.
    """
    return CheckpointSource(open_checkpoint(find_model(model)))
