"""The networks of a foreign model as its stages use them: on the device while they are needed, frames in chunks."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from im3d_jax.models.calls import apply
from im3d_jax.models.kl_autoencoder import KLAutoencoder
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.pipelines.memory import Memory, frames_at_once
from im3d_jax.pipelines.sources import Source
from im3d_jax.typing import Device
from im3d_jax.weights.presets import Preset


def working_dtype() -> DTypeLike:
    """bfloat16 on accelerators, float32 on CPUs, which compute the former slowly."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def has_flash_attention(device: Device) -> bool:
    """Whether cuDNN's flash attention runs there: on NVIDIA's Ampere and later."""
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(device, "compute_capability", "")))
    return device.platform in ("gpu", "cuda") and capability is not None and int(capability[1]) >= 8


def unet_of(preset: Preset, dtype: DTypeLike, device: Device | None = None) -> StableUNet:
    """The network of a preset, with flash attention on TPUs and, in half precision, where there is cuDNN.

    Args:
        preset: Of the family.
        dtype: Of the activations.
        device: That the network will run on; the first one by default.
    """
    place: Device = device or jax.devices()[0]
    chosen = "tpu" if place.platform == "tpu" else "xla"
    if dtype == jnp.bfloat16 and has_flash_attention(place):
        chosen = "cudnn"
    return StableUNet(dataclasses.replace(preset.unet, attention_implementation=chosen), dtype)


class Parameters:
    """The parts of a source that are on the device: each comes when first asked for, and goes with `release`.

    Args:
        source: Where they come from.
        dtype: Of UNet and encoder; the autoencoder's stay in float32.
        keep: `release` does nothing.
    """

    def __init__(self, source: Source, dtype: DTypeLike, keep: bool):
        self._source, self._dtype, self._keep = source, dtype, keep
        self._held: dict[str, dict] = {}

    def __call__(self, part: str) -> dict:
        if part not in self._held:
            self._held[part] = self._source.load(part, jnp.float32 if part == "vae" else self._dtype)
        return self._held[part]

    def release(self, *parts: str) -> None:
        """Frees parts whose work is done, unless all are kept; the runtime waits for results that still need them."""
        if self._keep:
            return
        for part in parts:
            self._held.pop(part, None)


class ChunkedAutoencoder:
    """A preset's autoencoder on a few pictures or frames at a time.

    Encoding is in float32 as in the authors' code, decoding in the working dtype.

    Args:
        preset: Of the family.
        parameters: Holds its parameters.
        memory: How many frames at once.
        dtype: Of decoding.
    """

    def __init__(self, preset: Preset, parameters: Parameters, memory: Memory, dtype: DTypeLike):
        self._encoder, self._decoder = (KLAutoencoder(preset.autoencoder, kind) for kind in (jnp.float32, dtype))
        self._parameters, self._at_once = parameters, frames_at_once(preset.frames, memory.frames_at_once)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] in about [0, 1] to unscaled posterior means [B, h, w, z]."""
        params = self._parameters("vae")
        chunk = min(self._at_once, len(images))
        parts = [_encode(self._encoder, params, images[i : i + chunk]) for i in range(0, len(images), chunk)]
        del params
        self._parameters.release("vae")
        return jnp.concatenate(parts)

    def decode_batch(self, params: dict, latents: jax.Array) -> jax.Array:
        """Unscaled latents [B, T, h, w, z] of videos, in the network's order, to images [B, T, H, W, 3] in [0, 1].

        The parameters are the caller's, and nothing is waited for.
        """
        return _decode(self._decoder, params, latents, self._at_once)


# Networks are static: pipelines of one family share compiled programs.
@functools.partial(jax.jit, static_argnums=0)
def _encode(network: KLAutoencoder, params: dict, images: jax.Array) -> jax.Array:
    return apply(network, params, images, method="encode")


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(network: KLAutoencoder, params: dict, latents: jax.Array, frames_at_once: int) -> jax.Array:
    return jnp.clip(apply(network, params, latents, frames_at_once, method="decode"), 0.0, 1.0)
