"""The process: versions of the packages in use, the cache of compiled programs, and the start of JAX."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
from collections.abc import Sequence

from im3d_jax.errors import InputError
from im3d_jax.version import __version__


# Packages whose versions decide the bytes of a result.
RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "av")


def versions(packages: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """{package: installed version}, this project's first."""
    return {"im3d_jax": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def compilation_cache() -> str | None:
    """Folder of compiled programs: `JAX_COMPILATION_CACHE_DIR`, `IM3D_COMPILATION_CACHE_DIR`, or the user's cache.

    Returns:
        The folder, which is made, or the address of a remote one (``gs://``), as it is; None where it cannot be
        written, or where there is no home folder, as in containers whose user has no name.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("IM3D_COMPILATION_CACHE_DIR")
    if given and "://" in given:
        return given
    try:
        if given:
            folder = pathlib.Path(given).expanduser()
        else:
            user_cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
            folder = pathlib.Path(user_cache) / "im3d" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else None


def start_jax() -> None:
    """Imports JAX, turns the persistent compilation cache on, and finds the devices.

    Raises:
        InputError: JAX finds no device of the platform that `JAX_PLATFORMS` names.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", compilation_cache())
    # The hundreds of small programs of a run take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"jax finds no device ({reason}); check JAX_PLATFORMS and the driver") from error
