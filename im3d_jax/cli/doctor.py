"""Says what this machine has: devices, memory, versions, weights found and missing, and where to put them.

With --vocabulary it lists the words that the model knows instead, one a line, and after a colon other words that mean
the same to it; plurals count as their singular. With weights that cannot be used the exit code is 2.
"""

import importlib.metadata
import math
import os
import pathlib
import platform

from absl import flags

import im3d_jax
from im3d_jax.cli import common
from im3d_jax.foreign.layouts import is_foreign


PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "tensorflow-datasets", "grain",
    "lpips-j", "numpy", "safetensors", "tokenizers", "pillow", "imageio", "av", "rich", "absl-py",
)  # fmt: skip


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_bool("vocabulary", False, "list the words that the model knows", flag_values=values)
    common.register_model_flag(values)


def run(values: flags.FlagValues) -> None:
    """Prints to stdout. Raises `UserError`, after all else is printed, where the model is missing or damaged."""
    if not values.model:
        raise common.UserError("--model is empty; expected `tiny`, a folder, a file or a hub id of weights")
    if values.vocabulary:
        common.start_jax()
        words = common.load_model(values.model).vocabulary()
        if not words:
            raise common.UserError(f"--model={values.model} reads no prompts: it has no list of words")
        print("\n".join(": ".join([word, ", ".join(others)]) if others else word for word, others in words.items()))
        return
    print(f"im3d {im3d_jax.__version__}, Python {platform.python_version()}, {platform.platform()}")
    _print_versions()
    common.start_jax()
    _print_devices()
    print(f"compiled programs: {common.compilation_cache()}")
    unusable = _print_weights(values.model)
    if unusable:
        raise common.UserError(unusable)


def _print_versions() -> None:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "MISSING"
    print("packages: " + ", ".join(f"{name} {version}" for name, version in found.items()))


def _print_devices() -> None:
    import jax

    from im3d_jax.foreign.memory import host_gib

    print(f"memory: {host_gib():.1f} GiB, {os.cpu_count()} CPU cores")
    for device in jax.devices():
        # The CPU's device has no statistics of its own.
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        print(f"device {device.id}: {device.platform} {device.device_kind}{memory}")


def _print_weights(model: str) -> str | None:
    """Returns why they cannot be used, or None."""
    from im3d_jax.weights import BUNDLED

    if model != "tiny" and is_foreign(model):
        return _print_foreign(model)
    folder = BUNDLED if model == "tiny" else pathlib.Path(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder.is_dir() else []
    print(f"weights of {model}: {'' if files else 'MISSING, expected '}in {folder}")
    for file in files:
        print(f"  {file.name}: {file.stat().st_size / 2**20:.1f} MiB")
    if not files and model == "tiny":
        print("  they ship with the program: install it again from a complete checkout (pip install -e .)")
    unusable = None
    try:
        common.load_model(model)
        print("  complete: they load")
    except common.UserError as error:
        unusable = str(error)
        print(f"  NOT usable: {unusable}")
    print("other weights: put a model's files into one folder anywhere and give it as --model=FOLDER")
    return unusable


def _print_foreign(model: str) -> str | None:
    """Family, networks and memory of foreign weights, from their headers: nothing is loaded. Returns what is wrong."""
    import jax.numpy as jnp

    from im3d_jax.foreign.elevation import find_head
    from im3d_jax.foreign.memory import device_gib, estimate
    from im3d_jax.foreign.networks import working_dtype
    from im3d_jax.foreign.recipes import MEMORIES, RECIPES, fit_config
    from im3d_jax.foreign.sources import open_source
    from im3d_jax.weights import WeightsError

    try:
        source = open_source(model)
        head = find_head(source)
    except WeightsError as error:
        print(f"weights of {model}: NOT usable: {error}")
        return str(error)
    preset = source.preset
    use = "draws orbits (--model)" if preset.name in RECIPES else "draws pictures from prompts (--image_model)"
    print(f"weights of {model}: {source.name}, {use}")
    if source.remark:
        print(f"  {source.remark}")
    for network, tensors in source.checkpoint.networks.items():
        values = sum(math.prod(tensor.shape) for tensor in tensors.values())
        print(f"  {network}: {len(tensors)} tensors, {values / 1e6:.1f} million values")
    print(f"  group norms follow {preset.norm_eps}'s eps; {preset.frames} frames of {preset.height}x{preset.width}")
    if preset.name not in RECIPES:
        return None
    known = "none" if head is None else f"off by {math.degrees(head.error):.1f} degrees on held-out renders"
    print(f"  elevation head: {known}")
    room = device_gib()
    print(f"  device memory: {'unknown' if room is None else f'{room:.1f} GiB'}; estimated peaks:")
    itemsize, side = jnp.dtype(working_dtype()).itemsize, preset.height
    fit_side = min(side, RECIPES[preset.name].fit_side)
    for name, memory in MEMORIES.items():
        peaks = estimate(preset, memory, itemsize, (side, side), fit_config("standard"), fit_side)
        print(f"    --memory={name}: " + ", ".join(f"{stage} {gib:.1f} GiB" for stage, gib in peaks.items()))
    return None
