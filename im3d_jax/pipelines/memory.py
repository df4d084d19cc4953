"""How much device memory a model's stages will take, before any of it is taken."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable

import jax

from im3d_jax.errors import WeightsError
from im3d_jax.reconstruction import FitConfig
from im3d_jax.weights.encoders import encoder_shapes
from im3d_jax.weights.names.networks import autoencoder_shapes, unet_shapes
from im3d_jax.weights.presets import Preset


GIB = 2**30
# Live activations, in units of one map of the widest level (its pixels times its first channels).
# UNet: the skips of all levels, and a transformer's GEGLU (8 maps) with its halves and its normalised input.
UNET_MAPS = 40
# Decoder: twice the first channels at full resolution after an upsampling, each with its convolution's workspace.
DECODER_MAPS = 14
# Encoder: the first channels alone.
ENCODER_MAPS = 8
# The temporal decoder's blocks over frames keep two maps of all frames, whatever is done at once.
TEMPORAL_MAPS = 2
# A fitted pixel: VGG's maps with their gradients, and the compositing's light.
FIT_BYTES_PER_PIXEL = 4000
SHARE_OF_DEVICE = 0.97  # of the allocator's limit: fragments


@dataclasses.dataclass(frozen=True)
class Memory:
    """What is done at once on a device.

    Attributes:
        name: Of the preset.
        gib: Of the device it is meant for.
        frames_at_once: Most frames that the autoencoder holds at full width.
        branches_together: Both branches of guidance in one network call.
        keep: Networks stay on the device between stages; otherwise each is read when a stage needs it and freed after.
    """

    name: str
    gib: float
    frames_at_once: int
    branches_together: bool
    keep: bool


MEMORIES = {
    memory.name: memory
    for memory in (
        Memory("16gb", 16.0, 1, False, False),
        Memory("24gb", 24.0, 3, True, False),
        # Three frames fill a large device as well as seven do.
        Memory("80gb", 80.0, 3, True, True),
    )
}


def frames_at_once(frames: int, most: int) -> int:
    """The largest divisor of the frames that is not above `most`: no frame is computed twice."""
    return max(count for count in range(1, most + 1) if frames % count == 0)


def _bytes(shapes: dict, itemsize: int) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) * itemsize


def parameter_bytes(preset: Preset, itemsize: int) -> dict[str, int]:
    """Bytes on the device of ``unet``, ``vae`` (float32 always) and ``encoder``."""
    encoders = [preset.image_encoder] if preset.image_encoder else list(preset.text_encoders)
    return {
        "unet": _bytes(unet_shapes(preset.unet), itemsize),
        "vae": _bytes(autoencoder_shapes(preset.autoencoder), 4),
        "encoder": sum(_bytes(encoder_shapes(config), itemsize) for config in encoders),
    }


def estimate(
    preset: Preset, memory: Memory, itemsize: int, size: tuple[int, int], fit: FitConfig | None = None, side: int = 512
) -> dict[str, float]:
    """Peak of each stage in GiB: ``encoder``, ``unet``, ``decoder`` and, with a fit, ``fit``.

    Args:
        preset: Of the family.
        memory: What is done at once.
        itemsize: Bytes of an activation and of a parameter of UNet and encoder: 2 for bfloat16.
        size: Height and width in pixels.
        fit: Settings of the fit, if there is one.
        side: Of the fitted views.
    """
    parameters = parameter_bytes(preset, itemsize)
    pixels = size[0] * size[1]
    latent = pixels // preset.autoencoder.factor**2
    branches = 2 if memory.branches_together else 1
    unet = UNET_MAPS * branches * preset.frames * latent * preset.unet.channels[0] * itemsize
    frame = pixels * preset.autoencoder.channels[0] * itemsize
    at_once = frames_at_once(preset.frames, memory.frames_at_once)
    decoder = DECODER_MAPS * at_once * frame
    if preset.autoencoder.temporal_decoder:
        decoder += TEMPORAL_MAPS * preset.frames * frame
    # The encoder of pictures runs in float32, as its authors have it.
    encoder = ENCODER_MAPS * at_once * frame * 4 // itemsize
    work = {"encoder": encoder, "unet": unet, "decoder": decoder}
    if fit is not None:
        work["fit"] = FIT_BYTES_PER_PIXEL * fit.views_per_step * side**2
    held = sum(parameters.values()) if memory.keep else 0
    needed = {
        "encoder": parameters["encoder"] + parameters["vae"],
        "unet": parameters["unet"],
        "decoder": parameters["vae"],
        "fit": 0,
    }
    return {stage: (max(held, needed[stage]) + taken) / GIB for stage, taken in work.items()}


def host_gib() -> float:
    """Memory of this machine, GiB: what a process may have at most, cgroups aside."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


def device_gib() -> float | None:
    """What the first device's allocator may take, or the machine has for a CPU, GiB; None where a device is silent."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return host_gib()
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if not limit else limit / GIB


def choose(
    name: str | None, model: str, peaks_of: Callable[[Memory], dict[str, float]], *, room: float | None
) -> Memory:
    """The memory preset of a name, or the roomiest one that the device has room for.

    Args:
        name: One of `MEMORIES`, or None.
        model: Who needs the memory, for messages.
        peaks_of: Peaks of a preset in GiB, as `estimate` gives them.
        room: GiB of the device, from `device_gib`.

    Raises:
        WeightsError: The device has too little memory: the estimate, and the preset that fits, if one does.
    """
    if name is not None and name not in MEMORIES:
        raise WeightsError(f"memory={name}: expected one of {', '.join(MEMORIES)}")
    if room is None:
        return MEMORIES[name or "80gb"]
    peaks = {memory.name: max(peaks_of(memory).values()) for memory in MEMORIES.values()}
    roomiest_first = sorted(MEMORIES.values(), key=lambda memory: -memory.gib)
    fitting = [memory for memory in roomiest_first if peaks[memory.name] <= SHARE_OF_DEVICE * room]
    if name is None and fitting:
        return fitting[0]
    if name is not None and MEMORIES[name] in fitting:
        return MEMORIES[name]
    asked = name or roomiest_first[-1].name
    if fitting:
        way_out = f"use --memory={fitting[0].name} (about {peaks[fitting[0].name]:.1f} GiB)"
    elif jax.default_backend() == "cpu":
        way_out = "use a machine with more memory"
    else:
        way_out = "set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 or use a larger device"
    raise WeightsError(
        f"{model} with --memory={asked} needs about {peaks[asked]:.1f} GiB of device memory, but there are "
        f"{room:.1f} GiB: {way_out}"
    )
