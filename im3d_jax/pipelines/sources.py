"""Where a foreign model's parameters come from."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Protocol

import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.errors import WeightsError
from im3d_jax.weights.checkpoints import Checkpoint, encoder_folder, load_network, network_table, open_checkpoint
from im3d_jax.weights.encoders import EncoderConfig, encoder_fingerprint, load_encoder, match_encoder
from im3d_jax.weights.identify import checkpoint_hash, head_file
from im3d_jax.weights.presets import Preset
from im3d_jax.weights.tensor_files import arranged


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

    def load(self, part: str, dtype: DTypeLike) -> dict:
        """Parameters of ``unet``, ``vae`` or ``encoder`` on the device."""
        ...

    def sha256(self) -> str:
        """Of the content of the files; of large files, of samples."""
        ...

    def sizes(self) -> dict[str, tuple[int, int]]:
        """{network: (tensors, values)}."""
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

    @functools.cached_property
    def _hash(self) -> str:
        return checkpoint_hash(self.checkpoint.path)

    def sha256(self) -> str:
        """See `Source`."""
        return self._hash

    def sizes(self) -> dict[str, tuple[int, int]]:
        """See `Source`."""
        networks = self.checkpoint.networks.items()
        return {name: (len(found), sum(math.prod(t.shape) for t in found.values())) for name, found in networks}

    @property
    def head_file(self) -> pathlib.Path:
        """Path of the elevation head; it may not exist."""
        return head_file(self.checkpoint.path)

    def load(self, part: str, dtype: DTypeLike) -> dict:
        """See `Source`.

        Raises:
            WeightsError: A file was damaged since.
        """
        if part != "encoder":
            return load_network(self.checkpoint, part, dtype=dtype)
        path, within = self.checkpoint.encoder
        place = lambda name, array: jnp.asarray(arranged(array, dtype))  # noqa: E731
        return load_encoder(path, self._encoder, within=within, place=place)


def open_source(path: str | pathlib.Path) -> CheckpointSource:
    """The checkpoint of a path.

    Raises:
        WeightsError: One line for the user.
    """
    return CheckpointSource(open_checkpoint(path))


def describe_source(source: Source, use: str) -> list[str]:
    """Lines on a family and its networks, from headers alone.

    Args:
        source: Of the weights.
        use: What the model is good for.
    """
    preset = source.preset
    lines = [f"weights: {source.name}, {use}"]
    if source.remark:
        lines.append(f"  {source.remark}")
    lines += [
        f"  {name}: {tensors} tensors, {values / 1e6:.1f} million values"
        for name, (tensors, values) in source.sizes().items()
    ]
    size = f"{preset.frames} frames of {preset.height}x{preset.width}"
    return [*lines, f"  group norms follow {preset.norm_eps}'s eps; {size}"]
