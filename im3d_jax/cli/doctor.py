"""Reports devices, memory, package versions, and whether the weights of --model are complete and load.

--vocabulary prints the words that the model was trained on instead, one per line, followed by a colon and their
synonyms; plurals count as their singular. The exit code is 2 if the weights cannot be used.
"""

import importlib.metadata
import os
import platform

from absl import flags

from im3d_jax import environment
from im3d_jax.errors import InputError
from im3d_jax.generation import flags as shared
from im3d_jax.version import __version__


PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "tensorflow-datasets", "grain",
    "lpips-j", "numpy", "scipy", "safetensors", "tokenizers", "pillow", "imageio", "av", "rich", "absl-py",
)  # fmt: skip


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_bool(
        "vocabulary", False, "list the words that the model was trained on and their synonyms", flag_values=values
    )
    shared.define_model(values)


def run(values: flags.FlagValues) -> None:
    """Prints to stdout. Raises `InputError`, after all else is printed, where the model is missing or damaged."""
    if values.vocabulary:
        _print_vocabulary(values.model)
        return
    print(f"im3d {__version__}, Python {platform.python_version()}, {platform.platform()}")
    _print_versions()
    environment.start_jax()
    _print_devices()
    cache = environment.compilation_cache()
    print(f"compiled programs: {cache or 'not kept; set IM3D_COMPILATION_CACHE_DIR to a folder that can be written'}")
    from im3d_jax.pipelines import open_model

    try:
        views, pictures = open_model(values.model)
    except InputError as error:
        print(f"weights of {values.model}: NOT usable: {error}")
        print("put the files of a model into one folder and pass it as --model=FOLDER")
        raise
    reader = views or pictures
    assert reader is not None  # a model draws one of the two
    print("\n".join(reader.describe()))
    print("other weights: put the files of a model into one folder and pass it as --model=FOLDER")


def _print_vocabulary(model: str) -> None:
    environment.start_jax()
    from im3d_jax.pipelines import open_model

    views, pictures = open_model(model)
    reader = pictures or views
    assert reader is not None  # a model draws one of the two
    words = reader.vocabulary()
    if not words:
        raise InputError(f"--model={model} has no list of words: it reads any prompt, or none")
    print("\n".join(": ".join([word, ", ".join(others)]) if others else word for word, others in words.items()))


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

    from im3d_jax.pipelines.memory import host_gib

    print(f"memory: {host_gib():.1f} GiB, {os.cpu_count()} CPU cores")
    for device in jax.devices():
        # The CPU's device has no statistics of its own.
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        print(f"device {device.id}: {device.platform} {device.device_kind}{memory}")
