"""Says what this machine has: devices, memory, versions, weights found and missing, and where to put them.

With --vocabulary it lists the words that the model knows instead, one a line.
"""

import importlib.metadata
import os
import pathlib
import platform

from absl import flags

import im3d_jax
from im3d_jax.cli import common


PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "tensorflow-datasets", "grain",
    "lpips-j", "numpy", "safetensors", "tokenizers", "pillow", "imageio", "av", "rich", "absl-py",
)  # fmt: skip


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_bool("vocabulary", False, "list the words that the model knows", flag_values=values)
    common.register_model_flag(values)


def run(values: flags.FlagValues) -> None:
    """Prints to stdout. Raises `UserError` where the model is missing and --vocabulary needs it."""
    if values.vocabulary:
        common.start_jax()
        print("\n".join(common.load_model(values.model).vocabulary()))
        return
    print(f"im3d {im3d_jax.__version__}, Python {platform.python_version()}, {platform.platform()}")
    _print_versions()
    common.start_jax()
    _print_devices()
    print(f"compiled programs: {common.compilation_cache()}")
    _print_weights(values.model)


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

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    print(f"memory: {pages / 2**30:.1f} GiB, {os.cpu_count()} CPU cores")
    for device in jax.devices():
        # The CPU's device has no statistics of its own.
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        print(f"device {device.id}: {device.platform} {device.device_kind}{memory}")


def _print_weights(model: str) -> None:
    from im3d_jax.weights import BUNDLED

    folder = BUNDLED if model == "tiny" else pathlib.Path(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder.is_dir() else []
    print(f"weights of {model}: {'' if files else 'MISSING, expected '}in {folder}")
    for file in files:
        print(f"  {file.name}: {file.stat().st_size / 2**20:.1f} MiB")
    if not files and model == "tiny":
        print("  they ship with the program: install it again from a complete checkout (pip install -e .)")
    try:
        common.load_model(model)
        print("  complete: they load")
    except common.UserError as error:
        print(f"  NOT usable: {error}")
    print("other weights: put a model's files into one folder anywhere and give it as --model=FOLDER")
