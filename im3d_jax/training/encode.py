"""Turntables to what a video network is trained on: latents and embeddings, by the network's own encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax import seeds
from im3d_jax.data.encoded import EncodedWriter
from im3d_jax.data.turntable import Turntable, TurntableSet
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.errors import InputError
from im3d_jax.images.alpha import composite
from im3d_jax.images.resize import resize
from im3d_jax.pipelines import ViewTask
from im3d_jax.pipelines.svd import OrbitModel
from im3d_jax.progress import Progress
from im3d_jax.training.stages.video_objectives import scalar_conditions
from im3d_jax.weights.presets import PRESETS, Preset


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
    """How turntables are encoded for an SVD-like network.

    Attributes:
        frames: Of a video; 0 for the model's own. Turntables must have a multiple of it, of which every n-th frame is
            taken.
        family: Whose scalar conditions are written, where not the model's own (``sv3d_p`` for explicit cameras).
        background: Colour of the background, 1.0 for white.
        seed: Of the noise on conditioning pictures.
    """

    frames: int = 0
    family: str = ""
    background: float = 1.0
    seed: int = 0


def encode_turntables(
    turntables: TurntableSet,
    model: OrbitModel,
    writer_of: Callable[[dict[str, Any]], EncodedWriter],
    settings: EncodeSettings,
    progress: Progress,
    presets: Callable[[str], Preset] = PRESETS.__getitem__,
) -> None:
    """Encodes every turntable of a set that the folder does not hold yet.

    Args:
        turntables: Views with alpha.
        model: Whose encoders are used; its autoencoder and image encoder stay on the device where memory allows.
        writer_of: Makes an `EncodedWriter` of the settings that decide the result.
        settings: How.
        progress: Who is told.
        presets: Gives the preset of a family.

    Raises:
        InputError: Turntables of another number of frames.
    """
    preset = model.preset
    if settings.family:
        preset = dataclasses.replace(presets(settings.family), autoencoder=preset.autoencoder)
    frames = settings.frames or preset.frames
    if turntables.frames % frames:
        raise InputError(f"turntables of {turntables.frames} frames do not hold every n-th of {frames}; render such")
    decides = {
        **dataclasses.asdict(settings),
        "frames": frames,
        "family": preset.name,
        "model": model.identity(elevation_known=True),
        "side": model.image_size,
        "turntables": len(turntables),
    }
    writer = writer_of(decides)
    with progress.stage("encode turntables") as report:
        for number in range(len(turntables)):
            turntable = turntables[number]
            arrays = None if writer.has(number) else _encode(turntable, model, preset, frames, settings, number)
            writer.add(number, turntable.key, turntable.caption, arrays)
            report(number + 1, len(turntables), turntable.caption)
    writer.finish()


def _encode(
    turntable: Turntable, model: OrbitModel, preset: Preset, frames: int, settings: EncodeSettings, number: int
) -> dict[str, np.ndarray]:
    every = len(turntable.rgba) // frames
    side = model.image_size
    views = turntable.rgba[::every].astype(np.float32) / 255.0
    if views.shape[1:3] != (side, side):
        views = np.stack([resize(view, side, side) for view in views])
    shown = np.asarray(composite(views, settings.background), np.float32)
    opaque = np.concatenate([shown, np.ones_like(shown[..., :1])], axis=-1)
    latents = conditions.to_network_order(model.encode(opaque), preset.given_view, axis=0)
    seed = (settings.seed + number) % (seeds.LARGEST + 1)
    told = model.conditions_of(ViewTask(opaque[0], None, seed, float(turntable.elevations[0])))
    elevations = np.asarray(turntable.elevations[::every], np.float32)[None]
    return {
        "latents": np.asarray(latents.astype(jnp.bfloat16)),
        "condition": np.asarray(told["latent"][0].astype(jnp.bfloat16)),
        "context": np.asarray(told["context"][0].astype(jnp.bfloat16)),
        "vector": np.asarray(jax.device_get(scalar_conditions(preset, elevations)))[0].astype(np.float32),
    }
